"""The 20-layer Deep Complex U-Net as a table of rows, and its bounded complex mask.

Complex tensors travel as planes: (batch, 2 * channels, bins, frames), first all real parts, then all
imaginary parts. A complex convolution is then one real convolution with the kernel
[[re, -im], [im, re]], which is what makes it fast.

References: Choi et al. 2019 (the network and the mask), Trabelsi et al. 2018 (complex layers),
Kashyap et al. 2021 (this table).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from common.errors import UserError


class Row(NamedTuple):
    """One complex layer; pairs are (frequency, time). `channels` is in multiples of the width."""

    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    output_padding: tuple[int, int] = (0, 0)


ENCODER = (
    Row(1, (7, 1), (1, 1), (3, 0)),
    Row(1, (1, 7), (1, 1), (0, 3)),
    Row(2, (6, 4), (2, 2)),
    Row(2, (7, 5), (2, 1)),
    Row(2, (5, 3), (2, 2)),
    Row(2, (5, 3), (2, 1)),
    Row(2, (5, 3), (2, 2)),
    Row(2, (5, 3), (2, 1)),
    Row(2, (5, 3), (2, 2), (2, 0)),
    Row(4, (5, 3), (2, 1)),
)
# Decoder k > 0 reads decoder k-1 and encoder 9-k, one after the other. The last row's single output
# channel (0 stands for it) is the mask.
DECODER = (
    Row(2, (6, 3), (2, 1)),
    Row(2, (3, 3), (2, 2), (1, 0), (1, 0)),
    Row(2, (6, 3), (2, 1)),
    Row(2, (6, 3), (2, 2)),
    Row(2, (6, 3), (2, 1)),
    Row(2, (6, 4), (2, 2)),
    Row(2, (8, 5), (2, 1)),
    Row(1, (7, 5), (2, 2)),
    Row(1, (1, 7), (1, 1), (0, 3)),
    Row(0, (7, 1), (1, 1), (3, 0)),
)
FREQUENCY, TIME = 0, 1
# Slope of the leaky ReLU below zero.
SLOPE = 0.01
# Frames between two inputs that the strides treat alike: a chunk that starts on a multiple of it sees
# the same grid as the whole signal.
TIME_STRIDE = math.prod(row.stride[TIME] for row in ENCODER)


def layer_sizes(n: int, axis: int) -> list[int]:
    """Sizes along `axis` of the input and after each of the 20 rows; 0 where nothing is left."""
    sizes = [n]
    for row in ENCODER:
        sizes.append(max(0, (sizes[-1] + 2 * row.padding[axis] - row.kernel[axis]) // row.stride[axis] + 1))
    for row in DECODER:
        sizes.append((sizes[-1] - 1) * row.stride[axis] - 2 * row.padding[axis] + row.kernel[axis]
                     + row.output_padding[axis])
    return sizes


def valid_length(n: int, axis: int = TIME) -> int:
    """The smallest length >= n that the table maps onto itself along `axis` (TIME: 16k+3 frames)."""
    while True:
        sizes = layer_sizes(n, axis)
        # Decoder k > 0 and encoder 9-k must fit together, and the mask must fit the input.
        if min(sizes) > 0 and sizes[20] == n and sizes[11:20] == sizes[9:0:-1]:
            return n
        n += 1


def context_frames() -> int:
    """Frames on either side beyond which the input cannot change an output frame.

    Strided layers without padding look ahead in the encoder as far as their transposes look back in
    the decoder, so that the receptive field is centred; its half is rounded up to TIME_STRIDE.
    """
    reach, jump = 0, 1
    for row in ENCODER:
        reach += (row.kernel[TIME] - 1) * jump
        jump *= row.stride[TIME]
    for row in DECODER:
        jump //= row.stride[TIME]
        reach += (row.kernel[TIME] - 1) * jump
    return -(-(reach + 1) // 2 // TIME_STRIDE) * TIME_STRIDE


def convolve(planes: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor, row: Row,
             transposed: bool) -> torch.Tensor:
    """One row of the table with a real kernel on planes, or with `transposed` its transpose."""
    if not transposed:
        return F.conv2d(planes, kernel, bias, row.stride, row.padding)
    # Apart, since with a bias a transpose in bfloat16 takes five times as long on a processor.
    made = F.conv_transpose2d(planes, kernel, None, row.stride, row.padding, row.output_padding)
    # Repeated over the frames it lies like the planes, channels-last or not, and is added in long runs.
    lies = torch.channels_last if made.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    bias = bias.to(made.dtype).view(1, -1, 1, 1).expand(1, -1, 1, made.shape[-1])
    return made.add_(bias.contiguous(memory_format=lies))


class _Join(torch.autograd.Function):
    """torch.cat over channels whose gradients are whole again: views of channels-last gradients are slow everywhere."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.channels, ctx.layout = (a.shape[1], b.shape[1]), layout(a)
        return torch.cat([a, b], 1)

    @staticmethod
    def backward(ctx, gradient):
        return tuple(part.contiguous(memory_format=ctx.layout) for part in gradient.split(ctx.channels, 1))


def join(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The planes of two inputs of a layer, whole inputs one after the other, so that they keep their layout."""
    return _Join.apply(a, b) if torch.is_grad_enabled() else torch.cat([a, b], 1)


def layout(planes: torch.Tensor) -> torch.memory_format:
    """Channels-last where matrix units want it: on CUDA, and in bfloat16 on processors (in float32 it slows them)."""
    matrix_units = planes.is_cuda or torch.is_autocast_enabled("cpu")
    return torch.channels_last if matrix_units else torch.contiguous_format


def real_kernel(re: torch.Tensor, im: torch.Tensor, transposed: bool) -> torch.Tensor:
    """The real kernel [[re, -im], [im, re]] that computes a complex product on planes.

    re, im: (out, in, bins, frames), or with `transposed` (in, out, bins, frames); the result is twice as long in both.
    """
    out_dim = 1 if transposed else 0
    return torch.cat([torch.cat([re, im], out_dim), torch.cat([-im, re], out_dim)], 1 - out_dim)


class ComplexConv2d(nn.Module):
    """A complex convolution, or with `transposed` its transpose, on planes.

    in_channels: complex channels of each input; their planes lie one input after the other.
    Shape: (batch, 2 * sum(in_channels), bins, frames) -> (batch, 2 * out_channels, ...).
    The kernel's parts are kept apart, as `weight_real` and `weight_imag`, so that a weights file does
    not depend on how the product is computed.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, row: Row, transposed: bool = False):
        super().__init__()
        shape = (sum(in_channels), out_channels) if transposed else (out_channels, sum(in_channels))
        self.row, self.transposed, self.in_channels = row, transposed, tuple(in_channels)
        self.weight_real = nn.Parameter(torch.empty(*shape, *row.kernel))
        self.weight_imag = nn.Parameter(torch.empty(*shape, *row.kernel))
        self.bias = nn.Parameter(torch.zeros(2 * out_channels))
        # Glorot and Bengio 2010, with half the variance in either part (Trabelsi et al. 2018).
        for weight in (self.weight_real, self.weight_imag):
            nn.init.xavier_normal_(weight, gain=2**-0.5)

    def kernel(self) -> torch.Tensor:
        """The real kernel for the planes of all inputs, see real_kernel."""
        in_dim = 0 if self.transposed else 1
        parts = (w.split(self.in_channels, in_dim) for w in (self.weight_real, self.weight_imag))
        return torch.cat([real_kernel(re, im, self.transposed) for re, im in zip(*parts, strict=True)], in_dim)

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        # The kernel too, since planes of one bin and frame, as the innermost may be, have either layout and keep none.
        kernel = self.kernel().contiguous(memory_format=layout(planes))
        return convolve(planes, kernel, self.bias, self.row, self.transposed)


class ComplexLayer(nn.Module):
    """Complex convolution, batch norm of either part on its own, leaky ReLU."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, row: Row, transposed: bool = False):
        super().__init__()
        self.conv = ComplexConv2d(in_channels, out_channels, row, transposed)
        self.norm = nn.BatchNorm2d(2 * out_channels)

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift per plane, float64, that stand for the bias and the norm in evaluation mode."""
        norm = self.norm
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        return scale, norm.bias.double() + scale * (self.conv.bias.double() - norm.running_mean.double())

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(self.norm(self.conv(planes)), SLOPE, inplace=True)


def bounded_mask(planes: torch.Tensor) -> torch.Tensor:
    """The mask tanh(|O|) * O / |O| of Choi et al. 2019; planes (batch, 2, bins, frames) in and out."""
    # The epsilon keeps the gradient of |O| finite at O = 0, where the mask is 0 anyway.
    magnitude = planes.square().sum(1, keepdim=True).add(1e-12).sqrt()
    return planes * (torch.tanh(magnitude) / magnitude)


def _complex_product(mask, spectrum):
    return torch.complex(mask[:, 0], mask[:, 1]) * spectrum


def _elementwise_product(mask, spectrum):
    return torch.complex(mask[:, 0] * spectrum.real, mask[:, 1] * spectrum.imag)


# What mask planes (batch, 2, bins, frames) make of a complex spectrum (batch, bins, frames). "elementwise", real part
# by real part, is what some earlier networks do; it cannot turn a phase and is here to be compared with.
PRODUCTS = {"complex": _complex_product, "elementwise": _elementwise_product}


class DCUNet20(nn.Module):
    """DCUNet-20: spectrum planes in, bounded complex mask out.

    Args: width (complex channels of the first layer; 32 in the literature); product (a name in PRODUCTS: how the mask
    is to be multiplied with the spectrum).
    Shape: (batch, 2, bins, frames) -> (batch, 2, bins, frames), any number of bins and frames: the
    input is padded with zeros to sizes that fit the strides and the mask is cropped back.
    """

    def __init__(self, width: int = 32, product: str = "complex"):
        super().__init__()
        if not isinstance(width, int) or width < 1:
            raise UserError(f"expected a network width of at least 1, got {width!r}: choose for example 8 or 32")
        if product not in PRODUCTS:
            raise UserError(f"expected a product of mask and spectrum among {', '.join(PRODUCTS)}, got {product!r}")
        self.width, self.product = width, product
        channels = [1] + [row.channels * width for row in ENCODER]
        self.encoder = nn.ModuleList(
            ComplexLayer([channels[k]], channels[k + 1], row) for k, row in enumerate(ENCODER))
        self.decoder = nn.ModuleList()
        previous = channels[-1]
        for k, row in enumerate(DECODER[:-1]):
            sources = [previous, channels[10 - k]] if k else [previous]
            self.decoder.append(ComplexLayer(sources, row.channels * width, row, transposed=True))
            previous = row.channels * width
        self.mask = ComplexConv2d([previous, channels[1]], 1, DECODER[-1], transposed=True)

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Spectrum planes to mask planes, both (batch, 2, bins, frames)."""
        bins, frames = planes.shape[-2:]
        # At the end only: a pad at the start would move the grid of the strides.
        x = F.pad(planes, (0, valid_length(frames, TIME) - frames, 0, valid_length(bins, FREQUENCY) - bins))
        return self.fitting(x.contiguous(memory_format=layout(x)))[..., :bins, :frames]

    def fitting(self, planes: torch.Tensor) -> torch.Tensor:
        """forward() for planes whose bins and frames fit the strides (see valid_length)."""
        x, skips = planes, []
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        skips.pop()
        for k, layer in enumerate(self.decoder):
            x = layer(join(x, skips.pop()) if k else x)
        mask = self.mask(join(x, skips.pop()))
        return bounded_mask(mask.to(torch.promote_types(mask.dtype, torch.float32)))
