"""The network's inference form: batch norm is folded into kernels that are built once, in the fastest precision."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_weights

from common.errors import CallError
from common.network.confidence import FEATURE_MODELS
from common.network.dcunet import SLOPE, ComplexConv2d, ComplexLayer, DCUNet20, convolve
from common.network.model import Denoiser, computes_bfloat16_fast
from common.network.noise_model import DEVICES, PRECISIONS


class FoldedLayer(nn.Module):
    """A layer, or the bare convolution of the mask, as one real convolution in `dtype` and channels-last."""

    def __init__(self, layer: ComplexLayer | ComplexConv2d, dtype: torch.dtype):
        super().__init__()
        conv = getattr(layer, "conv", layer)
        self.row, self.transposed, self.activated = conv.row, conv.transposed, conv is not layer
        with torch.no_grad():
            kernel, bias = conv.kernel().double(), conv.bias.double()
            if self.activated:
                norm = copy.deepcopy(layer.norm).double()
                kernel, bias = fuse_conv_bn_weights(kernel, bias, norm.running_mean, norm.running_var, norm.eps,
                                                    norm.weight, norm.bias, transpose=conv.transposed)
        self.register_buffer("kernel", kernel.to(dtype, memory_format=torch.channels_last))
        self.register_buffer("bias", bias.to(dtype))

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Compute the same planes as the original layer in evaluation mode."""
        planes = planes.to(self.kernel.dtype, memory_format=torch.channels_last)
        planes = convolve(planes, self.kernel, self.bias, self.row, self.transposed)
        return F.leaky_relu(planes, SLOPE) if self.activated else planes


def with_layers(network: DCUNet20, make: Callable[[ComplexLayer | ComplexConv2d], nn.Module]) -> DCUNet20:
    """A copy of the network for inference with layers that `make` makes of its own."""
    changed = copy.deepcopy(network).eval()
    changed.encoder = nn.ModuleList(map(make, network.encoder))
    changed.decoder = nn.ModuleList(map(make, network.decoder))
    changed.mask = make(network.mask)
    return changed


def folded_network(network: DCUNet20, dtype: torch.dtype = torch.float32) -> DCUNet20:
    """A copy of the network without batch norm, for inference; the mask stays float32."""
    return with_layers(network, partial(FoldedLayer, dtype=dtype))


def choose_device(name: str = "auto") -> str:
    """Turn one of DEVICES into cpu or cuda; raises CallError if there is no such GPU."""
    if name not in DEVICES:
        raise CallError(f"expected a device among {', '.join(DEVICES)}, got {name!r}: choose one of them")
    if name == "cuda" and not torch.cuda.is_available():
        raise CallError("expected a CUDA device, but this machine offers none: use auto or cpu")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def inference_form(model: Denoiser, device: str = "auto", precision: str = "auto") -> Denoiser:
    """A copy of a trained denoiser for inference only, on `device`.

    precision: float32 (equal to the training form to 1e-5), bfloat16 (to 40 dB), or auto: bfloat16 if the device
    computes it faster. Raises CallError for another name or a device that does not exist.
    """
    if precision not in PRECISIONS:
        raise CallError(f"expected a precision among {', '.join(PRECISIONS)}, got {precision!r}: choose one of them")
    device = choose_device(device)
    if precision == "auto":
        precision = "bfloat16" if computes_bfloat16_fast(device) else "float32"
    network = folded_network(copy.deepcopy(model.network).cpu(), getattr(torch, precision))
    kept = {name: getattr(model, name) for name in FEATURE_MODELS}
    return Denoiser(network, model.stft, **kept).eval().to(device)
