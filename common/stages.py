"""The rows of DCUNet-20 as matrix products: float32, on a processor.

Layout. TIME_STRIDE frames make one column, so that a stride in time is a choice of phases within a column and no
layer reshuffles frames. An activation has the shape (phases, 2, channels, bins, audio channels, columns): phases run
from TIME_STRIDE at the full rate to 1 at the bottom; the 2 are the real and the imaginary part.

Products. A complex product takes three real ones (Gauss). In frequency, a stride is moved into the channels; filters
of 2 to 4 taps are left, which minimal filtering computes with fewer products (Winograd 1980; Lavin and Gray 2016 for
networks): 8 in place of 20 for five outputs of four taps. In time, the taps of one output are neighbouring phases,
that is one matrix. What remains is matrix products, whatever the row: there is no convolution here.
"""

import numpy as np
import torch
from torch.nn import functional as F

from common.dcunet import FREQUENCY, SLOPE, TIME, real_kernel

# Values in the larger of the two scratch arrays of a block of tiles: more take more memory, fewer more calls.
BLOCK_VALUES = 1 << 23
# Outputs per tile in frequency, where a layer has several taps there.
TILE = 5
# Where minimal filtering evaluates, beside infinity: small numbers keep rounding errors small.
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)
# Products re*(a+b), (im-re)*a, (re+im)*b of a kernel (re, im) with (a, b): from the parts, and to the parts.
GAUSS_IN = np.array([[1, 1], [1, 0], [0, 1]])
GAUSS_OUT = np.array([[1, 0, -1], [1, 1, 0]])


def minimal_filter(n_outputs: int, n_taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices (a, g, b) with which outputs = a @ ((g @ taps) * (b @ inputs)).

    outputs[i] = sum over k of taps[k] * inputs[i + k] for n_outputs neighbouring i, from n_outputs + n_taps - 1
    products: the fast product of two polynomials (Toom-Cook), transposed.
    """
    n = n_outputs + n_taps - 1

    def values(degree):
        """Of a polynomial with `degree` coefficients, at n - 1 points and at infinity."""
        return np.vstack([np.vander(POINTS[: n - 1], degree, increasing=True), np.eye(degree)[-1:]])

    return values(n_outputs).T, values(n_taps), np.linalg.inv(values(n)).T


class _Stage:
    """One row of the table, computed in blocks of tiles: neighbouring bins that are multiplied together.

    sources: channels of each input; phases: of the input in a column; bins: of the output. A block is gathered as
    (reads, 2, span, channels in, tiles, audio channels, columns): the rows that a tile reads, each of stride_in bins,
    and all phases that its outputs need. Subclasses multiply it.
    """

    tile = 1  # outputs per tile, each of stride_out bins

    def __init__(self, layer, row, transposed, sources, phases, bins):
        self.sources, self.phases, self.bins, self.transposed = sources, phases, bins, transposed
        self.channels_out = layer.conv.bias.numel() // 2
        stride_f, stride_t = row.stride
        self.taps = -(-row.kernel[FREQUENCY] // stride_f)  # in frequency, of each phase
        self.reads = self.tile + self.taps - 1
        self.stride_in, self.stride_out = (1, stride_f) if transposed else (stride_f, 1)
        self.front = self.taps - 1 if transposed else row.padding[FREQUENCY]  # bins before the first
        self.crop = row.padding[FREQUENCY] if transposed else 0
        self.channels_in = self.stride_in * sum(sources)
        self.phases_out = phases * stride_t if transposed else phases // stride_t
        self.n_tiles = -(-(bins + self.crop) // (self.tile * self.stride_out))
        self._plan_time(row.kernel[TIME], stride_t, row.padding[TIME])
        self.scale, self.shift = (x.detach().view(2, -1) for x in layer.folded())

    def _plan_time(self, kernel, stride, pad):
        """For each output phase: its set of weights, its first input phase and the number of them."""
        self.runs = []
        for q in range(self.phases_out):
            if self.transposed:
                parity, last = (q + pad) % stride, (q + pad) // stride
                n = len(range(parity, kernel, stride))
                self.runs.append((parity, last - n + 1, n))
            else:
                self.runs.append((0, q * stride - pad, kernel))
        self.low = min(first for _, first, _ in self.runs)
        self.span = max(first + n for _, first, n in self.runs) - self.low
        # Columns before and after the current one that it reads.
        self.behind, self.ahead = -(self.low // self.phases), (self.low + self.span - 1) // self.phases

    def values_out(self, n):
        """Size of the output for n columns of audio channels."""
        return self.phases_out * 2 * self.channels_out * self.n_tiles * self.tile * self.stride_out * n

    def __call__(self, windows, n_columns, memory, out):
        """Columns of the output, in the flat array `out`, from windows on the inputs: (first column, activation)."""
        audio = windows[0][0][1].shape[4]
        n = audio * n_columns
        out = out[: self.values_out(n)].view(self.phases_out, 2, self.channels_out, -1, audio, n_columns)
        block = max(1, BLOCK_VALUES // (self.values_per_tile * n))
        for first in range(0, self.n_tiles, block):
            tiles = min(block, self.n_tiles - first)
            rows = self._room(memory, (tiles, audio, n_columns))
            self._gather(rows, windows, first * self.tile * self.stride_in - self.front, n_columns)
            per_tile = self.tile * self.stride_out
            self._multiply(rows, out[:, :, :, first * per_tile : (first + tiles) * per_tile].flatten(4), memory)
        return out[:, :, :, self.crop : self.crop + self.bins]

    def _gather(self, rows, windows, first_bin, n_columns):
        """Fill `rows` with what its tiles read, from `first_bin` on; zeros where there is no input."""
        tiles, bins = rows.shape[4], windows[0][0][1].shape[3]
        inside = first_bin >= 0 and first_bin + ((tiles - 1) * self.tile + self.reads) * self.stride_in <= bins
        if not inside:
            rows.zero_()
        for read in range(self.reads):
            channel = 0
            for parity in range(self.stride_in):
                for pieces, channels in zip(windows, self.sources, strict=True):
                    target = rows[read, :, :, channel : channel + channels]
                    for start, piece in pieces:
                        self._copy(target, piece, start, first_bin + read * self.stride_in + parity, n_columns)
                    channel += channels

    def _copy(self, target, piece, start, first_bin, n_columns):
        """Copy from one piece of one input, whose first column is `start` of the window, one row of each tile."""
        step = self.tile * self.stride_in
        skip = max(0, -(first_bin // step))  # tiles before the first bin
        source = piece[:, :, :, first_bin + skip * step :: step][:, :, :, : target.shape[3] - skip]
        target = target[:, :, :, skip : skip + source.shape[3]]
        for shift in range(-self.behind, self.ahead + 1):  # phases of the column before, of this one, of the next
            low = max(self.low, shift * self.phases)
            high = min(self.low + self.span, (shift + 1) * self.phases)
            left, right = max(0, start - shift), min(n_columns, start + piece.shape[-1] - shift)
            if low < high and left < right:
                target[:, low - self.low : high - self.low, ..., left:right] = source[
                    low - shift * self.phases : high - shift * self.phases, ...,
                    left + shift - start : right + shift - start].transpose(0, 1)


class _DirectStage(_Stage):
    """A row without a stride and with one channel in or one tap in frequency: one real product for all taps.

    The complex product is [[re, -im], [im, re]]; transforms would cost more than they save here.
    """

    def __init__(self, layer, row, transposed, sources, phases, bins):
        super().__init__(layer, row, transposed, sources, phases, bins)
        self.values_per_tile = 2 * max(self.span * self.taps * self.channels_in, self.phases_out * self.channels_out)
        kernel = real_kernel(layer.conv.weight_real, layer.conv.weight_imag, transposed).detach().double()
        if transposed:
            kernel = kernel.transpose(0, 1).flip(2, 3)
        kernel = self.scale.view(-1, 1, 1, 1) * kernel
        self.weight = kernel.permute(0, 3, 2, 1).flatten(1).float()  # (out, (time, frequency, in))
        self.shift = self.shift.float().view(1, -1, 1)

    def _room(self, memory, tail):
        # All that a phase is multiplied with lies together, so that a run of phases is one matrix.
        rows = memory.scratch("rows", self.span, self.reads, 2, self.channels_in, *tail)
        return rows.permute(1, 2, 0, 3, 4, 5, 6)

    def _multiply(self, rows, target, memory):
        n = rows.shape[4:].numel()
        runs = rows.permute(2, 0, 1, 3, 4, 5, 6).as_strided(
            (self.phases_out, self.weight.shape[1], n), (self.reads * 2 * self.channels_in * n, n, 1))
        z = memory.scratch("z", self.phases_out, 2 * self.channels_out, n)
        torch.bmm(self.weight.expand(self.phases_out, -1, -1), runs, out=z)
        z = z.add_(self.shift).view(self.phases_out, 2, self.channels_out, *target.shape[3:])
        target.copy_(F.leaky_relu_(z, SLOPE))


class _FilteredStage(_Stage):
    """A row with several taps in frequency: minimal filtering there, and three products for a complex one."""

    tile = TILE

    def __init__(self, layer, row, transposed, sources, phases, bins):
        super().__init__(layer, row, transposed, sources, phases, bins)
        self.n_products = 3 * self.reads
        self.values_per_tile = self.n_products * max(self.span * self.channels_in,
                                                     self.phases_out * self.channels_out * self.stride_out)
        a, g, b = minimal_filter(self.tile, self.taps)
        self.into_filter = torch.from_numpy(np.einsum("pc,xr->pxrc", GAUSS_IN, b).reshape(self.n_products, -1)).float()
        self.out_of_filter = torch.from_numpy(np.einsum("cp,ox->copx", GAUSS_OUT, a).reshape(-1, self.n_products)
                                              ).float()
        self.weights = self._weights(layer.conv, row, torch.from_numpy(g))
        self.scale, self.shift = (x.float().view(2, -1, 1, 1, 1, 1) for x in (self.scale, self.shift))

    def _weights(self, conv, row, g):
        """For each parity in time the matrices (products, rows out, phases of the run * channels in)."""
        parts = [w.detach().double() for w in (conv.weight_real, conv.weight_imag)]
        if self.transposed:  # which runs through its taps backwards
            parts = [w.transpose(0, 1) for w in parts]
        fill = self.taps * row.stride[FREQUENCY] - row.kernel[FREQUENCY]
        parts = [F.pad(w, (0, 0, 0, fill)).unflatten(2, (self.taps, -1)) for w in parts]
        parities = []
        for parity in range(row.stride[TIME] if self.transposed else 1):
            if self.transposed:
                taps = [w[..., parity :: row.stride[TIME]].flip(2, 4) for w in parts]
                re, im = (torch.einsum("xk,oiksf->xsofi", g, w) for w in taps)
            else:
                re, im = (torch.einsum("xk,oiksf->xofsi", g, w) for w in parts)
            products = torch.cat([re, im - re, re + im])
            rows_out = self.stride_out * self.channels_out
            parities.append(products.reshape(self.n_products, rows_out, -1).float())
        return parities

    def _room(self, memory, tail):
        return memory.scratch("rows", self.reads, 2, self.span, self.channels_in, *tail)

    def _multiply(self, rows, target, memory):
        tiles, n = rows.shape[4], rows.shape[4:].numel()
        size = self.span * self.channels_in
        x = memory.scratch("x", self.n_products, size * n)
        torch.mm(self.into_filter, rows.view(2 * self.reads, -1), out=x)
        z = memory.scratch("z", self.phases_out, self.n_products, self.stride_out * self.channels_out, n)
        x = x.view(self.n_products, size, n)
        for q, (parity, first, n_taps) in enumerate(self.runs):
            start = (first - self.low) * self.channels_in
            torch.bmm(self.weights[parity], x[:, start : start + n_taps * self.channels_in], out=z[q])
        shape = (self.phases_out, 2, self.tile, self.stride_out, self.channels_out, tiles, n // tiles)
        y = memory.scratch("x", self.phases_out, 2 * self.tile, z[0, 0].numel())
        torch.bmm(self.out_of_filter.expand(self.phases_out, -1, -1), z.flatten(2), out=y)
        # to (phases, 2, channels, tiles, outputs of a tile, stride, columns)
        y = y.view(shape).permute(0, 1, 4, 5, 2, 3, 6)
        target = target.unflatten(3, (tiles, self.tile, self.stride_out))
        torch.addcmul(self.shift, y, self.scale, out=target)
        F.leaky_relu_(target, SLOPE)


class MaskStage:
    """The last row, one channel out with taps in frequency alone: every tap at every bin, then their sums."""

    behind = ahead = 0

    def __init__(self, conv, row, sources):
        kernel = real_kernel(conv.weight_real, conv.weight_imag, True).detach()[..., 0]  # (2 in, 2, taps)
        self.pad, self.taps = row.padding[FREQUENCY], row.kernel[FREQUENCY]
        by_part = kernel.permute(2, 1, 0).reshape(2 * self.taps, 2, -1)  # ((tap, part out), part in, in)
        self.weights = [w.flatten(1) for w in by_part.split(sources, 2)]
        self.bias = conv.bias.detach().view(2, 1, 1)

    def values_out(self, n):
        """The mask is small and has an array of its own."""
        return 0

    def __call__(self, windows, n_columns, memory, out):
        """Columns of the output."""
        inputs = [pieces[0][1] if len(pieces) == 1 else _in_order(pieces) for pieces in windows]
        phases, _, _, bins, audio, _ = inputs[0].shape
        per_tap = memory.scratch("x", phases, 2 * self.taps, bins * audio * n_columns)
        for i, (weight, x) in enumerate(zip(self.weights, inputs, strict=True)):
            x = x.reshape(phases, weight.shape[1], -1)
            torch.baddbmm(per_tap, weight.expand(phases, -1, -1), x, beta=min(i, 1), out=per_tap)
        per_tap = F.pad(per_tap.view(phases, self.taps, 2, bins, -1), (0, 0, self.pad, self.pad))
        mask = sum(per_tap[:, k, :, 2 * self.pad - k : 2 * self.pad - k + bins] for k in range(self.taps)) + self.bias
        return mask.unflatten(3, (audio, n_columns)).unsqueeze(2)


def _in_order(pieces):
    return torch.cat([piece for _, piece in sorted(pieces, key=lambda p: p[0])], -1)


def make_stage(layer, row, *args):
    """The stage of one row; args are those of _Stage."""
    direct = row.stride[FREQUENCY] == 1
    return (_DirectStage if direct else _FilteredStage)(layer, row, *args)
