"""Models over a test set: one row per segment and method, and a summary with intervals.

The table's first method is always "do nothing": a denoiser that does not improve on it does harm. Intervals are paired
bootstrap intervals over songs, since segments of one song are not independent.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from scipy.stats import bootstrap

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
from common.small_files import write_text

DO_NOTHING, DENOISED = "do nothing", "denoised"
# Suffixes of a method's further rows: with the segments' noise prints; without, but only on segments that have one.
WITH_PRINT, WHERE_PRINT = ", with print", ", where there is a print"
N_BOOTSTRAP = 2000
# Seconds between two lines of progress.
PROGRESS_SECONDS = 60

log = logging.getLogger(__name__)


def score_segment(segment: Segment, estimates: dict[str, np.ndarray], baselines: Sequence[str] = (),
                  speech: bool = True) -> list[dict]:
    """Return the metric rows of one segment: "do nothing", each estimate (channels, samples), the baselines.

    A baseline that needs a noise print has no row where the segment has none.
    """
    estimates = {DO_NOTHING: segment.noisy} | estimates | {name: BASELINES[name](segment) for name in baselines}
    rows = []
    for method, estimate in estimates.items():
        if estimate is None:
            continue
        row = {"segment": segment.name, "song": segment.pair.song, "noise": segment.pair.noise or "unknown",
               "start_seconds": segment.start_seconds, "has_print": segment.noise_print is not None, "method": method}
        # Infinite scores, as of an estimate without any error, count as not scored.
        row |= {metric: value if np.isfinite(value) else float("nan") for metric, value in score(
            segment.clean, estimate, segment.sample_rate, speech).items()}
        rows.append(row)
        for metric in METRICS:
            gain = row[metric] - rows[0][metric]
            row[improvement_name(metric)] = -gain if metric in LOWER_IS_BETTER else gain
    return rows


def segment_print_power(model: Denoiser, segment: Segment) -> np.ndarray | None:
    """Return the model's print_power, (channels, bins); None without a print, or if it takes none."""
    if segment.noise_print is None or not model.takes_print:
        return None
    return print_power(model.stft.frames(segment.noise_print))


def _estimates(forms, segment):
    """Return the estimate of each model by name, and another one with the segment's print where that is possible."""
    found = {}
    for name, form in forms.items():
        found[name] = denoise(form, segment.noisy, segment.sample_rate)
        power = segment_print_power(form, segment)
        if power is not None:
            found[name + WITH_PRINT] = denoise(form, segment.noisy, segment.sample_rate, print_power=power)
    return found


def with_progress(pairs):
    """Yield the pairs, and log a line of progress every PROGRESS_SECONDS."""
    started = last = time.monotonic()
    for number, pair in enumerate(pairs):
        if time.monotonic() - last > PROGRESS_SECONDS:
            last = time.monotonic()
            log.info("%d of %d test pairs after %.1f minutes", number, len(pairs), (last - started) / 60)
        yield pair


def evaluate(models: dict[str, Denoiser], pairs: Sequence[PairFile], per_pair: int | None = None, speech: bool = True,
             baselines: Sequence[str] = (), jobs: int = -1, precision: str = "float32") -> pd.DataFrame:
    """Score models, and BASELINES by name, on test pairs (their target is the clean song).

    Returns one row per segment and method with the columns segment, song, noise, start_seconds, has_print, method,
    METRICS and the improvement of each. Where a segment has a noise print, models that take one have a second row with
    WITH_PRINT behind their name. speech: add PESQ and STOI; jobs: processes that compute the metrics; precision: of the
    networks, see inference_form. Raises CallError for an unknown baseline or models of several sample rates, UserError
    when no segment is loud enough to be scored.
    """
    unknown = set(baselines) - set(BASELINES)
    rates = {model.stft.sample_rate for model in models.values()} or {SAMPLE_RATE}
    if unknown:
        raise CallError(f"expected baselines among {', '.join(BASELINES)}, got {', '.join(sorted(unknown))}: "
                        "choose some of them")
    if len(rates) > 1:
        raise CallError(f"expected models of one sample rate, got {sorted(rates)} Hz: compare them one by one")
    forms = {name: inference_form(model, model.device.type, precision) for name, model in models.items()}
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


def bootstrap_interval(values: np.ndarray, songs: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean of `values` when songs are drawn with replacement; NaN for a single song."""
    names, index = np.unique(songs, return_inverse=True)
    if len(names) < 2:
        return float("nan"), float("nan")
    sums_and_counts = np.bincount(index, values), np.bincount(index)
    found = bootstrap(sums_and_counts, lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis), paired=True,
                      n_resamples=N_BOOTSTRAP, method="percentile", random_state=np.random.default_rng(0))
    low, high = found.confidence_interval
    return float(low), float(high)


def _by_method(group):
    """Yield (name, rows) of every method, and of methods without print for the segments with one, if others need it."""
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
    """Return means by noise and method, "all" first, then white noise, with a 95 % interval of the SNR improvement.

    `improved_percent` is the share of segments with a higher SNR than the input, `songs_improved` the number of songs
    with a mean improvement above 0, `pesq_wb_scored` and `stoi_scored` the number of segments that these metrics
    accepted. Values that are not finite were not scored. Where only some segments have a noise print and methods use
    it, the other methods have another row over these segments, WHERE_PRINT behind their name, for a fair comparison.
    """
    rows = rows.replace([np.inf, -np.inf], np.nan)
    noises = sorted(rows.noise.unique(), key=lambda n: (n != "white", n))
    table = []
    for noise in ("all", *noises):
        group = rows if noise == "all" else rows[rows.noise == noise]
        nothing = group[group.method == DO_NOTHING]
        table += [_summary_row(noise, method, found, nothing) for method, found in _by_method(group)]
    return pd.DataFrame(table)


def _improvement(row, alone):
    """Format the improvement and its interval; `alone` replaces the interval of a single song."""
    interval = f" [{row.interval_low_db:+.2f}, {row.interval_high_db:+.2f}]" if row.songs > 1 else alone
    return f"{row.improvement_db:+.2f}{interval}"


def summary_table(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the most important columns of the summary as text, to be shown."""
    table = summary[["noise", "method", "songs", "segments"]].copy()
    table["input SNR dB"] = summary.input_snr_db.map("{:.2f}".format)
    table["output SNR dB"] = summary.output_snr_db.map("{:.2f}".format)
    table["improvement dB [95 % interval]"] = [_improvement(r, " [one song]") for r in summary.itertuples()]
    table["improved %"] = summary.improved_percent.map("{:.0f}".format)
    return table


def format_summary(summary: pd.DataFrame) -> str:
    """Format summary_table as text."""
    return summary_table(summary).to_string(index=False)


def save_scores(rows: pd.DataFrame, folder: str | Path) -> pd.DataFrame:
    """Write the rows of `evaluate` and their summary, metrics.csv, summary.csv and summary.md; returns the summary."""
    folder, summary = Path(folder), summarise(rows)
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_csv(folder / "metrics.csv", index=False)
    summary.to_csv(folder / "summary.csv", index=False)
    write_text(folder / "summary.md", markdown_table(summary) + "\n")
    return summary


def headline(summary: pd.DataFrame, method: str) -> dict:
    """Return the figures of one method over all noises, and the improvement of every method, as plain values."""
    overall = summary[summary.noise == "all"].set_index("method")
    white = summary[(summary.noise == "white") & (summary.method == method)]
    figures = {name: float(overall[name][method])
               for name in ("input_snr_db", "output_snr_db", "improvement_db", "improved_percent")}
    return figures | {
        "n_segments": int(overall.segments[method]), "n_songs": int(overall.songs[method]),
        "white_improvement_db": float(white.improvement_db.iloc[0]) if len(white) else None,
        "improvements_db": overall.improvement_db.to_dict()}


def markdown_table(summary: pd.DataFrame) -> str:
    """Format the summary as a Markdown table, for a README or a model card."""
    head = ("noise", "method", "songs", "segments", "SNR dB", "improvement dB [95 % interval]", "improved %",
            "songs improved", "segmental SNR dB", "SI-SDR dB", "LSD dB", "PESQ WB (n)", "STOI (n)")
    lines = [" | ".join(head), "|".join("---" for _ in head)]
    for r in summary.itertuples():
        lines.append(" | ".join((
            r.noise, r.method, str(r.songs), str(r.segments), f"{r.output_snr_db:.2f}", _improvement(r, ""),
            f"{r.improved_percent:.0f}", str(r.songs_improved), f"{r.segmental_snr_db:.2f}", f"{r.si_sdr_db:.2f}",
            f"{r.log_spectral_distance_db:.2f}",
            f"{r.pesq_wb:.2f} ({r.pesq_wb_scored})" if r.pesq_wb_scored else "not scored",
            f"{r.stoi:.3f} ({r.stoi_scored})" if r.stoi_scored else "not scored")))
    return "\n".join(f"| {line} |" for line in lines)


def save_samples(model: Denoiser, pairs: Sequence[PairFile], rows: pd.DataFrame, folder: str | Path, n: int = 3,
                 per_pair: int | None = None, indices: Sequence[int] = ()) -> list[dict]:
    """Write noisy, denoised and clean WAVs of `n` segments, from the least to the most improved.

    rows: those of the model in the table of `evaluate`, made with the same `per_pair`. indices: numbers of rows to
    write instead. Returns a dict for each segment with name, improvement, and the three arrays (channels, samples).
    Raises CallError for an index beyond the rows.
    """
    if not all(0 <= i < len(rows) for i in indices):
        raise CallError(f"expected sample indices from 0 to {len(rows) - 1}, got {list(indices)}: "
                        "choose numbers of rows in the table")
    if not indices:
        rows = rows.sort_values("snr_improvement_db", kind="stable")
        indices = np.unique(np.linspace(0, len(rows) - 1, n).round().astype(int))
    chosen = rows.iloc[list(indices)]
    wanted = dict(zip(chosen.segment, chosen.snr_improvement_db, strict=True))
    found = {s.name: s for s in segments(pairs, model.stft.sample_rate, per_pair) if s.name in wanted}
    samples = []
    for number, (segment, gain) in enumerate(wanted.items(), 1):
        name, made = f"sample_{number:03d}", found[segment]
        audio = {"noisy": made.noisy, "denoised": denoise(model, made.noisy, made.sample_rate), "clean": made.clean}
        for kind, x in audio.items():
            write_audio(Path(folder) / f"{name}_{kind}.wav", x, made.sample_rate)
        samples.append({"name": name, "segment": segment, "song": made.pair.song, "noise": made.pair.noise,
                        "snr_improvement_db": float(gain), "audio": audio})
    return samples
