"""The 20-layer Deep Complex U-Net as a table of rows, and its bounded complex mask.

Complex tensors are stored as planes, (batch, 2 * channels, bins, frames): first all real parts of an input, then all
its imaginary parts. Several inputs follow each other. A complex convolution is then one fast real convolution with the
kernel [[re, -im], [im, re]].

There are two plans. `literature` is the table of Kashyap et al. 2021, with one input; four fifths of its operations are
in five layers at the full frequency resolution. In `folded`, the default, the first row therefore folds four
neighbouring bins into one position and the last row unfolds them (after the channel-wise sub-bands of Liu et al. 2020),
deeper layers have more channels, and the decoder is the mirror of the encoder. Its second input is the spectrum with
the Wiener gain of a noise print (common.network.network_inputs).

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

    Decoder row k > 0 reads the outputs of decoder row k-1 and encoder row 9-k. It has as many output channels as
    encoder row 9-k has input channels. The last decoder row gives the mask. depth_factors: channels of each encoder row
    in multiples of the width. inputs: number of complex spectra that the first row reads.
    """

    encoder: tuple[Row, ...]
    decoder: tuple[Row, ...]
    depth_factors: tuple[int, ...]
    inputs: int

    @property
    def time_stride(self) -> int:
        """Number of frames by which a shift of the input only shifts the output: the product of the strides."""
        return math.prod(row.stride[TIME] for row in self.encoder)

    def layer_sizes(self, n: int, axis: int) -> list[int]:
        """Sizes along `axis` of the input and after each of the 20 rows; 0 if nothing is left."""
        sizes = [n]
        for row in self.encoder:
            sizes.append(max(0, (sizes[-1] + 2 * row.padding[axis] - row.kernel[axis]) // row.stride[axis] + 1))
        for row in self.decoder:
            sizes.append((sizes[-1] - 1) * row.stride[axis] - 2 * row.padding[axis] + row.kernel[axis]
                         + row.output_padding[axis])
        return sizes

    def valid_length(self, n: int, axis: int = TIME) -> int:
        """The smallest size >= n along `axis` that input and mask have in common without padding."""
        sizes = self.layer_sizes(n, axis)
        # Decoder k > 0 and encoder 9-k must fit together, and the mask must fit the input.
        while not (min(sizes) > 0 and sizes[20] == n and sizes[11:20] == sizes[9:0:-1]):
            n += 1
            sizes = self.layer_sizes(n, axis)
        return n

    def context_frames(self) -> int:
        """Frames before and after an output frame that it can depend on, rounded up to a multiple of time_stride.

        The decoder looks back as far as the encoder looks ahead, so the receptive field is centred.
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
# 1024 bins fold into 256 positions. The last position also reads the Nyquist bin, and output padding restores it.
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
    """Apply one row of the table, or its transpose, with a real kernel to planes."""
    if not transposed:
        return F.conv2d(planes, kernel, bias, row.stride, row.padding)
    # The bias is added separately: in bfloat16 on a CPU a transposed convolution with a bias takes five times as long.
    result = F.conv_transpose2d(planes, kernel, None, row.stride, row.padding, row.output_padding)
    # A bias that is repeated over the frames in the memory layout of the planes is added in long runs.
    last = result.is_contiguous(memory_format=torch.channels_last)
    bias = bias.to(result.dtype).view(1, -1, 1, 1).expand(1, -1, 1, result.shape[-1])
    return result.add_(bias.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format))


class _Join(torch.autograd.Function):
    """torch.cat over channels with contiguous gradients; views of channels-last gradients are slow."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.channels, ctx.layout = (a.shape[1], b.shape[1]), layout(a)
        return torch.cat([a, b], 1)

    @staticmethod
    def backward(ctx, gradient):
        return tuple(part.contiguous(memory_format=ctx.layout) for part in gradient.split(ctx.channels, 1))


def join(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Concatenate the planes of two inputs of a layer."""
    return _Join.apply(a, b) if torch.is_grad_enabled() else torch.cat([a, b], 1)


def layout(planes: torch.Tensor) -> torch.memory_format:
    """The fastest memory layout: channels-last on CUDA and in bfloat16 on CPUs (in float32 it slows CPUs down)."""
    matrix_units = planes.is_cuda or torch.is_autocast_enabled("cpu")
    return torch.channels_last if matrix_units else torch.contiguous_format


class ComplexConv2d(nn.Module):
    """A complex convolution, or a transposed one, on planes.

    in_channels: number of complex channels of each input.
    Shape: (batch, 2 * sum(in_channels), bins, frames) -> (batch, 2 * out_channels, ...).
    A weights file holds `weight_real` and `weight_imag`, so that it does not depend on how the product is computed.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, row: Row, transposed: bool = False):
        super().__init__()
        shape = (sum(in_channels), out_channels) if transposed else (out_channels, sum(in_channels))
        self.row, self.transposed, self.in_channels = row, transposed, tuple(in_channels)
        self.weight_real = nn.Parameter(torch.empty(*shape, *row.kernel))
        self.weight_imag = nn.Parameter(torch.empty(*shape, *row.kernel))
        self.bias = nn.Parameter(torch.zeros(2 * out_channels))
        # The variance of Glorot and Bengio 2010, half of it in each part (Trabelsi et al. 2018).
        for weight in (self.weight_real, self.weight_imag):
            nn.init.xavier_normal_(weight, gain=2**-0.5)

    def kernel(self) -> torch.Tensor:
        """The real kernel [[re, -im], [im, re]] of every input, (2 * out, 2 * sum(in_channels), bins, frames).

        A transposed convolution swaps the first two dimensions.
        """
        in_dim, out_dim = (0, 1) if self.transposed else (1, 0)
        parts = (weight.split(self.in_channels, in_dim) for weight in (self.weight_real, self.weight_imag))
        columns = []
        for re, im in zip(*parts, strict=True):
            columns += [torch.cat([re, im], out_dim), torch.cat([-im, re], out_dim)]
        return torch.cat(columns, in_dim)

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        # The kernel needs the layout too: the innermost planes may have one bin and one frame, which fits both layouts.
        kernel = self.kernel().contiguous(memory_format=layout(planes))
        return convolve(planes, kernel, self.bias, self.row, self.transposed)


class ComplexLayer(nn.Module):
    """Complex convolution, batch norm of real and imaginary parts separately, leaky ReLU."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, row: Row, transposed: bool = False):
        super().__init__()
        self.conv = ComplexConv2d(in_channels, out_channels, row, transposed)
        self.norm = nn.BatchNorm2d(2 * out_channels)

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(self.norm(self.conv(planes)), SLOPE, inplace=True)


def bounded_mask(planes: torch.Tensor) -> torch.Tensor:
    """The mask tanh(|O|) * O / |O| of Choi et al. 2019 for the planes O, (batch, 2, bins, frames)."""
    # The epsilon keeps the gradient of |O| finite at O = 0, where the mask is 0.
    magnitude = planes.square().sum(1, keepdim=True).add(1e-12).sqrt()
    return planes * (torch.tanh(magnitude) / magnitude)


class DCUNet20(nn.Module):
    """DCUNet-20: spectrum planes in, bounded complex mask out.

    width: complex channels of the first layer. plan: a name in PLANS. depth_factors: channels of each encoder layer in
    multiples of the width; those of the plan if left out. compression: of the magnitudes in the planes, see
    common.network.network_inputs; it is part of the state, since weights fit one compression only.
    Shape: (batch, 2 * inputs, bins, frames) -> (batch, 2, bins, frames) for any number of bins and frames: the input
    is padded with zeros to sizes that fit the strides, and the mask is cropped.
    """

    def __init__(self, width: int, plan: str = FOLDED, depth_factors: Sequence[int] | None = None,
                 compression: float = 1.0):
        super().__init__()
        if not isinstance(width, int) or width < 1:
            raise UserError(f"expected a network width of at least 1, got {width!r}: choose for example 8 or 16")
        if plan not in PLANS:
            raise UserError(f"expected a network plan among {', '.join(PLANS)}, got {plan!r}: choose one of them")
        self.width, self.plan_name, self.plan = width, plan, PLANS[plan]
        self.depth_factors = tuple(depth_factors or self.plan.depth_factors)
        if len(self.depth_factors) != 10 or min(self.depth_factors) < 1:
            raise UserError(f"expected ten depth factors of at least 1, got {self.depth_factors}: give a "
                            "whole number for each encoder layer")
        self.register_buffer("compression", torch.tensor(float(compression)))
        channels = [factor * width for factor in self.depth_factors]
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        sources = [1] * self.plan.inputs
        for row, out in zip(self.plan.encoder, channels, strict=True):
            self.encoder.append(ComplexLayer(sources, out, row))
            sources = [out]
        for k, row in enumerate(self.plan.decoder[:-1]):
            out = channels[8 - k]
            self.decoder.append(ComplexLayer(sources, out, row, transposed=True))
            sources = [out, out]  # the output of this layer, and the output of an encoder layer with as many channels
        self.mask = ComplexConv2d(sources, 1, self.plan.decoder[-1], transposed=True)

    def settings(self) -> dict:
        """The arguments that rebuild the network, as plain values."""
        return {"width": self.width, "plan": self.plan_name, "depth_factors": list(self.depth_factors)}

    def hidden_kernels(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Return the real and imaginary kernels of all layers but the first and the last.

        Shape: (outputs, inputs, bins, frames) in the encoder, (inputs, outputs, bins, frames) in the decoder.
        """
        layers = (*self.encoder[1:], *self.decoder)
        return [(layer.conv.weight_real, layer.conv.weight_imag) for layer in layers]

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        bins, frames = planes.shape[-2:]
        n_bins, n_frames = self.plan.valid_length(bins, FREQUENCY), self.plan.valid_length(frames, TIME)
        # Padding is at the end only: at the start it would shift the signal against the strides.
        x = F.pad(planes, (0, n_frames - frames, 0, n_bins - bins))
        return self.fitting(x.contiguous(memory_format=layout(x)))[..., :bins, :frames]

    def fitting(self, planes: torch.Tensor) -> torch.Tensor:
        """The forward pass for planes whose bins and frames fit the strides (see Plan.valid_length)."""
        x, skips = planes, []
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        skips.pop()
        for k, layer in enumerate(self.decoder):
            x = layer(join(x, skips.pop()) if k else x)
        mask = self.mask(join(x, skips.pop()))
        return bounded_mask(mask.to(torch.promote_types(mask.dtype, torch.float32)))
