"""Figures: functions that take data and return a matplotlib figure. Nothing is computed but the drawing."""

from collections.abc import Sequence

import librosa
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.evaluation.scores import DENOISED, DO_NOTHING

COLOURS = {"noisy": "#b0413e", "denoised": "#2c6fbb", "clean": "#3a7d44", "removed": "#8a6d3b"}
# Spectrograms show this range below the loudest point of all panels.
RANGE_DB = 90
N_FFT, MAX_COLUMNS, MAX_POINTS = 2048, 1500, 4000


def _spectrogram_db(mono):
    hop = max(N_FFT // 4, -(-len(mono) // MAX_COLUMNS))
    return librosa.amplitude_to_db(np.abs(librosa.stft(mono, n_fft=N_FFT, hop_length=hop)), top_db=None)


def _envelope(mono):
    """Lowest and highest sample of each stretch, so that a long song draws as fast as a short one."""
    n = max(1, -(-len(mono) // MAX_POINTS))
    padded = np.pad(mono, (0, -len(mono) % n)).reshape(-1, n)
    return padded.min(axis=1), padded.max(axis=1)


def audio_figure(signals: dict[str, np.ndarray], sample_rate: int, title: str = "") -> Figure:
    """Waveform and spectrogram of each signal, (channels, samples) or (samples,), one column per signal.

    All waveforms share one scale, all spectrograms one colour scale in dB, so that columns can be compared.
    """
    mono = {name: np.atleast_2d(audio).mean(axis=0) for name, audio in signals.items()}
    figure, axes = plt.subplots(2, len(mono), figsize=(5 * len(mono), 6), squeeze=False, layout="constrained",
                                height_ratios=(1, 2))
    peak = max(float(np.abs(x).max()) for x in mono.values()) or 1.0
    spectra = {name: _spectrogram_db(x) for name, x in mono.items()}
    top = max(float(s.max()) for s in spectra.values())
    image = None
    for column, (name, x) in zip(axes.T, mono.items(), strict=True):
        seconds = len(x) / sample_rate
        low, high = _envelope(x)
        column[0].fill_between(np.linspace(0, seconds, len(low)), low, high, color=COLOURS.get(name, "#555555"), lw=0.3)
        column[0].set(title=name, xlim=(0, seconds), ylim=(-1.05 * peak, 1.05 * peak), xlabel="time (s)")
        image = column[1].imshow(spectra[name], origin="lower", aspect="auto", cmap="magma", vmin=top - RANGE_DB,
                                 vmax=top, extent=(0, seconds, 0, sample_rate / 2000))
        column[1].set(xlabel="time (s)")
    axes[0, 0].set_ylabel("amplitude")
    axes[1, 0].set_ylabel("frequency (kHz)")
    figure.colorbar(image, ax=list(axes[1]), label="dB")
    figure.suptitle(title)
    return figure


def snr_distributions(rows: pd.DataFrame, method: str = DENOISED) -> Figure:
    """SNR before and after for every segment, improvement against input SNR, and its distribution.

    rows: of `evaluate`; method: the one to show.
    """
    after = rows[(rows.method == method) & np.isfinite(rows.snr_improvement_db)]
    before = after.assign(snr_db=after.snr_db - after.snr_improvement_db)  # a method may lack segments
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    edges = np.histogram_bin_edges(np.concatenate([before.snr_db, after.snr_db]), bins=25)
    for part, name in ((before, "noisy"), (after, "denoised")):
        left.hist(part.snr_db, edges, alpha=0.6, color=COLOURS[name],
                  label=f"{name}: mean {part.snr_db.mean():.2f} dB")
    left.set(xlabel="SNR (dB)", ylabel="segments", title=f"SNR of {len(before)} segments")
    left.legend()
    is_white = (after.noise == "white").to_numpy()
    for chosen, label, colour in ((is_white, "white noise", COLOURS["denoised"]),
                                  (~is_white, "other noises", COLOURS["removed"])):
        if chosen.any():
            middle.scatter(before.snr_db.to_numpy()[chosen], after.snr_improvement_db.to_numpy()[chosen], s=14,
                           alpha=0.7, label=label, color=colour)
    middle.axhline(0, color="black", lw=1, label="do nothing")
    middle.set(xlabel="SNR of the input (dB)", ylabel="SNR improvement (dB)", title="every segment: what it gained")
    middle.legend()
    right.hist(after.snr_improvement_db, 25, color=COLOURS["denoised"], alpha=0.8)
    right.axvline(0, color="black", lw=1)
    right.set(xlabel="SNR improvement (dB)", ylabel="segments",
              title=f"improvement, mean {after.snr_improvement_db.mean():+.2f} dB")
    return figure


def improvement_bars(summary: pd.DataFrame) -> Figure:
    """SNR improvement of each method by noise, with its 95 % interval over songs; the table of `summarise`."""
    methods = [m for m in summary.method.unique() if m != DO_NOTHING]
    noises = list(summary.noise.unique())
    figure, axes = plt.subplots(figsize=(max(7, min(20, 1 + 0.22 * len(noises) * (len(methods) + 1))), 4.5),
                                layout="constrained")
    colours = plt.get_cmap("tab10").colors
    height = 0.8 / len(methods)
    for k, method in enumerate(methods):
        rows = summary[summary.method == method].set_index("noise").reindex(noises)
        places = np.arange(len(noises)) + (k - (len(methods) - 1) / 2) * height
        errors = np.abs(rows[["interval_low_db", "interval_high_db"]].to_numpy().T - rows.improvement_db.to_numpy())
        axes.bar(places, rows.improvement_db, height, yerr=np.nan_to_num(errors), color=colours[k % 10], label=method,
                 error_kw={"lw": 0.8})
    axes.axhline(0, color="black", lw=1)
    axes.set_xticks(range(len(noises)), noises, rotation=30, ha="right")
    axes.set(ylabel="SNR improvement (dB)", title="improvement by noise, 95 % intervals over songs; do nothing is 0")
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def quality_against_cost(table: pd.DataFrame) -> Figure:
    """SNR improvement over the time that denoising takes, a point for each width.

    table: width, real_time_factor (seconds per second of mono audio), noise2noise_db, and noise2clean_db or NaN.
    """
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axes.plot(table.real_time_factor, table.noise2noise_db, "o-", color=COLOURS["denoised"], label="noisy targets")
    clean = table.dropna(subset="noise2clean_db")
    axes.plot(clean.real_time_factor, clean.noise2clean_db, "x", ms=9, color=COLOURS["clean"], label="clean targets")
    for row in table.itertuples():
        axes.annotate(f"width {row.width}", (row.real_time_factor, row.noise2noise_db), (0, -14),
                      textcoords="offset points", ha="center")
    axes.margins(0.12)
    axes.set(xscale="log", xlabel="seconds per second of mono audio", ylabel="SNR improvement (dB)",
             title="quality against cost after equal steps")
    axes.legend()
    return figure


def improvement_panels(rows: pd.DataFrame, method: str) -> Figure:
    """Improvement of every segment over its input SNR, a panel for each noise; rows of `evaluate`."""
    noises = sorted(rows.noise.unique(), key=lambda n: (n != "white", n))
    columns = min(4, len(noises))
    lines = -(-len(noises) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.2 * columns, 0.4 + 2.3 * lines), sharex=True, sharey=True,
                                squeeze=False, layout="constrained")
    for axis in axes.flat[len(noises):]:
        axis.axis("off")
    for axis, noise in zip(axes.flat, noises, strict=False):
        before = rows[(rows.noise == noise) & (rows.method == DO_NOTHING)].set_index("segment").snr_db
        gains = rows[(rows.noise == noise) & (rows.method == method)].set_index("segment").snr_improvement_db
        axis.scatter(before.loc[gains.index], gains, s=7, color=COLOURS["denoised"])
        axis.axhline(0, color="black", lw=0.8)
        axis.set_title(f"{noise}: {gains.mean():+.2f} dB, {100 * (gains > 0).mean():.0f} % improved", fontsize=9)
    figure.supxlabel("input SNR (dB)", fontsize=10)
    figure.supylabel("SNR improvement (dB)", fontsize=10)
    return figure


def trade_offs(curves: dict[str, dict]) -> Figure:
    """Improvement against the share of mixtures made worse, a curve for each of some weights.

    curves: by name, what common.calibration.calibrate returns; the dot is what was chosen, the cross is no confidence.
    """
    figure, axes = plt.subplots(figsize=(7.5, 5), layout="constrained")
    for number, (name, found) in enumerate(curves.items()):
        colour = plt.get_cmap("tab20")(number % 20)
        chosen = next(row for row in found["trade_off"] if row["shift"] == found["shift"])
        axes.plot([100 - row["improved_percent"] for row in found["trade_off"]],
                  [row["improvement_db"] for row in found["trade_off"]], lw=1.2, color=colour, label=name)
        axes.plot(100 - chosen["improved_percent"], chosen["improvement_db"], "o", color=colour)
        axes.plot(100 - found["plain_improved_percent"], found["plain_db"], "x", color=colour)
    axes.axhline(0, color="grey", lw=0.8)
    axes.set(xlabel="validation mixtures made worse (%)", ylabel="mean SNR improvement (dB)",
             title="dot: as published, cross: without confidence")
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def confusion(table: pd.DataFrame) -> Figure:
    """Which weights were picked (columns) for which noise (rows), in percent of a row's segments."""
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    share = 100 * table.div(table.sum(axis=1), axis=0)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for (i, j), value in np.ndenumerate(share.to_numpy()):
        if value >= 0.5:
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", color="white" if value > 55 else "black",
                      fontsize=8)
    axes.set_xticks(range(len(share.columns)), share.columns, rotation=60, ha="right")
    axes.set_yticks(range(len(share.index)), share.index)
    axes.set(xlabel="weights picked", ylabel="noise", title="percent of the segments of a noise")
    return figure


def training_curves(history: Sequence[dict]) -> Figure:
    """Training loss and validation SNR improvement by epoch; the best epoch is marked."""
    table = pd.DataFrame(history)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    left.plot(table.epoch, table.train_loss, "o-", color=COLOURS["noisy"])
    left.set(xlabel="epoch", ylabel="training loss", title="loss against noisy targets")
    right.plot(table.epoch, table.validation_snr_improvement_db, "o-", color=COLOURS["denoised"])
    if table.validation_snr_improvement_db.notna().any():
        best = table.loc[table.validation_snr_improvement_db.idxmax()]
        right.plot(best.epoch, best.validation_snr_improvement_db, "*", ms=16, color=COLOURS["clean"],
                   label=f"best: epoch {int(best.epoch)}, {best.validation_snr_improvement_db:+.2f} dB")
    right.axhline(0, color="black", lw=1, label="do nothing")
    right.set(xlabel="epoch", ylabel="SNR improvement (dB)", title="validation songs")
    right.legend()
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def correlation_histograms(rows: Sequence[dict]) -> Figure:
    """Distributions over couples: correlation of the members, and of their noises or its bounds."""
    table = pd.DataFrame(rows)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    edges = np.linspace(-1, 1, 81)
    for name, style in (("pearson", {"color": COLOURS["denoised"], "alpha": 0.6}),
                        ("peak_correlation", {"color": "black", "histtype": "step"})):
        values = table[name].dropna()
        if len(values):
            left.hist(values, edges, label=f"{name}: mean {values.mean():+.3f}", **style)
    left.set(xlabel="correlation of the two members", ylabel="couples", title="members, which share their song")
    known = table.noise_correlation.dropna()
    shown = ["noise_correlation"] if len(known) else ["noise_bound_low", "noise_bound_high"]
    if len(known):  # independent noises are so near zero that the axis must be theirs
        edges = np.linspace(-1, 1, 61) * min(1, max(0.02, 1.1 * known.abs().max()))
    for name, colour in zip(shown, (COLOURS["noisy"], COLOURS["clean"]), strict=False):
        values = table[name].dropna()
        if len(values):
            right.hist(values, edges, alpha=0.6, color=colour, label=f"{name}: mean {values.mean():+.3f}")
    right.set(xlabel="correlation of the two noises", ylabel="couples",
              title="noises alone, from the manifest" if len(known) else "noises: bounds, no manifest or noises found")
    for end in (0.5, 0.8):  # where "medium" and "high" begin
        left.axvline(end, color="black", lw=0.7, ls=":")
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    return figure


def segment_scores(decorrelation: np.ndarray, chosen: np.ndarray, diversity: tuple[float, float]) -> Figure:
    """What a choice of segments changed.

    decorrelation: of all candidates, NaN where unknown; chosen: indices, in the order of the choice; diversity:
    mean distance of a segment to its nearest neighbour, among all candidates drawn at random and among the chosen.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4), layout="constrained", width_ratios=(2, 2, 1))
    known = decorrelation[np.isfinite(decorrelation)]
    if len(known):
        edges = np.histogram_bin_edges(known, bins=30)
        left.hist(known, edges, color="#bbbbbb", density=True, label=f"all {len(known)} candidates")
        left.hist(decorrelation[chosen], edges, color=COLOURS["denoised"], alpha=0.6, density=True,
                  label=f"{len(chosen)} chosen")
        left.legend()
        middle.plot(np.arange(1, len(chosen) + 1), decorrelation[chosen], ".", ms=3, color=COLOURS["denoised"])
    left.set(xlabel="decorrelation of the two noises", ylabel="density", title="scores")
    middle.set(xlabel="chosen as number", ylabel="decorrelation of the two noises", title="the order of the choice")
    right.bar(["as many at\nrandom", "chosen"], diversity, color=["#bbbbbb", COLOURS["denoised"]])
    right.set(ylabel="mean distance to the nearest", title="spectral diversity")
    return figure
