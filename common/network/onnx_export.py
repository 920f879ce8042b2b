"""Export networks to ONNX, for denoising without PyTorch (common.network.exported) and for other runtimes.

    python -m common.network.onnx_export                                  all pretrained weights that changed
    python -m common.network.onnx_export Weights/best.pth best.onnx       one weights file

A file holds the mask network: spectrum planes in, mask planes out, without the transforms. Its metadata tell the rest.
"""

import copy
import json
import logging
import warnings
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from common.cli import Parser, run
from common.errors import CallError
from common.network.checkpoints import load_weights
from common.network.confidence import FEATURE_MODELS
from common.network.dcunet import FREQUENCY, SLOPE, TIME, ComplexConv2d, ComplexLayer, Row, convolve
from common.network.exported import SETTINGS_KEY, ExportedModel
from common.network.inference import FoldedLayer, with_layers
from common.network.model import Denoiser
from common.network.weights_files import exported_file, find_weights, pretrained_names
from common.path_checks import check_outputs

log = logging.getLogger(__name__)


def convolve_transposed(planes: torch.Tensor, kernel: torch.Tensor, row: Row) -> torch.Tensor:
    """A transposed convolution as a convolution, whose further channels are the positions between two strides.

    onnxruntime would hold every product of a transposed convolution: for `white` 4.0 GB instead of 2.4 GB.
    """
    steps = [-(-size // stride) for size, stride in zip(row.kernel, row.stride, strict=True)]
    # What is left over at the end, along either axis.
    rest = [n * stride - size + padding - more for n, size, stride, padding, more in zip(steps, *row, strict=True)]
    missing = [n * stride - size for n, size, stride in zip(steps, row.kernel, row.stride, strict=True)]
    (f, t), (stride_f, stride_t) = steps, row.stride
    kernel = F.pad(kernel, (0, missing[TIME], 0, missing[FREQUENCY]))
    kernel = kernel.unflatten(3, (t, stride_t)).unflatten(2, (f, stride_f)).flip(2, 4)
    kernel = kernel.permute(1, 3, 5, 0, 2, 4).flatten(0, 2)
    planes = F.conv2d(planes, kernel, padding=(f - 1, t - 1)).unflatten(1, (-1, stride_f, stride_t))
    planes = planes.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
    (start_f, start_t), (end_f, end_t) = row.padding, (-n or None for n in rest)
    return planes[:, :, start_f:end_f, start_t:end_t]


class StoredLayer(nn.Module):
    """A folded layer that holds what a weights file does: half-precision weights, each one once.

    The float32 kernel is made of them in the graph. Runtimes do that when they load the file, not for every input.
    """

    def __init__(self, layer: ComplexLayer | ComplexConv2d):
        super().__init__()
        folded = FoldedLayer(layer, torch.float32)
        self.conv, self.activated = copy.deepcopy(getattr(layer, "conv", layer)).half(), folded.activated
        self.register_buffer("bias", folded.bias)
        if self.activated:
            scale = layer.norm.weight * (layer.norm.running_var + layer.norm.eps).rsqrt()
            shape = (1, -1, 1, 1) if self.conv.transposed else (-1, 1, 1, 1)
            self.register_buffer("scale", scale.detach().view(shape))

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Compute the same planes as the original layer in evaluation mode."""
        kernel = self.conv.kernel().float()
        kernel = kernel * self.scale if self.activated else kernel
        if self.conv.transposed:
            planes = convolve_transposed(planes, kernel, self.conv.row) + self.bias.view(-1, 1, 1)
        else:
            planes = convolve(planes, kernel, self.bias, self.conv.row, transposed=False)
        return F.leaky_relu(planes, SLOPE) if self.activated else planes


class AnyFrames(nn.Module):
    """The mask network of StoredLayers, with padding computed by arithmetic that an exporter can keep symbolic.

    Shape: (batch, 2 * inputs, bins, frames) -> (batch, 2, bins, frames) for any batch and number of frames; inputs is 2
    for a network that takes a noise print, 1 for others. An input of up to `least_frames` (at most 1.1 s) is padded
    with zeros to that length. The mask of a longer one is the denoiser's own.
    """

    def __init__(self, model: Denoiser):
        super().__init__()
        plan = model.network.plan
        self.network = with_layers(model.network, StoredLayer)
        self.n_bins, self.stride = model.stft.n_bins, plan.time_stride
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


def export_settings(model: Denoiser) -> dict:
    """What common.network.exported must know of a model besides its network, as plain values."""
    return {"stft": asdict(model.stft), "takes_print": model.takes_print,
            "compression": float(model.network.compression), "time_stride": model.time_stride,
            "context_frames": model.context_frames} | {
            name: values and {key: array.tolist() for key, array in vars(values).items()}
            for name in FEATURE_MODELS for values in [getattr(model, name)]}


def export_onnx(model: Denoiser, path: str | Path, weights_sha256: str | None = None) -> None:
    """Write an ONNX file with the input `planes` and the output `mask`, for any batch and number of frames.

    weights_sha256: hash of the weights file that the model comes from, for the metadata.
    """
    exportable, path = AnyFrames(model).eval(), Path(path)
    example = torch.zeros(2, 2 * model.network.plan.inputs, model.stft.n_bins, exportable.least_frames + 5)
    sizes = {0: Dim("batch", min=1, max=64), 3: Dim("frames", min=1, max=1 << 20)}
    program = torch.onnx.export(exportable, (example,), input_names=["planes"], output_names=["mask"],
                                dynamic_shapes=(sizes,), dynamo=True, optimize=False, verbose=False)
    content = program.model_proto
    for node in content.graph.node:  # the exporter notes the lines of code that a node comes from
        node.ClearField("metadata_props")
    settings = export_settings(model) | {"weights_sha256": weights_sha256}
    onnx.helper.set_model_props(content, {SETTINGS_KEY: json.dumps(settings)})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        onnx.save(content, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def export_file(weights: Path, output: Path) -> None:
    """Export a weights file unless `output` was made of it before."""
    digest = sha256(weights.read_bytes()).hexdigest()
    if output.is_file() and ExportedModel(output).weights_sha256 == digest:
        return
    export_onnx(load_weights(weights)[0], output, digest)
    log.info("%s: exported, %.1f MB", output, output.stat().st_size / 1e6)


def main():
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("model", nargs="?", help="a .pth file, or a name from pretrained_weights; all of these if left "
                        "out")
    parser.add_argument("output", nargs="?", help="the ONNX file to write")
    args = parser.parse_args()
    for name in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)  # these libraries log every step
    warnings.simplefilter("ignore", FutureWarning)  # of PyTorch about its own calls
    if args.model is None:
        for weights in map(find_weights, pretrained_names()):
            export_file(weights, exported_file(weights))
    elif args.output is None:
        raise CallError(f"expected the ONNX file to write, got only {args.model}: add its name")
    else:
        weights = find_weights(args.model)
        check_outputs([(args.output, "the ONNX file")], [weights])
        export_file(weights, Path(args.output))


if __name__ == "__main__":
    run(main)
