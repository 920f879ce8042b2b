"""The mask network for other runtimes: spectrum planes in, mask planes out. The transforms stay outside."""

import logging
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from common.cli import Parser, run
from common.network.checkpoints import find_weights, load_weights
from common.network.dcunet import FREQUENCY
from common.network.inference import folded_network
from common.network.model import Denoiser
from common.outputs import check_outputs

log = logging.getLogger(__name__)

class AnyFrames(nn.Module):
    """A denoiser's mask: the network, folded, with padding as arithmetic that an exporter can keep symbolic.

    Shape: (batch, 2 * inputs, bins, frames) -> (batch, 2, bins, frames), any batch and number of frames; inputs is 2
    for a network that takes a noise print, else 1. Up to `least_frames` (1.1 s or less) are taken as continued by
    silence for as long as that; with more, the mask is the denoiser's own.
    """

    def __init__(self, model: Denoiser):
        super().__init__()
        plan = model.network.plan
        self.network, self.n_bins, self.stride = folded_network(model.network), model.stft.n_bins, plan.time_stride
        self.fill = plan.valid_length(self.n_bins, FREQUENCY) - self.n_bins
        # The fewest frames that fit the strides and leave more than one at the bottom, where an exporter would take a
        # size of one for a constant.
        self.least_frames = plan.valid_length(1) + self.stride

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """See the class."""
        frames, offset = planes.shape[-1], self.least_frames % self.stride
        # Steps of the stride beyond the offset.
        steps = (torch.sym_max(frames, self.least_frames) - offset + self.stride - 1) // self.stride
        # Frames are chosen by index, since a slice would have the exporter prove that it is not too long.
        planes = F.pad(planes, (0, self.least_frames + self.stride, 0, self.fill))
        planes = planes.index_select(3, torch.arange(steps * self.stride + offset, device=planes.device))
        mask = self.network.fitting(planes)[:, :, : self.n_bins]
        return mask.index_select(3, torch.arange(frames, device=planes.device))


def _example(model):
    batch, frames = Dim("batch", min=1, max=64), Dim("frames", min=1, max=1 << 20)
    example = torch.zeros(2, 2 * model.network.plan.inputs, model.stft.n_bins, AnyFrames(model).least_frames + 5)
    return example, {0: batch, 3: frames}


def export_program(model: Denoiser) -> ExportedProgram:
    """The network through torch.export, for any batch and number of frames."""
    planes, dynamic = _example(model)
    return torch.export.export(AnyFrames(model).eval(), (planes,), dynamic_shapes=(dynamic,))


def export_onnx(model: Denoiser, path: str | Path) -> None:
    """An ONNX file with the input `planes` and the output `mask`, for any batch and number of frames."""
    planes, dynamic = _example(model)
    temporary = Path(path).with_name(f".{Path(path).name}.tmp")
    try:
        torch.onnx.export(AnyFrames(model).eval(), (planes,), str(temporary), input_names=["planes"],
                          output_names=["mask"], dynamic_shapes=(dynamic,), dynamo=True, external_data=False,
                          verbose=False)
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
        logging.getLogger(name).setLevel(logging.ERROR)  # they tell of every step
    check_outputs([(args.output, "the ONNX file")], [find_weights(args.model)])
    model, _ = load_weights(args.model)
    export_onnx(model, args.output)
    log.info("%s: planes of shape (batch, %d, %d, frames) to a mask of shape (batch, 2, %d, frames); transforms: %s",
             args.output, 2 * model.network.plan.inputs, model.stft.n_bins, model.stft.n_bins, model.stft)


if __name__ == "__main__":
    run(main)
