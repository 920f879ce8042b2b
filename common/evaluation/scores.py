"""Models over a test set: one row per segment and method, and a summary that can be believed.

The table's first method is always "do nothing": a denoiser that does not beat it is harmful. Intervals
are paired bootstrap intervals over songs, since segments of one song are not independent.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch

from common.audio.writing import write_audio
from common.data.pairs import PairFile, Segment, segments
from common.data.silence import LEFT_OUT
from common.denoising.files import denoise
from common.errors import CallError, UserError
from common.evaluation.baselines import BASELINES
from common.evaluation.metrics import LOWER_IS_BETTER, METRICS, improvement_name, score
from common.network.inference import inference_form
from common.network.model import Denoiser
from common.network.noise_print import print_power
from common.network.stft import SAMPLE_RATE

DO_NOTHING, DENOISED = "do nothing", "denoised"
# A method's further rows: with the segments' noise prints, and, in summaries, without but on the same segments.
WITH_PRINT, WHERE_PRINT = ", with print", ", where there is a print"
N_BOOTSTRAP = 2000
# Seconds between two lines of progress.
PROGRESS_SECONDS = 60

log = logging.getLogger(__name__)


def score_segment(segment: Segment, estimates: dict[str, np.ndarray], baselines: Sequence[str] = (),
                  speech: bool = True) -> list[dict]:
    """Metric rows of one segment, "do nothing" first, then each estimate (channels, samples), then the baselines.

    A baseline that needs a noise print has no row where the segment has none.
    """
    shared = {"segment": segment.name, "song": segment.pair.song, "noise": segment.pair.noise or "unknown",
              "start_seconds": segment.start_seconds, "has_print": segment.noise_print is not None}
    estimates = {DO_NOTHING: segment.noisy} | estimates
    for name in baselines:
        estimate = BASELINES[name](segment.noisy, segment.clean, segment.sample_rate, segment.noise_print)
        if estimate is not None:
            estimates[name] = estimate
    rows = [shared | {"method": method} | _finite(score(segment.clean, estimate, segment.sample_rate, speech))
            for method, estimate in estimates.items()]
    for row in reversed(rows):  # the first one, do nothing, last
        for metric in METRICS:
            sign = -1 if metric in LOWER_IS_BETTER else 1
            row[improvement_name(metric)] = sign * (row[metric] - rows[0][metric])
    return rows


def _finite(scores):
    """Scores with NaN, not scored, for infinity, as of an estimate without any error."""
    return {name: value if np.isfinite(value) else float("nan") for name, value in scores.items()}


def segment_print_power(model: Denoiser, segment: Segment) -> torch.Tensor | None:
    """What a model's print_power takes, (channels, bins) on its device; None without a print, or if it takes none."""
    if segment.noise_print is None or not model.takes_print:
        return None
    return print_power(torch.from_numpy(segment.noise_print).to(model.device), model.stft)


def _estimates(forms, segment):
    """Of each model by name, and with the segment's print where there is one and the model takes it."""
    found = {}
    for name, form in forms.items():
        found[name] = denoise(form, segment.noisy, segment.sample_rate)
        power = segment_print_power(form, segment)
        if power is not None:
            found[name + WITH_PRINT] = denoise(form, segment.noisy, segment.sample_rate,
                                               print_power=power.cpu().numpy())
    return found


def with_progress(pairs):
    """The pairs, and now and then a line that says how far they are."""
    started = told = time.monotonic()
    for number, pair in enumerate(pairs):
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            log.info("%d of %d test pairs after %.1f minutes", number, len(pairs), (told - started) / 60)
        yield pair


def evaluate(models: dict[str, Denoiser], pairs: Sequence[PairFile], per_pair: int | None = None, speech: bool = True,
             baselines: Sequence[str] = (), jobs: int = -1, precision: str = "float32") -> pd.DataFrame:
    """Score models, and BASELINES by name, on test pairs (their target is the clean song).

    Returns one row per segment and method with the columns segment, song, noise, start_seconds, has_print, method,
    METRICS and the improvement of each; where a segment has a noise print, models that take one have a second row,
    WITH_PRINT behind their name. `speech` adds PESQ and STOI; `jobs` processes compute the metrics; precision: of
    the networks, see inference_form. Raises CallError for an unknown baseline or models of several sample rates,
    UserError when no segment is loud enough to be scored.
    """
    unknown = set(baselines) - set(BASELINES)
    rates = {model.stft.sample_rate for model in models.values()} or {SAMPLE_RATE}
    if unknown:
        raise CallError(f"expected baselines among {', '.join(BASELINES)}, got {', '.join(sorted(unknown))}")
    if len(rates) > 1:
        raise CallError(f"expected models of one sample rate, got {sorted(rates)} Hz: compare them one by one")
    forms = {name: inference_form(model, model.device.type, precision)
             for name, model in models.items()}
    silent = []
    work = (joblib.delayed(score_segment)(s, _estimates(forms, s), baselines, speech)
            for s in segments(with_progress(pairs), rates.pop(), per_pair, silent))
    heavy = speech or baselines
    rows = [row for group in joblib.Parallel(n_jobs=jobs if heavy else 1, max_nbytes=None)(work) for row in group]
    if not rows:
        raise UserError(f"expected segments above -60 dBFS, with noise, in {len(pairs)} test pairs, but in all of them "
                        "song or noise is silent: check the test set")
    if silent:
        log.info(LEFT_OUT, "segments", len(silent), len(silent) + len({row["segment"] for row in rows}))
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


def _by_method(group):
    """(name, rows) of every method; of one without a print twice where some segments only have one and are compared."""
    printed = group.get("has_print", pd.Series(False, group.index))
    needs_print = printed.groupby(group.method).all()
    for method, rows in group.groupby("method", sort=False):
        yield method, rows
        if method != DO_NOTHING and needs_print.any() and not needs_print[method]:
            yield method + WHERE_PRINT, rows[printed[rows.index]]


def _summary_row(noise, method, rows, nothing):
    rows = rows[rows.snr_improvement_db.notna()]
    baseline, gain = nothing[nothing.segment.isin(rows.segment)], rows.snr_improvement_db
    low, high = bootstrap_interval(gain.to_numpy(), rows.song.to_numpy())
    row = {"noise": noise, "method": method, "songs": rows.song.nunique(), "segments": len(rows),
           "input_snr_db": baseline.snr_db.mean(), "output_snr_db": rows.snr_db.mean(),
           "improvement_db": gain.mean(), "interval_low_db": low, "interval_high_db": high,
           "improved_percent": 100 * (gain > 0).mean(),
           "songs_improved": int((rows.groupby("song").snr_improvement_db.mean() > 0).sum())}
    for column in METRICS[1:]:
        row[column] = rows[column].mean()
        row[improvement_name(column)] = rows[improvement_name(column)].mean()
    return row | {f"{name}_scored": int(rows[name].notna().sum()) for name in ("pesq_wb", "stoi")}


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Means by noise and method, "all" first, white noise next, with a 95 % interval of the SNR improvement.

    `improved_percent` is the share of segments with a higher SNR than the input, `songs_improved` the number of songs
    whose segments' mean improvement is above 0; `pesq_wb_scored` and `stoi_scored` say how many segments these metrics
    accepted. What is not finite was not scored. Where only some of the segments have a noise print and methods are
    given it, those without one have another row over these segments, WHERE_PRINT behind their name, for a fair
    comparison.
    """
    rows = rows.replace([np.inf, -np.inf], np.nan)
    noises = sorted(rows.noise.unique(), key=lambda n: (n != "white", n))
    table = []
    for noise in ("all", *noises):
        group = rows if noise == "all" else rows[rows.noise == noise]
        nothing = group[group.method == DO_NOTHING]
        table += [_summary_row(noise, method, found, nothing) for method, found in _by_method(group)]
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


def markdown_table(summary: pd.DataFrame) -> str:
    """The summary as a Markdown table, for a README or a model card."""
    head = ("noise", "method", "songs", "segments", "SNR dB", "improvement dB [95 % interval]", "improved %",
            "songs improved", "segmental SNR dB", "SI-SDR dB", "LSD dB", "PESQ WB (n)", "STOI (n)")
    lines = [" | ".join(head), "|".join("---" for _ in head)]
    for r in summary.itertuples():
        interval = f" [{r.interval_low_db:+.2f}, {r.interval_high_db:+.2f}]" if r.songs > 1 else ""
        lines.append(" | ".join((
            r.noise, r.method, str(r.songs), str(r.segments), f"{r.output_snr_db:.2f}",
            f"{r.improvement_db:+.2f}{interval}", f"{r.improved_percent:.0f}", str(r.songs_improved),
            f"{r.segmental_snr_db:.2f}", f"{r.si_sdr_db:.2f}", f"{r.log_spectral_distance_db:.2f}",
            f"{r.pesq_wb:.2f} ({r.pesq_wb_scored})" if r.pesq_wb_scored else "not scored",
            f"{r.stoi:.3f} ({r.stoi_scored})" if r.stoi_scored else "not scored")))
    return "\n".join(f"| {line} |" for line in lines)


def save_samples(model: Denoiser, pairs: Sequence[PairFile], rows: pd.DataFrame, folder: str | Path, n: int = 3,
                 per_pair: int | None = None, method: str = DENOISED, indices: Sequence[int] = ()) -> list[dict]:
    """Write noisy, denoised and clean WAVs of `n` segments, from the least to the most improved.

    `rows` and `per_pair` are those of `evaluate`, `method` the model's name there. indices: segments by number, in the
    order of the rows, in place of these. Returns for each a dict with name, improvement, and the three arrays
    (channels, samples). Raises CallError for an index that is not there.
    """
    gains = rows[rows.method == method]
    if not all(0 <= i < len(gains) for i in indices):
        raise CallError(f"expected sample indices from 0 to {len(gains) - 1}, got {list(indices)}")
    if not indices:
        gains = gains.sort_values("snr_improvement_db", kind="stable")
    places = list(indices) or np.unique(np.linspace(0, len(gains) - 1, n).round().astype(int))
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
