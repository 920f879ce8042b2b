"""Export the mask network to ONNX for other runtimes: spectrum planes in, mask planes out, without the transforms.

Example: python -m common.network.onnx_export Weights/best.pth mask.onnx
"""

import logging
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from common.cli import Parser, run
from common.network.checkpoints import find_weights, load_weights
from common.network.dcunet import FREQUENCY
from common.network.inference import folded_network
from common.network.model import Denoiser
from common.path_checks import check_outputs

log = logging.getLogger(__name__)


class AnyFrames(nn.Module):
    """The folded mask network, with padding computed by arithmetic that an exporter can keep symbolic.

    Shape: (batch, 2 * inputs, bins, frames) -> (batch, 2, bins, frames) for any batch and number of frames; inputs is 2
    for a network that takes a noise print, 1 for others. An input of up to `least_frames` (at most 1.1 s) is padded
    with zeros to that length. The mask of a longer one is the denoiser's own.
    """

    def __init__(self, model: Denoiser):
        super().__init__()
        plan = model.network.plan
        self.network, self.n_bins, self.stride = folded_network(model.network), model.stft.n_bins, plan.time_stride
        self.fill = plan.valid_length(self.n_bins, FREQUENCY) - self.n_bins
        # The fewest frames that fit the strides and leave more than one frame in the innermost layer: an exporter would
        # take a size of one for a constant.
        self.least_frames = plan.valid_length(1) + self.stride

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Compute the mask, see the class."""
        frames, offset = planes.shape[-1], self.least_frames % self.stride
        # Valid lengths are offset + steps * stride.
        steps = (torch.sym_max(frames, self.least_frames) - offset + self.stride - 1) // self.stride
        # Frames are selected by index: for a slice an exporter would have to prove that it is not too long.
        planes = F.pad(planes, (0, self.least_frames + self.stride, 0, self.fill))
        planes = planes.index_select(3, torch.arange(steps * self.stride + offset, device=planes.device))
        mask = self.network.fitting(planes)[:, :, : self.n_bins]
        return mask.index_select(3, torch.arange(frames, device=planes.device))


def export_onnx(model: Denoiser, path: str | Path) -> None:
    """Write an ONNX file with the input `planes` and the output `mask`, for any batch and number of frames."""
    exportable, path = AnyFrames(model).eval(), Path(path)
    example = torch.zeros(2, 2 * model.network.plan.inputs, model.stft.n_bins, exportable.least_frames + 5)
    sizes = {0: Dim("batch", min=1, max=64), 3: Dim("frames", min=1, max=1 << 20)}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        torch.onnx.export(exportable, (example,), str(temporary), input_names=["planes"], output_names=["mask"],
                          dynamic_shapes=(sizes,), dynamo=True, external_data=False, verbose=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def main():
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("model", help="a .pth file, or a name from pretrained_weights")
    parser.add_argument("output", help="the ONNX file to write")
    args = parser.parse_args()
    for name in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)  # these libraries log every step
    check_outputs([(args.output, "the ONNX file")], [find_weights(args.model)])
    model, _ = load_weights(args.model)
    export_onnx(model, args.output)
    log.info("%s: planes of shape (batch, %d, %d, frames) to a mask of shape (batch, 2, %d, frames); transforms: %s",
             args.output, 2 * model.network.plan.inputs, model.stft.n_bins, model.stft.n_bins, model.stft)


if __name__ == "__main__":
    run(main)
