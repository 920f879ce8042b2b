"""Songs and noises as streams of one-second blocks with known statistics, in bounded memory.

A block is an array of shape (channels, sample_rate); the last one is shorter. Blocks that do not fit in memory wait in
a temporary file, so that the length of a song does not matter.
"""

import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from common.audio.reading import AudioReader, read_audio
from common.errors import AudioError, UserError

# Audio with a lower RMS (-80 dBFS) is silent: it has no level to compare with, and no SNR.
MIN_SIGNAL_RMS = 1e-4
# Bytes of one song or white noise that are held in memory; the rest goes to the disk (5 minutes of stereo fit).
SPOOL_BYTES = 128 << 20
# Bytes of decoded noise that a worker process keeps for the next pairs.
CACHE_BYTES = 128 << 20
# The used length of a noise recording, so that a recording of hours does not fill the memory.
MAX_NOISE_SECONDS = 300


class SilentError(UserError):
    """A song or noise without signal, for which no SNR exists."""


class Spool:
    """A list of float32 blocks, of which the first `max_bytes` are held in memory and the rest on disk."""

    def __init__(self, max_bytes: int = SPOOL_BYTES):
        self._held, self._free, self._file, self._shapes = [], max_bytes, None, []

    def append(self, block: np.ndarray) -> None:
        """Add a block of shape (channels, samples)."""
        if self._file is None and block.nbytes <= self._free:
            self._held.append(block)
            self._free -= block.nbytes
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as the spool
        self._file.write(np.ascontiguousarray(block, np.float32).data)
        self._shapes.append(block.shape)

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from self._held
        position = 0
        for shape in self._shapes:
            block = np.empty(shape, np.float32)
            self._file.seek(position)
            position += self._file.readinto(block.data)
            yield block


def _square_sum(block):
    return float(np.square(block, dtype=np.float64).sum())


class Song:
    """A song, decoded once.

    Attributes: `path`, `sample_rate`, `channels`, `n_samples`, `power` (mean square over all samples), `peak`,
    `second_rms` (the RMS of each whole second, or of all samples if there is no whole second). Raises AudioError if the
    song cannot be decoded, SilentError if its RMS is below MIN_SIGNAL_RMS.
    """

    def __init__(self, path: str | Path):
        self.path, self._spool = Path(path), Spool()
        squares, lengths, self.peak = [], [], 0.0
        with AudioReader(path) as reader:
            self.sample_rate, self.channels = reader.sample_rate, reader.channels
            for block in reader.blocks(self.sample_rate):
                self._spool.append(block)
                squares.append(_square_sum(block))
                lengths.append(block.shape[-1])
                self.peak = max(self.peak, float(block.max()), -float(block.min()))
        if not lengths:
            raise AudioError(f"expected audio, but {path} holds no samples: replace or remove it")
        self.n_samples = sum(lengths)
        self.power = sum(squares) / (self.n_samples * self.channels)
        if self.power < MIN_SIGNAL_RMS**2:
            raise SilentError(f"expected a song with signal, but {path} is silent: remove it")
        whole = max(1, self.n_samples // self.sample_rate)
        self.second_rms = np.sqrt(np.array(squares[:whole]) / (np.array(lengths[:whole]) * self.channels))

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the song from its start."""
        return iter(self._spool)


def with_channels(recording: np.ndarray, channels: int) -> np.ndarray:
    """Bring a recording (any channels, samples) to a number of channels: average its channels, and repeat the mean."""
    if recording.shape[0] == channels:
        return recording
    return np.repeat(recording.mean(axis=0, keepdims=True), channels, axis=0)


class LoopedNoise:
    """A recording with the channels and the length of a song: looped from `offset` on, with zero mean.

    recording: shape (any channels, samples), at the rate of the song, see with_channels. Attributes: `power`, `peak`,
    `loops` (how many copies of the recording are used, whole or in part). Raises SilentError for a recording without
    signal.
    """

    def __init__(self, recording: np.ndarray, channels: int, n_samples: int, offset: int, block_samples: int):
        recording = with_channels(recording, channels)
        self.loops = -(-(n_samples + offset) // recording.shape[-1])
        period = np.roll(recording, -offset, axis=-1)[:, :n_samples]
        self.n_samples, self._block, n = n_samples, block_samples, period.shape[-1]
        whole, rest = divmod(n_samples, n)

        def total(x):
            """Sum over the looped noise: all whole copies and the last piece."""
            return whole * x.sum(axis=-1, dtype=np.float64) + x[:, :rest].sum(axis=-1, dtype=np.float64)

        self._period = period - (total(period) / n_samples).astype(np.float32)[:, None]
        self.power = float(total(np.square(self._period, dtype=np.float64)).mean() / n_samples)
        self.peak = float(np.abs(self._period).max())
        if self.power < MIN_SIGNAL_RMS**2:
            raise SilentError("expected a noise with signal, but it is silent: remove it")

    def blocks(self, scale: float = 1.0) -> Iterator[np.ndarray]:
        """Yield the noise times `scale`. A block is a view: never write to it."""
        n = self._period.shape[-1]
        copies = 1 if n == self.n_samples else 1 + -(-self._block // n)
        looped = np.tile(self._period * np.float32(scale), (1, copies))
        for start in range(0, self.n_samples, self._block):
            length = min(self._block, self.n_samples - start)
            yield looped[:, start % n : start % n + length]


class GaussianNoise:
    """White Gaussian noise of unit variance and zero mean, independent between channels. `seed` decides every sample.

    Attributes: `power`, `peak`.
    """

    def __init__(self, seed: int, channels: int, n_samples: int, block_samples: int):
        rng, self._spool = np.random.default_rng(seed), Spool()
        sums, squares, self.peak = np.zeros(channels), 0.0, 0.0
        for start in range(0, n_samples, block_samples):
            block = rng.standard_normal((channels, min(block_samples, n_samples - start)), dtype=np.float32)
            self._spool.append(block)
            sums += block.sum(axis=-1, dtype=np.float64)
            squares += _square_sum(block)
            self.peak = max(self.peak, float(block.max()), -float(block.min()))
        mean = sums / n_samples
        self._mean = mean.astype(np.float32)[:, None]
        self.peak += float(np.abs(mean).max())
        self.power = squares / (channels * n_samples) - float(np.square(mean).mean())

    def blocks(self, scale: float = 1.0) -> Iterator[np.ndarray]:
        """Yield the noise times `scale`."""
        scale = np.float32(scale)
        for block in self._spool:
            yield block * scale - self._mean * scale


def pieces(blocks: Iterable[np.ndarray], starts: Sequence[int], length: int) -> Iterator[np.ndarray]:
    """Cut pieces of `length` samples, beginning at `starts` (ascending, overlaps allowed), out of a stream of blocks.

    At most one piece and one block are in memory. Pieces that the stream does not fill are left out.
    """
    waiting, held, first = list(starts)[::-1], np.zeros((1, 0), np.float32), 0
    for block in blocks:
        held = np.concatenate([held, block], axis=-1) if held.size else block
        while waiting and waiting[-1] + length <= first + held.shape[-1]:
            start = waiting.pop() - first
            yield held[:, start : start + length]
        if not waiting:
            return
        drop = min(max(0, waiting[-1] - first), held.shape[-1])
        held, first = held[:, drop:], first + drop


class RecordingCache:
    """Decoded noise recordings, up to `max_bytes`; the least recently used recording leaves first."""

    def __init__(self, max_bytes: int = CACHE_BYTES):
        self._held, self._free = OrderedDict(), max_bytes

    def get(self, path: str | Path, sample_rate: int) -> np.ndarray:
        """Return the first MAX_NOISE_SECONDS of a recording at `sample_rate`, shape (channels, samples).

        Raises AudioError if it cannot be decoded.
        """
        key = str(path), sample_rate
        if key not in self._held:
            audio, _ = read_audio(path, sample_rate, MAX_NOISE_SECONDS)
            self._free -= audio.nbytes
            while self._free < 0 and self._held:
                self._free += self._held.popitem(last=False)[1].nbytes
            self._held[key] = audio
        self._held.move_to_end(key)
        return self._held[key]


# One cache for each process: different songs and pairs often use the same noises.
RECORDINGS = RecordingCache()
