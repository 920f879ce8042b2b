"""Choosing the segments of a dataset that are worth training on.

A segment teaches most when its input and target differ much, through loud and independent noises
(Noise2Noise learns from what they do not share), and when it does not sound like those already chosen.
Both are measured here and traded off greedily.
"""

import csv
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np

from common.audio import read_audio, write_audio
from common.dataset import SAMPLE_RATE, PairFile
from common.errors import CallError, UserError
from common.evaluation import MIN_RMS, SEGMENT_SAMPLES
from common.merging import MANIFEST, file_sha256, read_manifest

N_MELS = 40


@dataclass(frozen=True)
class Candidate:
    """A segment of a pair: where it starts at SAMPLE_RATE, its score parts and its spectral profile.

    decorrelation: of its input and target, 0 (the same recording twice) to 1. profile: mean log-mel
    spectrum of the target, (N_MELS,), centred, of norm 1.
    """

    pair: PairFile
    start: int
    decorrelation: float
    profile: np.ndarray


def decorrelation(noisy: np.ndarray, target: np.ndarray) -> float:
    """1 - |correlation| of input and target, both (samples,): low when they are nearly the same recording."""
    a, b = noisy - noisy.mean(), target - target.mean()
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return 1 - abs(float(a @ b) / norm) if norm > 0 else 0.0


def spectral_profile(audio: np.ndarray) -> np.ndarray:
    """The centred mean log-mel spectrum of (samples,) at SAMPLE_RATE, of norm 1."""
    mel = librosa.feature.melspectrogram(y=audio, sr=SAMPLE_RATE, n_fft=2048, hop_length=2048, n_mels=N_MELS)
    profile = librosa.power_to_db(mel).mean(axis=1)
    profile = profile - profile.mean()
    return profile / (np.linalg.norm(profile) + 1e-9)


def candidates(pairs: Sequence[PairFile], hop_seconds: float | None = None) -> list[Candidate]:
    """Segments of SEGMENT_SAMPLES, one every `hop_seconds` (default: no overlap); silent ones are left out."""
    hop = round(hop_seconds * SAMPLE_RATE) if hop_seconds else SEGMENT_SAMPLES
    if hop < 1:
        raise CallError(f"expected a positive hop between segments, got {hop_seconds} s")
    found = []
    for pair in pairs:
        noisy, target = (read_audio(p, SAMPLE_RATE, mono=True)[0][0] for p in (pair.input, pair.target))
        for start in range(0, len(noisy) - SEGMENT_SAMPLES + 1, hop):
            a, b = (x[start : start + SEGMENT_SAMPLES] for x in (noisy, target))
            if np.sqrt(np.square(b).mean()) > MIN_RMS:
                found.append(Candidate(pair, start, decorrelation(a, b), spectral_profile(b)))
    if not found:
        raise UserError(f"expected pairs of at least {SEGMENT_SAMPLES / SAMPLE_RATE:.2f} s with signal, but the "
                        f"{len(pairs)} pairs are shorter or silent: use longer songs")
    return found


def choose(found: Sequence[Candidate], n: int, diversity_weight: float = 0.5) -> list[Candidate]:
    """Greedily choose up to `n` candidates with high decorrelation and far from those chosen before.

    The score is (1 - w) * decorrelation + w * d, with d in 0..1 half the least distance 1 - cosine of the
    spectral profile to those chosen. `diversity_weight` w: 0 ranks by decorrelation alone.
    """
    if not 0 <= diversity_weight <= 1:
        raise CallError(f"expected a diversity weight between 0 and 1, got {diversity_weight}")
    profiles = np.stack([c.profile for c in found])
    independence = np.array([c.decorrelation for c in found])
    distance, chosen = np.ones(len(found)), []
    for _ in range(min(n, len(found))):
        scores = (1 - diversity_weight) * independence + diversity_weight * distance
        scores[chosen] = -np.inf
        best = int(scores.argmax())
        chosen.append(best)
        distance = np.minimum(distance, (1 - profiles @ profiles[best]) / 2)
    return [found[i] for i in chosen]


def evenly(found: Sequence[Candidate], n: int) -> list[Candidate]:
    """`n` candidates evenly spread: for test and validation sets, which no choice should flatter."""
    return [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(n, len(found))).round().astype(int))]


def save_segments(chosen: Sequence[Candidate], output_dir: str | Path) -> Path:
    """Write the segments as a dataset of their own: `output_dir`/input, /target and a manifest.

    File names carry the segment's number within its pair (S1N2G3); the manifest repeats the pair's row
    with the segment's start and score. Returns the folder. Raises CallError when it is not empty.
    """
    output_dir = Path(output_dir)
    if output_dir.is_dir() and any(output_dir.iterdir()):
        raise CallError(f"expected an empty folder, but {output_dir} holds files: choose another OUTPUT_DIR or "
                        "remove it")
    # Made beside its place and renamed at the end: a set that is there is whole.
    partial = output_dir.with_name(f".{output_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    folders = {side: partial / side for side in ("input", "target")}
    by_pair = {}
    for candidate in sorted(chosen, key=lambda c: c.start):
        by_pair.setdefault(candidate.pair, []).append(candidate)
    rows = []
    for pair, members in sorted(by_pair.items(), key=lambda item: item[0].input.name):
        parent = next((r for r in read_manifest(pair.input.parent) if r["pair_id"] == pair.pair_id), {})
        audio = {side: read_audio(getattr(pair, side), SAMPLE_RATE)[0] for side in folders}
        for number, candidate in enumerate(members, 1):
            row = dict(parent, pair_id=f"{pair.pair_id}G{number}", start_seconds=candidate.start / SAMPLE_RATE,
                       decorrelation=candidate.decorrelation)
            for side, folder in folders.items():
                name = getattr(pair, side).name.replace(pair.pair_id, row["pair_id"], 1)
                write_audio(folder / name, audio[side][:, candidate.start : candidate.start + SEGMENT_SAMPLES],
                            SAMPLE_RATE)
                row |= {f"{side}_file": name, f"{side}_sha256": file_sha256(folder / name)}
            rows.append(row)
    with open(folders["input"] / MANIFEST, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, dict.fromkeys(key for row in rows for key in row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if output_dir.is_dir():
        output_dir.rmdir()
    os.replace(partial, output_dir)
    return output_dir
