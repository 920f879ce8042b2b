"""DCUNet-20 as a stream: what the network keeps between one piece of a signal and the next.

Each layer keeps the few columns of its input that later frames still need, so that a song of any length passes
in pieces, nothing is computed twice, and the result is that of one pass. Frames that the network must wait for
delay the mask by 11 columns, 2 s of audio.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from common.dcunet import (
    DECODER,
    ENCODER,
    FREQUENCY,
    TIME,
    TIME_STRIDE,
    DCUNet20,
    bounded_mask,
    layer_sizes,
    valid_length,
)
from common.stages import MaskStage, make_stage

# Columns of all audio channels that pass at a time: more take more memory, fewer more calls. A song streams within
# bounded memory; who has all frames in memory anyway wants speed.
COLUMNS = 8
ONE_PASS_COLUMNS = 32


class Memory:
    """Arrays that are used again and again: touching fresh pages costs as much as an elementwise pass over them."""

    def __init__(self):
        self._scratch, self._free = {}, []

    def scratch(self, name, *shape):
        """Room until the same name is asked for again."""
        n = math.prod(shape)
        if name not in self._scratch or self._scratch[name].numel() < n:
            self._scratch[name] = torch.empty(n)
        return self._scratch[name][:n].view(shape)

    def take(self, n):
        """A flat array of at least n values, which the caller owns until he gives it back."""
        self._free.sort(key=torch.Tensor.numel)
        for i, array in enumerate(self._free):
            if n <= array.numel() <= 2 * n:
                return self._free.pop(i)
        del self._free[:1]  # arrays of a signal's shorter first columns would never fit again
        return torch.empty(n)

    def give(self, array):
        """Take back what `take` gave."""
        self._free.append(array)


class _Columns:
    """An activation's columns that are still needed, with the number of the first one that is not there yet."""

    def __init__(self):
        self.pieces, self.end = [], 0

    def append(self, activation, array=None):
        """Add an activation, which lies in the flat `array`."""
        self.pieces.append((self.end, activation, array))
        self.end += activation.shape[-1]

    def window(self, first, end, stage):
        """What `stage` reads for its columns first..end - 1, as pieces (column with first as 0, activation)."""
        low, high = first - stage.behind, end + stage.ahead
        shape = self.pieces[0][1].shape[:-1]
        # No columns lie before the first and after the last one of the signal: zeros, which take no memory.
        found = [(left - first, torch.zeros(()).expand(*shape, right - left))
                 for left, right in ((low, 0), (max(low, self.end), high)) if left < right]
        for start, piece, _ in self.pieces:
            left, right = max(low, start), min(high, start + piece.shape[-1])
            if left < right:
                found.append((left - first, piece[..., left - start : right - start]))
        return found

    def drop(self, before, memory):
        """Forget columns before this one."""
        while self.pieces and self.pieces[0][0] + self.pieces[0][1].shape[-1] <= before:
            _, _, array = self.pieces.pop(0)
            if array is not None:
                memory.give(array)


class StreamingDCUNet20(nn.Module):
    """The network's inference form for a processor: equal to the training form in evaluation mode, but faster.

    Made from a trained network, whose weights are copied; it has no parameters of its own and stays in float32
    on the CPU. forward() is one pass as in DCUNet20; open() begins a stream.
    """

    def __init__(self, network: DCUNet20, n_bins: int):
        super().__init__()
        self.width, self.product, self.n_bins = network.width, network.product, n_bins
        self.bins = layer_sizes(valid_length(n_bins, FREQUENCY), FREQUENCY)
        channels = [1] + [row.channels * network.width for row in ENCODER]
        phases, stages, inputs = TIME_STRIDE, [], []
        for k, (layer, row) in enumerate(zip(network.encoder, ENCODER, strict=True)):
            stages.append(make_stage(layer, row, False, [channels[k]], phases, self.bins[k + 1]))
            phases //= row.stride[TIME]
            inputs.append([k])
        for k, (layer, row) in enumerate(zip(network.decoder, DECODER[:-1], strict=True)):
            sources = [stages[-1].channels_out] + ([channels[10 - k]] if k else [])
            stages.append(make_stage(layer, row, True, sources, phases, self.bins[k + 11]))
            phases *= row.stride[TIME]
            inputs.append([k + 10] + ([10 - k] if k else []))
        stages.append(MaskStage(network.mask, DECODER[-1], [stages[-1].channels_out, channels[1]]))
        inputs.append([19, 1])
        self.stages, self.inputs, self.memory = stages, inputs, Memory()

    def open(self, audio_channels: int, columns: int = COLUMNS) -> "MaskStream":
        """Begin a signal of so many audio channels, which passes in steps of that many columns in all."""
        return MaskStream(self, audio_channels, max(1, columns // audio_channels))

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Spectrum planes to mask planes, both (batch, 2, bins, frames)."""
        stream = self.open(len(planes), ONE_PASS_COLUMNS)
        pieces = planes.split(TIME_STRIDE * stream.step, -1)
        return torch.cat([*(stream.push(piece) for piece in pieces[:-1]), stream.push(pieces[-1], last=True)], -1)


class MaskStream:
    """One signal on its way through the network: push planes, get masks some frames later.

    `step` columns of each audio channel are computed at a time, however many are pushed.
    """

    def __init__(self, network: StreamingDCUNet20, audio_channels: int, step: int):
        self.network, self.audio_channels = network, audio_channels
        self.streams = [_Columns() for _ in range(21)]
        self.done = [0] * 20
        self.n_frames, self.step = 0, step

    @torch.inference_mode()
    def push(self, planes: torch.Tensor, last: bool = False) -> torch.Tensor:
        """Take (audio channels, 2, bins, frames), give the mask of all frames that no later one can change.

        The number of frames is a multiple of TIME_STRIDE but with `last`, which gives all that is left.
        """
        frames = planes.shape[-1]
        self.n_frames += frames
        n_valid = valid_length(self.n_frames) if last else self.n_frames
        n_columns = -(-n_valid // TIME_STRIDE)  # of the signal so far
        fill = n_columns * TIME_STRIDE - self.n_frames
        if fill and not last:
            raise ValueError(f"expected a multiple of {TIME_STRIDE} frames before the last ones, got {frames}")
        planes = F.pad(planes, (0, fill, 0, self.network.bins[0] - planes.shape[2]))
        planes = planes.unflatten(3, (-1, TIME_STRIDE)).permute(4, 1, 2, 0, 3).unsqueeze(2)
        self.streams[0].append(planes.contiguous())
        lengths = layer_sizes(n_valid, TIME) if last else None
        first = self.done[-1]
        while True:
            before = self.done[:]
            for k, stage in enumerate(self.network.stages):
                self._advance(k, stage, n_columns, lengths)
                for i in self.network.inputs[k]:
                    self._drop(i)
            if self.done == before:
                break
        return self._masks(first)

    def _advance(self, k, stage, n_columns, lengths):
        """Compute the columns of stage k that its inputs allow."""
        inputs = [self.streams[i] for i in self.network.inputs[k]]
        first = self.done[k]
        # Behind the last column of an input that is complete lie zeros, which nobody has to wait for.
        end = min(n_columns if lengths and stream.end == n_columns else stream.end - stage.ahead for stream in inputs)
        # The last frames let every stage go on at once; in steps they need no more memory than others.
        end = min(end, first + self.step)
        if end <= first:
            return
        windows = [stream.window(first, end, stage) for stream in inputs]
        memory = self.network.memory
        n_values = stage.values_out(self.audio_channels * (end - first))
        array = memory.take(n_values) if n_values else None
        out = stage(windows, end - first, memory, array)
        if lengths is not None:
            _cut(out, first, lengths[k + 1])
        self.streams[k + 1].append(out, array)
        self.done[k] = end

    def _drop(self, k):
        """Forget the columns of stream k that no stage needs any more."""
        needed = (done - stage.behind for done, stage, inputs in
                  zip(self.done, self.network.stages, self.network.inputs, strict=True) if k in inputs)
        self.streams[k].drop(min(needed), self.network.memory)

    def _masks(self, first):
        """The mask's columns from `first` on as planes of frames; they are handed over and forgotten."""
        pieces = [piece for _, piece, _ in self.streams[-1].pieces]
        self.streams[-1].pieces = []
        if not pieces:
            return torch.zeros(self.audio_channels, 2, self.network.n_bins, 0)
        raw = torch.cat(pieces, -1)[:, :, 0, : self.network.n_bins]  # (phases, 2, bins, audio, columns)
        raw = raw.permute(3, 1, 2, 4, 0).flatten(3)
        return bounded_mask(raw)[..., : self.n_frames - first * TIME_STRIDE]


def _cut(activation, first, length):
    """Set frames from `length` on to zero; the activation's first column is number `first`."""
    phases = len(activation)
    for phase in range(phases):
        begin = max(0, -(-(length - phase) // phases) - first)
        activation[phase, ..., begin:] = 0
