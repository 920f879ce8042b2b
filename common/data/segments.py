"""Choosing the segments of a dataset that are worth training on.

Two things are wanted of a set of segments, and both are measured blind to level, since loud noise alone teaches
nothing. *Decorrelation*: Noise2Noise needs two noises that have nothing in common, for what they share is learnt
as if it were music. *Diversity*: a segment that sounds like one already chosen adds little. The two are traded off
greedily, as maximal marginal relevance does for texts (Carbonell and Goldstein 1998).

The noises are made again from the manifest. They cannot be estimated from input and target: with the clean signal
taken as the mean of both, the two residuals are exact opposites, whose correlation is -1 for every segment.
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
from common.data.manifest import SIDES, Sources, read_manifest
from common.data.pairs import MIN_RMS, PairFile
from common.errors import CallError, UserError
from common.network.stft import SAMPLE_RATE, SEGMENT_SAMPLES
from common.workers import pool

N_FFT, N_MELS = 2048, 40
# Hann frames that overlap by half count for a little less than as many independent ones: 1 + 2 (1/6)^2.
FRAME_DEPENDENCE = 1.0556
# Enough to decide between equals, too little to decide anything else.
TIE_WEIGHT = 1e-6


@dataclass(frozen=True)
class Cut:
    """Where segments may lie: one every `hop_seconds` (None: without overlap), outside of a song's start and end."""

    hop_seconds: float | None = None
    skip_start_seconds: float = 6.0
    skip_end_seconds: float = 12.0

    def __post_init__(self):
        if self.hop_seconds is not None and self.hop_seconds <= 0:
            raise CallError(f"expected a positive hop between segments, got {self.hop_seconds} s")
        if min(self.skip_start_seconds, self.skip_end_seconds) < 0:
            raise CallError(f"expected seconds to skip of at least 0, got {self.skip_start_seconds} and "
                            f"{self.skip_end_seconds}")

    def starts(self, n_samples: int, sample_rate: int) -> list[int]:
        """First samples of the segments of a song of `n_samples`."""
        length = segment_length(sample_rate)
        hop = max(1, round(self.hop_seconds * sample_rate)) if self.hop_seconds else length
        end = n_samples - round(self.skip_end_seconds * sample_rate) - length
        return list(range(round(self.skip_start_seconds * sample_rate), end + 1, hop))


@dataclass(frozen=True)
class Candidate:
    """A segment of a pair and its score parts.

    start_seconds: within the pair. decorrelation: of its two noises, 0 (one is the other, filtered) to 1; NaN when
    they are not known. profile: mean log-mel spectrum of the segment, (N_MELS,), centred, of norm 1.
    """

    pair: PairFile
    start_seconds: float
    decorrelation: float
    profile: np.ndarray


def segment_length(sample_rate: int) -> int:
    """Samples of a segment at `sample_rate`: SEGMENT_SAMPLES at SAMPLE_RATE."""
    return round(SEGMENT_SAMPLES * sample_rate / SAMPLE_RATE)


def decorrelation(noise1: np.ndarray, noise2: np.ndarray) -> float:
    """1 - coherent share of two noises, both (channels, samples), 0..1; NaN when one of them is silent.

    With the cross-spectrum S12 and the power spectra S11, S22 averaged over K frames (Welch 1967), the coherent
    share is sum |S12| / sqrt(sum S11 sum S22) over all frequencies: by the triangle inequality an upper bound of the
    normalised cross-correlation at every lag (within a frame), whatever the levels. Unrelated Gaussian noises have
    |S12| = c sqrt(S11 S22) by chance, c = sqrt(pi / (4 K_eff)), the mean of a Rayleigh distribution. That is
    taken off, for else two white noises would pass for more alike than two noises in different bands:
    share = sum(|S12| - c sqrt(S11 S22)) / ((1 - c) sqrt(sum S11 sum S22)), and 0 where this is negative.
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
    """The centred mean log-mel spectrum of (samples,) at SAMPLE_RATE, of norm 1: blind to level."""
    mel = librosa.feature.melspectrogram(y=audio, sr=SAMPLE_RATE, n_fft=N_FFT, hop_length=N_FFT, n_mels=N_MELS)
    profile = librosa.power_to_db(mel).mean(axis=1)
    profile = profile - profile.mean()
    return profile / (np.linalg.norm(profile) + 1e-9)


def _noise_blocks(row, sources):
    """Streams of the two noises of a pair; None when there is no second noise, no manifest or no source."""
    if not row or not row.get("input_scale"):
        return None
    try:
        noises = [sources.noise(row, side) for side in SIDES]
    except UserError:  # a source that has gone; whoever builds a set says so
        return None
    return None if None in noises else [noise.blocks() for noise in noises]


def _score_pair(pair, row, cut):
    """The candidates of one pair, read as streams; silent segments are left out."""
    found = []
    with AudioReader(pair.input) as noisy, AudioReader(pair.target) as target:
        rate, length = noisy.sample_rate, segment_length(noisy.sample_rate)
        starts = cut.starts(min(noisy.count_samples(), target.count_samples()), rate)
        streams = [pieces(reader.blocks(rate), starts, length) for reader in (noisy, target)]
        noises = _noise_blocks(row, Sources.of(pair.input.parent)) if starts else None
        if noises:
            streams += [pieces(blocks, starts, length) for blocks in noises]
        for start, noisy_piece, target_piece, *noise_pieces in zip(starts, *streams, strict=True):
            if np.sqrt(np.square(target_piece).mean()) > MIN_RMS:
                # The song is common to both, so that the mean of both has its spectrum and less of either noise.
                middle = resample((noisy_piece + target_piece).mean(axis=0, keepdims=True) / 2, rate, SAMPLE_RATE)[0]
                score = decorrelation(*noise_pieces) if noise_pieces else float("nan")
                found.append(Candidate(pair, start / rate, score, spectral_profile(middle)))
    return found


def _numbered(number, pair, row, cut):
    return number, _score_pair(pair, row, cut)


def candidates(pairs: Sequence[PairFile], cut: Cut | None = None, jobs: int = -1) -> list[Candidate]:
    """The segments of `pairs` with their scores, by pair and time; nearly silent ones are left out.

    The noises are made again from the manifest beside the INPUT files and the sources it names; where that is not
    possible the decorrelation is NaN. Raises UserError when no pair is long and loud enough.
    """
    cut = cut or Cut()
    manifests = {folder: {row["pair_id"]: row for row in read_manifest(folder)} for folder in
                 {p.input.parent for p in pairs}}
    with pool(jobs) as (parallel, _):
        work = (joblib.delayed(_numbered)(n, p, manifests[p.input.parent].get(p.pair_id), cut)
                for n, p in enumerate(pairs))
        scored = dict(tqdm(parallel(work), total=len(pairs), desc="scoring", unit="pair", disable=None))
    found = [candidate for n in range(len(pairs)) for candidate in scored[n]]
    if not found:
        needed = cut.skip_start_seconds + SEGMENT_SAMPLES / SAMPLE_RATE + cut.skip_end_seconds
        raise UserError(f"expected pairs of at least {needed:.2f} s with signal, but the {len(pairs)} pairs are "
                        "shorter or silent: use longer songs or skip less of their starts and ends")
    return found


def percentiles(values: np.ndarray) -> np.ndarray:
    """The rank of each value, 0 (lowest) to 1, equal values sharing the mean of theirs; NaN counts as lowest."""
    ranks = (rankdata(np.nan_to_num(values, nan=-np.inf)) - 1) / max(1, len(values) - 1)
    return np.where(np.isnan(values), 0.0, ranks)


def choose(found: Sequence[Candidate], n: int, diversity_weight: float = 0.5) -> list[Candidate]:
    """Greedily choose up to `n` candidates with high decorrelation and far from those chosen before.

    The score is (1 - w) * r + w * d, with r the percentile of the decorrelation among the candidates and d in 0..1
    half the least distance 1 - cosine of the spectral profile to those chosen. `diversity_weight` w: 0 ranks by
    decorrelation and leaves ties, which are many, to d. Raises CallError for a weight outside 0..1.
    """
    if not 0 <= diversity_weight <= 1:
        raise CallError(f"expected a diversity weight between 0 and 1, got {diversity_weight}")
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
    """Spectral diversity of a set: mean over its segments of half the least distance 1 - cosine to another one."""
    profiles = np.stack([c.profile for c in chosen])
    cosines = profiles @ profiles.T
    np.fill_diagonal(cosines, -1)
    return float((1 - cosines.max(axis=1)).mean() / 2)


def evenly(found: Sequence[Candidate], n: int) -> list[Candidate]:
    """`n` candidates evenly spread: for test and validation sets, which no choice should flatter."""
    return [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(n, len(found))).round().astype(int))]


def summary(found: Sequence[Candidate], chosen: Sequence[Candidate], seed: int = 0) -> dict:
    """A choice in figures: mean decorrelation (NaN left out) and spectral diversity, chosen against random."""
    drawn = [found[i] for i in np.random.default_rng(seed).permutation(len(found))[: len(chosen)]]

    def mean(candidates):
        known = [c.decorrelation for c in candidates if np.isfinite(c.decorrelation)]
        return float(np.mean(known)) if known else float("nan")

    return {"n_candidates": len(found), "n_chosen": len(chosen), "mean_decorrelation": mean(found),
            "mean_decorrelation_chosen": mean(chosen), "diversity_random": nearest_distance(drawn),
            "diversity_chosen": nearest_distance(chosen)}
