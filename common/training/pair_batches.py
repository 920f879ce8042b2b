"""Training batches from folders of pairs, and validation on pairs.

(seed, step, row) alone decide the content of a row, so that a resumed run repeats it.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from common.audio.reading import read_audio, resample
from common.audio.signals import MIN_SIGNAL_RMS
from common.data.pairs import PairFile, check_disjoint, pairs_in, segments, songs_and_recordings
from common.denoising.files import denoise
from common.evaluation import second_copy
from common.evaluation.metrics import snr
from common.network.model import Denoiser
from common.network.stft import SAMPLE_RATE
from common.seeds import stream
from common.small_files import c_name

# Number of segments of a pair of two noisy copies that are measured together, for noise in the target averages out.
SEGMENTS_OF_A_COPY = 8
# Number of crops to try before a silent one is accepted.
MAX_CROPS = 10
# Larger frame counts mean that libsndfile does not know the length.
MAX_FRAMES = 1 << 62


class PairSource:
    """Training batches: random crops of pair files, one random channel each. Only the crops are read.

    workers: threads that read the rows of the next step in advance; 0 reads each row when it is needed.
    """

    def __init__(self, pairs: Sequence[PairFile], workers: int = 0):
        self.pairs, self._workers, self._ahead = list(pairs), workers and ThreadPoolExecutor(workers), {}
        self.clean_target = any(pair.clean_target for pair in self.pairs)

    def songs_and_recordings(self) -> tuple[set[str], set[str]]:
        """Return the names of the songs and of the noise recordings."""
        return songs_and_recordings(self.pairs)

    def settings(self) -> dict:
        """Return everything that decides the batches besides seed and step, as plain values."""
        names = "\n".join(sorted(pair.input.name for pair in self.pairs)).encode(errors="surrogateescape")
        return {"pairs": len(self.pairs), "names_sha256": hashlib.sha256(names).hexdigest()}

    def batch(self, seed: int, step: int, rows: range, n_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets of these rows, each (len(rows), n_samples) float32 at SAMPLE_RATE."""
        keys = [(seed, step, row, n_samples) for row in rows]
        if self._workers:
            ready = [self._ahead.pop(key, None) or self._workers.submit(self._row, *key) for key in keys]
            self._ahead = {(seed, step + 1, row, n): self._workers.submit(self._row, seed, step + 1, row, n)
                           for _, _, row, n in keys}
            found = [future.result() for future in ready]
        else:
            found = [self._row(*key) for key in keys]
        return tuple(torch.from_numpy(np.stack(members)) for members in list(zip(*found, strict=True))[:2])

    def prints(self, seed: int, step: int, rows: range, n_samples: int) -> None:
        """Return None: pairs have no noise prints."""

    def names(self, seed: int, step: int, rows: range, n_samples: int) -> list[str]:
        """Return the name of each row's INPUT file."""
        return [self._row(seed, step, row, n_samples)[2] for row in rows]

    def _row(self, seed, step, row, n_samples):
        rng = stream(seed, "pairs", step, row)
        for _ in range(MAX_CROPS):  # silent crops are drawn again
            pair = self.pairs[rng.integers(len(self.pairs))]
            position, channel = rng.random(2)
            members = [_read_crop(p, position, channel, n_samples) for p in (pair.input, pair.target)]
            if np.abs(members[0]).max() > MIN_SIGNAL_RMS:
                break
        return *members, pair.input.name


def _read_crop(path, position, channel, n_samples):
    """Read a crop of `n_samples` at SAMPLE_RATE from a relative position; a short file is continued with zeros."""
    audio, rate = _native_crop(path, position, n_samples)
    audio = resample(audio[int(channel * len(audio))][None], rate, SAMPLE_RATE)[0, :n_samples]
    return np.pad(audio, (0, n_samples - len(audio)))


def _native_crop(path, position, n_samples):
    """Read all channels of a crop at the file's own rate, which is returned too."""
    def place(n_frames, rate):
        n_native = -(-n_samples * rate // SAMPLE_RATE)
        return int(position * max(0, n_frames - n_native + 1)), n_native

    try:
        with sf.SoundFile(c_name(path)) as file:
            if 0 < file.frames < MAX_FRAMES:
                start, n_native = place(file.frames, file.samplerate)
                file.seek(start)
                return file.read(n_native, dtype="float32", always_2d=True).T, file.samplerate
    except sf.LibsndfileError:
        pass
    audio, rate = read_audio(path)  # libsndfile cannot read the file, or does not know its length
    start, n_native = place(audio.shape[1], rate)
    return audio[:, start : start + n_native], rate


class PairValidation:
    """Validation on `per_pair` evenly spread segments of each pair.

    A target is clean, or else a second noisy copy: then SEGMENTS_OF_A_COPY segments of the pair give one improvement,
    see common.evaluation.second_copy.
    """

    has_prints = False

    def __init__(self, pairs: Sequence[PairFile], per_pair: int | None = 1):
        self.pairs, self.per_pair = list(pairs), per_pair

    def songs_and_recordings(self) -> tuple[set[str], set[str]]:
        """Return the names of the songs and of the noise recordings."""
        return songs_and_recordings(self.pairs)

    def gains(self, model: Denoiser, part: slice, with_print: bool = False) -> list[float | None]:
        """Return the SNR improvements in dB of that part of the pairs, None where song or noise is silent."""
        silent, pairs = [], self.pairs[part]
        clean = [pair for pair in pairs if not pair.noisy_target]
        found = segments(clean, model.stft.sample_rate, self.per_pair, silent)
        gains = [snr(s.clean, denoise(model, s.noisy, s.sample_rate)) - snr(s.clean, s.noisy) for s in found]
        copies = [second_copy.measure(model, [pair], SEGMENTS_OF_A_COPY) for pair in pairs if pair.noisy_target]
        measured = [float(second_copy.improvement_db(sums)) for sums in copies]
        return gains + [None if np.isnan(gain) else gain for gain in measured] + [None] * len(silent)


def pair_sources(train_dir: str | Path, validation_dir: str | Path, workers: int = 0
                 ) -> tuple[PairSource, PairValidation]:
    """Return training batches and validation from two folders of pairs, which must not share a song or a recording."""
    train, validation = pairs_in(train_dir), pairs_in(validation_dir)
    check_disjoint(train=songs_and_recordings(train), validation=songs_and_recordings(validation))
    return PairSource(train, workers), PairValidation(validation)
