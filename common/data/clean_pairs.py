"""Pairs whose target is the clean song, cut into the segments on which models are measured."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.audio.reading import read_audio
from common.data.manifest import MANIFEST
from common.data.pairs import MIN_RMS, PairFile, pairs_in
from common.data.silence import measurable
from common.errors import UserError
from common.network.noise_print import LEAST_PRINT_SECONDS
from common.network.stft import SEGMENT_SAMPLES

# RMS of a step of 16 bits, in which pairs are written: what differs less differs by rounding.
ROUNDING = 2.0**-15


@dataclass(frozen=True)
class Segment:
    """A piece of a pair: arrays (channels, samples) at `sample_rate`, starting at `start_seconds`.

    noise_print: the noise alone, from elsewhere, (channels, any samples); None where there is none.
    """

    pair: PairFile
    start_seconds: float
    sample_rate: int
    noisy: np.ndarray
    clean: np.ndarray
    noise_print: np.ndarray | None = None

    @property
    def name(self) -> str:
        return f"{self.pair.pair_id}@{self.start_seconds:.2f}s"


def load_test_pairs(folder: str | Path) -> list[PairFile]:
    """The pairs of a test set: of its input/ and target/, or of all its sub-folders that hold such.

    Each sub-folder is a condition, whose name takes the place of the pairs' noise and goes before their ids. Raises
    CallError when there is neither.
    """
    folder = Path(folder)
    conditions = sorted(p.parent for p in folder.glob("*/input"))
    if (folder / "input").is_dir() or not conditions:
        return pairs_in(folder)
    return [replace(pair, pair_id=f"{path.name}-{pair.pair_id}", noise=path.name)
            for path in conditions for pair in pairs_in(path)]


def manifest_sha256(pairs: Sequence[PairFile]) -> str:
    """Hex SHA-256 over the manifests of pairs' folders, which names a test set."""
    digest = hashlib.sha256()
    for folder in sorted({pair.input.parent for pair in pairs}):
        if (folder / MANIFEST).is_file():
            digest.update((folder / MANIFEST).read_bytes())
    return digest.hexdigest()


def segments(pairs: Iterable[PairFile], sample_rate: int, per_pair: int | None = None,
             silent: list[str] | None = None) -> Iterator[Segment]:
    """Cut test pairs into segments of SEGMENT_SAMPLES (or the whole of a shorter pair), at `sample_rate`.

    `per_pair` takes that many, evenly spread, from every pair. Segments without song or noise are left out, and named
    in `silent`, if that is given.
    """
    for pair in pairs:
        noisy, _ = read_audio(pair.input, sample_rate)
        clean, _ = read_audio(pair.target, sample_rate)
        printed = pair.noise_print and _read_print(pair.noise_print, sample_rate, len(noisy))
        length = min(SEGMENT_SAMPLES, noisy.shape[1])
        starts = np.arange(0, noisy.shape[1] - length + 1, length)
        loud = [s for s in starts if _holds_both(clean[:, s : s + length], noisy[:, s : s + length])]
        if silent is not None:
            silent += [f"{pair.pair_id}@{s / sample_rate:.2f}s" for s in starts if s not in loud]
        if per_pair and len(loud) > per_pair:
            loud = [loud[i] for i in np.linspace(0, len(loud) - 1, per_pair).round().astype(int)]
        for s in loud:
            yield Segment(pair, s / sample_rate, sample_rate, noisy[:, s : s + length], clean[:, s : s + length],
                          printed)


def _read_print(path, sample_rate, channels):
    """A noise print as (channels, samples)."""
    audio, _ = read_audio(path, sample_rate)
    if len(audio) not in (1, channels) or audio.shape[1] < LEAST_PRINT_SECONDS * sample_rate:
        raise UserError(f"expected a noise print of 1 or {channels} channels and {LEAST_PRINT_SECONDS} s at least, but "
                        f"{path} has {len(audio)} and {audio.shape[1] / sample_rate:.2f} s: replace or remove it")
    return np.broadcast_to(audio, (channels, audio.shape[1])).copy()


def _holds_both(clean, noisy):
    """Whether there is a song above MIN_RMS, and a noise that is more than the rounding of either file."""
    song, noise = (float(np.sqrt(np.square(x).mean())) for x in (clean, noisy - clean))
    return song > MIN_RMS and noise > ROUNDING and measurable(20 * np.log10(song / noise))
