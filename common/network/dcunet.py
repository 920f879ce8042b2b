"""The 20-layer Deep Complex U-Net as a table of rows, and its bounded complex mask.

Complex tensors travel as planes: (batch, 2 * channels, bins, frames), first all real parts of an input, then all its
imaginary parts; several inputs lie one after the other. A complex convolution is then one real convolution with the
kernel [[re, -im], [im, re]], which is what makes it fast.

Two plans of ten and ten rows:

* `folded` (the default). In the literature's table four fifths of all operations are five layers at the full frequency
  resolution. Here the first row folds four neighbouring bins into one position and the last one unfolds them, channels
  grow inwards, and the decoder is the mirror of the encoder. Its second input is the spectrum as a noise print leaves
  it (common.network.noise_print). After the channel-wise sub-bands of Liu et al. 2020.
* `literature`. The table of Kashyap et al. 2021, with one input.

References: Choi et al. 2019 (the network and the mask), Trabelsi et al. 2018 (complex layers), Kashyap et al. 2021,
Liu et al. 2020 (Channel-wise subband input for better voice and accompaniment separation).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from common.errors import UserError

FREQUENCY, TIME = 0, 1
# Slope of the leaky ReLU below zero.
SLOPE = 0.01


class Row(NamedTuple):
    """One complex layer; pairs are (frequency, time)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    output_padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Plan:
    """Ten encoder rows and ten decoder rows.

    Decoder row k > 0 reads decoder row k-1 and encoder row 9-k. It has as many channels as the input of encoder row
    9-k; the last one gives the mask. depth_factors: channels of each encoder row, in multiples of the width. inputs:
    complex spectra that the first row reads.
    """

    encoder: tuple[Row, ...]
    decoder: tuple[Row, ...]
    depth_factors: tuple[int, ...]
    inputs: int

    @property
    def time_stride(self) -> int:
        """Frames between two inputs that the strides treat alike.

        A chunk that starts on a multiple of it sees the same grid as the whole signal.
        """
        return math.prod(row.stride[TIME] for row in self.encoder)

    def layer_sizes(self, n: int, axis: int) -> list[int]:
        """Sizes along `axis` of the input and after each of the 20 rows; 0 where nothing is left."""
        sizes = [n]
        for row in self.encoder:
            sizes.append(max(0, (sizes[-1] + 2 * row.padding[axis] - row.kernel[axis]) // row.stride[axis] + 1))
        for row in self.decoder:
            sizes.append((sizes[-1] - 1) * row.stride[axis] - 2 * row.padding[axis] + row.kernel[axis]
                         + row.output_padding[axis])
        return sizes

    def valid_length(self, n: int, axis: int = TIME) -> int:
        """The smallest length >= n that the rows map onto itself along `axis`."""
        while True:
            sizes = self.layer_sizes(n, axis)
            # Decoder k > 0 and encoder 9-k must fit together, and the mask must fit the input.
            if min(sizes) > 0 and sizes[20] == n and sizes[11:20] == sizes[9:0:-1]:
                return n
            n += 1

    def context_frames(self) -> int:
        """Frames on either side beyond which the input cannot change an output frame.

        The decoder looks back as far as the encoder looks ahead, so that the receptive field is centred; its half is
        rounded up to time_stride.
        """
        reach, jump = 0, 1
        for row in self.encoder:
            reach += (row.kernel[TIME] - 1) * jump
            jump *= row.stride[TIME]
        for row in self.decoder:
            jump //= row.stride[TIME]
            reach += (row.kernel[TIME] - 1) * jump
        return -(-(reach + 1) // 2 // self.time_stride) * self.time_stride


_FOLDED = (
    Row((8, 1), (4, 1), (2, 0)),
    Row((1, 7), (1, 1), (0, 3)),
    *(Row((6, 4), (2, 2), (2, 1)), Row((6, 3), (2, 1), (2, 1))) * 4,
)
# 1024 bins fold into 256 positions. The last of these sees the Nyquist bin too; the mirror gives it by output padding.
_UNFOLDING = (*_FOLDED[:0:-1], _FOLDED[0]._replace(output_padding=(1, 0)))
FOLDED, LITERATURE = "folded", "literature"
PLANS = {
    FOLDED: Plan(_FOLDED, _UNFOLDING, (1, 1, 2, 2, 2, 2, 3, 3, 3, 3), inputs=2),
    LITERATURE: Plan(
        (
            Row((7, 1), (1, 1), (3, 0)),
            Row((1, 7), (1, 1), (0, 3)),
            Row((6, 4), (2, 2)),
            Row((7, 5), (2, 1)),
            Row((5, 3), (2, 2)),
            Row((5, 3), (2, 1)),
            Row((5, 3), (2, 2)),
            Row((5, 3), (2, 1)),
            Row((5, 3), (2, 2), (2, 0)),
            Row((5, 3), (2, 1)),
        ),
        (
            Row((6, 3), (2, 1)),
            Row((3, 3), (2, 2), (1, 0), (1, 0)),
            Row((6, 3), (2, 1)),
            Row((6, 3), (2, 2)),
            Row((6, 3), (2, 1)),
            Row((6, 4), (2, 2)),
            Row((8, 5), (2, 1)),
            Row((7, 5), (2, 2)),
            Row((1, 7), (1, 1), (0, 3)),
            Row((7, 1), (1, 1), (3, 0)),
        ),
        (1, 1, 2, 2, 2, 2, 2, 2, 2, 4),
        inputs=1,
    ),
}


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


class DCUNet20(nn.Module):
    """DCUNet-20: spectrum planes in, bounded complex mask out.

    Args: width (complex channels of the first layer); plan (a name in PLANS); depth_factors (channels of each encoder
    layer in multiples of the width, the plan's own if left out).
    Shape: (batch, 2 * inputs, bins, frames) -> (batch, 2, bins, frames), any number of bins and frames: the input is
    padded with zeros to sizes that fit the strides and the mask is cropped back.
    """

    def __init__(self, width: int, plan: str = FOLDED, depth_factors: Sequence[int] | None = None):
        super().__init__()
        if not isinstance(width, int) or width < 1:
            raise UserError(f"expected a network width of at least 1, got {width!r}: choose for example 8 or 16")
        if plan not in PLANS:
            raise UserError(f"expected a network plan among {', '.join(PLANS)}, got {plan!r}")
        self.width, self.plan_name, self.plan = width, plan, PLANS[plan]
        self.depth_factors = tuple(depth_factors or self.plan.depth_factors)
        if len(self.depth_factors) != 10 or min(self.depth_factors) < 1:
            raise UserError(f"expected ten depth factors of at least 1, got {self.depth_factors}")
        channels = [factor * width for factor in self.depth_factors]
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        sources = [1] * self.plan.inputs
        for row, out in zip(self.plan.encoder, channels, strict=True):
            self.encoder.append(ComplexLayer(sources, out, row))
            sources = [out]
        for k, row in enumerate(self.plan.decoder[:-1]):
            out = channels[8 - k]
            self.decoder.append(ComplexLayer(sources, out, row, transposed=True))
            sources = [out, out]  # its own and, of as many channels, the encoder's
        self.mask = ComplexConv2d(sources, 1, self.plan.decoder[-1], transposed=True)

    def settings(self) -> dict:
        """What rebuilds the network, as plain values."""
        return {"width": self.width, "plan": self.plan_name, "depth_factors": list(self.depth_factors)}

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Spectrum planes (batch, 2 * inputs, bins, frames) to mask planes (batch, 2, bins, frames)."""
        bins, frames = planes.shape[-2:]
        n_bins, n_frames = self.plan.valid_length(bins, FREQUENCY), self.plan.valid_length(frames, TIME)
        # At the end only: a pad at the start would move the grid of the strides.
        x = F.pad(planes, (0, n_frames - frames, 0, n_bins - bins))
        return self.fitting(x.contiguous(memory_format=layout(x)))[..., :bins, :frames]

    def fitting(self, planes: torch.Tensor) -> torch.Tensor:
        """forward() for planes whose bins and frames fit the strides (see Plan.valid_length)."""
        x, skips = planes, []
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        skips.pop()
        for k, layer in enumerate(self.decoder):
            x = layer(join(x, skips.pop()) if k else x)
        mask = self.mask(join(x, skips.pop()))
        return bounded_mask(mask.to(torch.promote_types(mask.dtype, torch.float32)))
