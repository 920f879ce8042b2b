"""A model over a test set: one row per segment and method, and a summary that can be believed.

The table's first method is always "do nothing": a denoiser that does not beat it is harmful. Intervals
are paired bootstrap intervals over songs, since segments of one song are not independent.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

from common.audio import read_audio, write_audio
from common.dataset import MIN_RMS, SEGMENT_SAMPLES, PairFile
from common.denoising import denoise
from common.errors import UserError
from common.metrics import score
from common.model import Denoiser

DO_NOTHING, DENOISED = "do nothing", "denoised"
N_BOOTSTRAP = 2000


@dataclass(frozen=True)
class Segment:
    """A piece of a pair: arrays (channels, samples) at `sample_rate`, starting at `start_seconds`."""

    pair: PairFile
    start_seconds: float
    sample_rate: int
    noisy: np.ndarray
    clean: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.pair.pair_id}@{self.start_seconds:.2f}s"


def segments(pairs: Sequence[PairFile], sample_rate: int, per_pair: int | None = None) -> Iterator[Segment]:
    """Cut test pairs into segments of SEGMENT_SAMPLES (or the whole of a shorter pair), at `sample_rate`.

    `per_pair` takes that many, evenly spread, from every pair. Nearly silent segments are left out.
    """
    for pair in pairs:
        noisy, _ = read_audio(pair.input, sample_rate)
        clean, _ = read_audio(pair.target, sample_rate)
        length = min(SEGMENT_SAMPLES, noisy.shape[1])
        starts = np.arange(0, noisy.shape[1] - length + 1, length)
        loud = [s for s in starts if np.sqrt(np.square(clean[:, s : s + length]).mean()) > MIN_RMS]
        if per_pair and len(loud) > per_pair:
            loud = [loud[i] for i in np.linspace(0, len(loud) - 1, per_pair).round().astype(int)]
        for s in loud:
            yield Segment(pair, s / sample_rate, sample_rate, noisy[:, s : s + length], clean[:, s : s + length])


def _rows(segment, estimates, speech):
    """Metric rows of one segment for every method."""
    shared = {"segment": segment.name, "song": segment.pair.song, "noise": segment.pair.noise or "unknown",
              "start_seconds": segment.start_seconds}
    rows = [shared | {"method": method} | score(segment.clean, estimate, segment.sample_rate, speech)
            for method, estimate in estimates.items()]
    return [row | {"snr_improvement_db": row["snr_db"] - rows[0]["snr_db"]} for row in rows]


def evaluate(model: Denoiser, pairs: Sequence[PairFile], per_pair: int | None = None, speech: bool = True,
             jobs: int = -1) -> pd.DataFrame:
    """Score a model on test pairs (their target is the clean song).

    Returns one row per segment and method with the columns segment, song, noise, start_seconds, method,
    METRICS and snr_improvement_db. `speech` adds PESQ and STOI; `jobs` processes compute the metrics.
    Raises UserError when no segment is loud enough to be scored.
    """
    rate = model.stft.sample_rate
    work = (joblib.delayed(_rows)(s, {DO_NOTHING: s.noisy, DENOISED: denoise(model, s.noisy, rate)}, speech)
            for s in segments(pairs, rate, per_pair))
    rows = [row for group in joblib.Parallel(n_jobs=jobs if speech else 1)(work) for row in group]
    if not rows:
        raise UserError(f"expected segments above -60 dBFS in {len(pairs)} test pairs, but all are silent: "
                        "check the test set")
    return pd.DataFrame(rows)


def bootstrap_interval(values: np.ndarray, songs: np.ndarray, level: float = 0.95,
                       seed: int = 0) -> tuple[float, float]:
    """Interval of the mean of `values` when songs are drawn anew with replacement; NaN for a single song."""
    names, index = np.unique(songs, return_inverse=True)
    if len(names) < 2:
        return float("nan"), float("nan")
    sums, counts = np.bincount(index, values), np.bincount(index)
    draws = np.random.default_rng(seed).integers(len(names), size=(N_BOOTSTRAP, len(names)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _summary_row(noise, method, rows, baseline):
    gain = rows.snr_improvement_db.to_numpy()
    low, high = bootstrap_interval(gain, rows.song.to_numpy())
    row = {"noise": noise, "method": method, "songs": rows.song.nunique(), "segments": len(rows),
           "input_snr_db": baseline.snr_db.mean(), "output_snr_db": rows.snr_db.mean(),
           "improvement_db": gain.mean(), "interval_low_db": low, "interval_high_db": high,
           "improved_percent": 100 * (gain > 0).mean()}
    for column in ("segmental_snr_db", "si_sdr_db", "pesq_nb", "pesq_wb", "stoi"):
        row[column] = rows[column].mean()
    return row | {"pesq_scored": int(rows.pesq_wb.notna().sum())}


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Means by noise and method, "all" first, white noise next, with a 95 % interval of the SNR improvement.

    `improved_percent` is the share of segments with a higher SNR than the input; `pesq_scored` says how
    many of them PESQ accepted.
    """
    noises = sorted(rows.noise.unique(), key=lambda n: (n != "white", n))
    table = []
    for noise in ("all", *noises):
        group = rows if noise == "all" else rows[rows.noise == noise]
        baseline = group[group.method == DO_NOTHING]
        table += [_summary_row(noise, method, group[group.method == method], baseline)
                  for method in group.method.unique()]
    return pd.DataFrame(table)


def format_summary(summary: pd.DataFrame) -> str:
    """The summary as text: the columns that a reader needs first, in dB with two decimals."""
    text = summary[["noise", "method", "songs", "segments"]].copy()
    text["input SNR dB"] = summary.input_snr_db.map("{:.2f}".format)
    text["output SNR dB"] = summary.output_snr_db.map("{:.2f}".format)
    text["improvement dB [95 % interval]"] = [
        f"{r.improvement_db:+.2f} "
        + (f"[{r.interval_low_db:+.2f}, {r.interval_high_db:+.2f}]" if r.songs > 1 else "[one song]")
        for r in summary.itertuples()]
    text["improved %"] = summary.improved_percent.map("{:.0f}".format)
    return text.to_string(index=False)


def save_samples(model: Denoiser, pairs: Sequence[PairFile], rows: pd.DataFrame, folder: str | Path, n: int = 3,
                 per_pair: int | None = None) -> list[dict]:
    """Write noisy, denoised and clean WAVs of `n` segments, from the least to the most improved.

    `rows` and `per_pair` are those of `evaluate`. Returns for each a dict with name, improvement, and the
    three arrays (channels, samples).
    """
    gains = rows[rows.method == DENOISED].sort_values("snr_improvement_db", kind="stable")
    places = np.unique(np.linspace(0, len(gains) - 1, n).round().astype(int))
    wanted = dict(zip(gains.segment.iloc[places], gains.snr_improvement_db.iloc[places], strict=True))
    found = {s.name: s for s in segments(pairs, model.stft.sample_rate, per_pair) if s.name in wanted}
    samples = []
    for number, (name, gain) in enumerate(wanted.items(), 1):
        segment = found[name]
        audio = {"noisy": segment.noisy, "denoised": denoise(model, segment.noisy, segment.sample_rate),
                 "clean": segment.clean}
        for kind, x in audio.items():
            write_audio(Path(folder) / f"sample_{number:03d}_{kind}.wav", x, segment.sample_rate)
        samples.append({"name": f"sample_{number:03d}", "segment": name, "song": segment.pair.song,
                        "noise": segment.pair.noise, "snr_improvement_db": float(gain), "audio": audio})
    return samples
