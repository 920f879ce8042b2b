"""Choose the segments of a dataset on which training pays most.

A good set of segments has two properties, which do not depend on levels. *Decorrelation*: Noise2Noise needs two noises
that have nothing in common, since the network learns their common part as music. *Diversity*: a segment that resembles
one already chosen adds little. The choice is greedy and weighs the two, as maximal marginal relevance does for texts
(Carbonell and Goldstein 1998).

The noises are made again from the manifest. They cannot be estimated from input and target: if the mean of both is the
estimate of the clean signal, the two residuals are opposites, and their correlation is -1 for every segment.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import joblib
import librosa
import numpy as np
from scipy.signal import stft
from scipy.stats import rankdata
from tqdm import tqdm

from common.audio.reading import AudioReader, resample
from common.audio.signals import pieces
from common.data.manifest import Sources
from common.data.pairs import PairFile
from common.data.silence import MIN_RMS
from common.errors import CallError, UserError
from common.network.stft import SAMPLE_RATE, SEGMENT_SAMPLES
from common.workers import worker_processes

N_FFT, N_MELS = 2048, 40
# Number of half-overlapping Hann frames that are worth one independent frame: 1 + 2 (1/6)^2.
FRAME_DEPENDENCE = 1.0556
# Least weight of the diversity, which decides between candidates of equal decorrelation only.
TIE_WEIGHT = 1e-6


@dataclass(frozen=True)
class Cut:
    """Where segments begin: every `hop_seconds` (None: one after the other), except near the ends of a song."""

    hop_seconds: float | None = None
    skip_start_seconds: float = 6.0
    skip_end_seconds: float = 12.0

    def __post_init__(self):
        if self.hop_seconds is not None and self.hop_seconds <= 0:
            raise CallError(f"expected a positive hop between segments, got {self.hop_seconds} s: choose "
                            "a longer one, or None")
        if min(self.skip_start_seconds, self.skip_end_seconds) < 0:
            raise CallError(f"expected seconds to skip of at least 0, got {self.skip_start_seconds} and "
                            f"{self.skip_end_seconds}: choose 0 to skip nothing")

    def starts(self, n_samples: int, sample_rate: int) -> list[int]:
        """Return the first samples of the segments of a song of `n_samples`."""
        length = segment_length(sample_rate)
        hop = max(1, round(self.hop_seconds * sample_rate)) if self.hop_seconds else length
        end = n_samples - round(self.skip_end_seconds * sample_rate) - length
        return list(range(round(self.skip_start_seconds * sample_rate), end + 1, hop))


@dataclass(frozen=True)
class Candidate:
    """A segment of a pair and the parts of its score.

    start_seconds: place in the pair. decorrelation: from 0 (one noise is the other one, filtered) to 1; NaN when the
    noises are unknown. profile: mean log-mel spectrum of the segment, (N_MELS,), centred, of norm 1.
    """

    pair: PairFile
    start_seconds: float
    decorrelation: float
    profile: np.ndarray


def segment_length(sample_rate: int) -> int:
    """Return the number of samples of a segment at `sample_rate`: SEGMENT_SAMPLES at SAMPLE_RATE."""
    return round(SEGMENT_SAMPLES * sample_rate / SAMPLE_RATE)


def decorrelation(noise1: np.ndarray, noise2: np.ndarray) -> float:
    """Return 1 - coherent share of two noises (channels, samples), from 0 to 1; NaN when one of them is silent.

    With the cross-spectrum S12 and the power spectra S11, S22 averaged over K frames (Welch 1967), the coherent share
    is sum |S12| / sqrt(sum S11 sum S22) over all frequencies. By the triangle inequality it is an upper bound of the
    normalised cross-correlation at every lag within a frame, and it does not depend on the levels. Unrelated Gaussian
    noises have |S12| = c sqrt(S11 S22) by chance, with c = sqrt(pi / (4 K_eff)), the mean of a Rayleigh distribution.
    Without a correction two white noises would seem more alike than two noises in different bands. The corrected
    share = sum(|S12| - c sqrt(S11 S22)) / ((1 - c) sqrt(sum S11 sum S22)) is cut off at 0.
    """
    spectra = [stft(noise, nperseg=N_FFT, boundary=None, padded=False)[2] for noise in (noise1, noise2)]
    cross = np.abs((spectra[0] * spectra[1].conj()).mean(axis=-1))
    powers = [np.square(np.abs(s)).mean(axis=-1) for s in spectra]
    norm = float(np.sqrt(powers[0].sum() * powers[1].sum()))
    if not norm > 0:
        return float("nan")
    chance = np.sqrt(np.pi / 4 / (spectra[0].shape[-1] / FRAME_DEPENDENCE))
    share = (cross - chance * np.sqrt(powers[0] * powers[1])).sum() / ((1 - chance) * norm)
    return float(1 - np.clip(share, 0, 1))


def spectral_profile(audio: np.ndarray) -> np.ndarray:
    """Return the centred mean log-mel spectrum of audio (samples,) at SAMPLE_RATE, scaled to norm 1."""
    mel = librosa.feature.melspectrogram(y=audio, sr=SAMPLE_RATE, n_fft=N_FFT, hop_length=N_FFT, n_mels=N_MELS)
    profile = librosa.power_to_db(mel).mean(axis=1)
    profile = profile - profile.mean()
    return profile / (np.linalg.norm(profile) + 1e-9)


def _score_pair(pair, cut):
    """The candidates of one pair, which is read as a stream; silent segments are left out."""
    found = []
    with AudioReader(pair.input) as noisy, AudioReader(pair.target) as target:
        rate, length = noisy.sample_rate, segment_length(noisy.sample_rate)
        starts = cut.starts(min(noisy.count_samples(), target.count_samples()), rate)
        noises = Sources.of(pair.input.parent).noise_streams(pair.row) if starts else []
        streams = [pieces(blocks, starts, length) for blocks in (noisy.blocks(rate), target.blocks(rate), *noises)]
        for start, noisy_piece, target_piece, *noise_pieces in zip(starts, *streams, strict=True):
            if np.sqrt(np.square(target_piece).mean()) > MIN_RMS:
                # The mean of input and target keeps their common song and halves the power of the noises.
                middle = resample((noisy_piece + target_piece).mean(axis=0, keepdims=True) / 2, rate, SAMPLE_RATE)[0]
                score = decorrelation(*noise_pieces) if noise_pieces else float("nan")
                found.append(Candidate(pair, start / rate, score, spectral_profile(middle)))
    return found


def candidates(pairs: Sequence[PairFile], cut: Cut | None = None, jobs: int = -1) -> list[Candidate]:
    """Score the segments of `pairs`, in order of pair and time; nearly silent segments are left out.

    The noises are made again from the manifest beside the INPUT files and the sources that it names; otherwise the
    decorrelation is NaN. Raises UserError when no pair is long and loud enough.
    """
    cut = cut or Cut()
    with worker_processes(jobs) as parallel:
        scored = parallel(joblib.delayed(_score_pair)(pair, cut) for pair in pairs)
        scored = tqdm(scored, total=len(pairs), desc="scoring", unit="pair", disable=None)
        found = [candidate for group in scored for candidate in group]
    if not found:
        needed = cut.skip_start_seconds + SEGMENT_SAMPLES / SAMPLE_RATE + cut.skip_end_seconds
        raise UserError(f"expected pairs of at least {needed:.2f} s with signal, but the {len(pairs)} pairs are "
                        "shorter or silent: use longer songs or skip less of their starts and ends")
    return found


def percentiles(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value from 0 (lowest) to 1; equal values have their mean rank, and NaN has 0."""
    ranks = (rankdata(np.nan_to_num(values, nan=-np.inf)) - 1) / max(1, len(values) - 1)
    return np.where(np.isnan(values), 0.0, ranks)


def choose(found: Sequence[Candidate], n: int, diversity_weight: float = 0.5) -> list[Candidate]:
    """Choose up to `n` candidates one by one, with a high decorrelation and unlike those already chosen.

    The score is (1 - w) r + w d. r: percentile of the decorrelation among the candidates. d: half the smallest distance
    1 - cosine between the spectral profile and those already chosen, from 0 to 1. w: the diversity weight; with 0,
    d decides between the many candidates of equal r only. Raises CallError for a weight outside 0..1.
    """
    if not 0 <= diversity_weight <= 1:
        raise CallError(f"expected a diversity weight between 0 and 1, got {diversity_weight}: choose 0 "
                        "for the least correlated segments")
    weight = max(diversity_weight, TIE_WEIGHT)
    profiles = np.stack([c.profile for c in found])
    independence = percentiles(np.array([c.decorrelation for c in found]))
    distance, chosen = np.ones(len(found)), []
    for _ in range(min(n, len(found))):
        scores = (1 - weight) * independence + weight * distance
        scores[chosen] = -np.inf
        best = int(scores.argmax())
        chosen.append(best)
        distance = np.minimum(distance, (1 - profiles @ profiles[best]) / 2)
    return [found[i] for i in chosen]


def nearest_distance(chosen: Sequence[Candidate]) -> float:
    """Return the spectral diversity of a set: half the smallest distance 1 - cosine to another segment, on average."""
    profiles = np.stack([c.profile for c in chosen])
    cosines = profiles @ profiles.T
    np.fill_diagonal(cosines, -1)
    return float((1 - cosines.max(axis=1)).mean() / 2)


def evenly(found: Sequence[Candidate], n: int) -> list[Candidate]:
    """Choose `n` evenly spread candidates: for validation and test sets, which the score must not flatter."""
    return [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(n, len(found))).round().astype(int))]


def summary(found: Sequence[Candidate], chosen: Sequence[Candidate], seed: int = 0) -> dict:
    """Return figures on a choice: mean decorrelation, without NaN, and spectral diversity, also of a random choice."""
    drawn = [found[i] for i in np.random.default_rng(seed).permutation(len(found))[: len(chosen)]]

    def mean(candidates):
        known = [c.decorrelation for c in candidates if np.isfinite(c.decorrelation)]
        return float(np.mean(known)) if known else float("nan")

    return {"n_candidates": len(found), "n_chosen": len(chosen), "mean_decorrelation": mean(found),
            "mean_decorrelation_chosen": mean(chosen), "diversity_random": nearest_distance(drawn),
            "diversity_chosen": nearest_distance(chosen)}
