"""Figures: functions that draw data and return a matplotlib figure."""

from collections.abc import Sequence

import librosa
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.evaluation.scores import DENOISED, DO_NOTHING

COLOURS = {"noisy": "#b0413e", "denoised": "#2c6fbb", "clean": "#3a7d44", "removed": "#8a6d3b"}
OTHER_COLOUR = "#555555"
# Range of a spectrogram in dB, below the loudest point of all panels.
RANGE_DB = 90
N_FFT, MAX_COLUMNS, MAX_POINTS = 2048, 1500, 4000


def _legend_below(axes):
    """Draw the legend, if there is one, where it covers neither data nor title."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize="small")


def _count(axis):
    """Label an axis that counts things with whole numbers."""
    axis.set_major_locator(MaxNLocator(integer=True))


def spectrogram_db(mono: np.ndarray) -> np.ndarray:
    """Levels in dB of audio (samples,) in frequency bins and at most MAX_COLUMNS frames, (bins, frames)."""
    hop = max(N_FFT // 4, -(-len(mono) // MAX_COLUMNS))
    return librosa.amplitude_to_db(np.abs(librosa.stft(mono, n_fft=N_FFT, hop_length=hop)), top_db=None)


def envelope(mono: np.ndarray, max_points: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest sample of each of max_points stretches at most of (samples,)."""
    n = max(1, -(-len(mono) // max_points))
    padded = np.pad(mono, (0, -len(mono) % n)).reshape(-1, n)
    return padded.min(axis=1), padded.max(axis=1)


def audio_figure(signals: dict[str, np.ndarray], sample_rate: int, title: str = "") -> Figure:
    """Draw the waveform and spectrogram of each signal, (channels, samples) or (samples,), one column per signal.

    All waveforms share one scale, and all spectrograms one colour scale in dB.
    """
    mono = {name: np.atleast_2d(audio).mean(axis=0) for name, audio in signals.items()}
    figure, axes = plt.subplots(2, len(mono), figsize=(5 * len(mono), 6), squeeze=False, layout="constrained",
                                height_ratios=(1, 2))
    peak = max(float(np.abs(x).max()) for x in mono.values()) or 1.0
    spectra = {name: spectrogram_db(x) for name, x in mono.items()}
    top = max(float(s.max()) for s in spectra.values())
    image = None
    for column, (name, x) in zip(axes.T, mono.items(), strict=True):
        seconds = len(x) / sample_rate
        low, high = envelope(x)
        colour = COLOURS.get(name, OTHER_COLOUR)
        column[0].fill_between(np.linspace(0, seconds, len(low)), low, high, color=colour, lw=0.3)
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
    """Draw the SNR before and after, the improvement against the input SNR, and the distribution of the improvement.

    rows: the table of `evaluate`; method: the method to show.
    """
    after = rows[(rows.method == method) & np.isfinite(rows.snr_improvement_db)]
    before = after.assign(snr_db=after.snr_db - after.snr_improvement_db)  # a method may lack segments
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    edges = np.histogram_bin_edges(np.concatenate([before.snr_db, after.snr_db]), bins=25)
    for part, name, colour in ((before, "noisy", COLOURS["noisy"]), (after, method, COLOURS["denoised"])):
        left.hist(part.snr_db, edges, alpha=0.6, color=colour, label=f"{name}: mean {part.snr_db.mean():.2f} dB")
    left.set(xlabel="SNR (dB)", ylabel="segments", title=f"SNR of {len(before)} segments")
    is_white = (after.noise == "white").to_numpy()
    for chosen, label, colour in ((is_white, "white noise", COLOURS["denoised"]),
                                  (~is_white, "other noises", COLOURS["removed"])):
        if chosen.any():
            middle.scatter(before.snr_db.to_numpy()[chosen], after.snr_improvement_db.to_numpy()[chosen], s=14,
                           alpha=0.7, label=label, color=colour)
    middle.axhline(0, color="black", lw=1, label="do nothing")
    middle.set(xlabel="SNR of the input (dB)", ylabel="SNR improvement (dB)", title="improvement of every segment")
    right.hist(after.snr_improvement_db, 25, color=COLOURS["denoised"], alpha=0.8)
    right.axvline(0, color="black", lw=1)
    right.set(xlabel="SNR improvement (dB)", ylabel="segments",
              title=f"improvement, mean {after.snr_improvement_db.mean():+.2f} dB")
    for axes in (left, middle, right):
        _legend_below(axes)
    for axes in (left, right):
        _count(axes.yaxis)
    return figure


def improvement_bars(summary: pd.DataFrame) -> Figure:
    """Draw the SNR improvement of each method by noise, with its 95 % interval over songs; the table of `summarise`."""
    methods = [m for m in summary.method.unique() if m != DO_NOTHING]
    noises = list(summary.noise.unique())
    figure, axes = plt.subplots(figsize=(max(7, min(20, 1 + 0.22 * len(noises) * (len(methods) + 1))), 4.5),
                                layout="constrained")
    by_noise = summary.pivot(index="noise", columns="method").loc[noises]
    gains = by_noise["improvement_db"][methods]
    intervals = np.stack([by_noise["interval_low_db"][methods], by_noise["interval_high_db"][methods]])
    errors = np.nan_to_num(np.abs(intervals - gains.to_numpy())).transpose(2, 0, 1)  # (methods, ends, noises)
    gains.plot.bar(ax=axes, yerr=errors, width=0.8, rot=30, legend=False, color=plt.get_cmap("tab10").colors,
                   error_kw={"lw": 0.8})
    axes.axhline(0, color="black", lw=1)
    plt.setp(axes.get_xticklabels(), ha="right")
    axes.set(xlabel="", ylabel="SNR improvement (dB)",
             title="improvement by noise, 95 % intervals over songs; do nothing is 0")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    return figure


def training_curves(history: Sequence[dict]) -> Figure:
    """Draw training loss and validation SNR improvement by epoch, and mark the best epoch."""
    table = pd.DataFrame(history)
    with_print = "validation_with_print_db" in table
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    left.plot(table.epoch, table.train_loss, "o-", color=COLOURS["noisy"])
    left.set(xlabel="epoch", ylabel="training loss", title="loss against noisy targets")
    right.plot(table.epoch, table.validation_snr_improvement_db, "o-", color=COLOURS["denoised"],
               label="without a noise print" if with_print else None)
    if with_print:
        right.plot(table.epoch, table.validation_with_print_db, "o-", color=COLOURS["removed"],
                   label="with a noise print")
    if table.validation_snr_improvement_db.notna().any():
        best = table[table.best].iloc[-1]
        right.plot(best.epoch, best.validation_snr_improvement_db, "*", ms=16, color=COLOURS["clean"],
                   label=f"best: epoch {int(best.epoch)}, {best.validation_snr_improvement_db:+.2f} dB")
    right.axhline(0, color="black", lw=1, label="do nothing")
    right.set(xlabel="epoch", ylabel="SNR improvement (dB)", title="validation songs")
    _legend_below(right)
    for axes in (left, right):
        _count(axes.xaxis)
    return figure


def correlation_histograms(rows: Sequence[dict]) -> Figure:
    """Draw distributions over couples: the correlation of the members, and that of their noises or its bounds."""
    table = pd.DataFrame(rows)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    edges = np.linspace(table[["pearson", "peak_correlation"]].min().clip(-1, 0).fillna(0).min(), 1, 81)
    for name, style in (("pearson", {"color": COLOURS["denoised"], "alpha": 0.6}),
                        ("peak_correlation", {"color": "black", "histtype": "step"})):
        values = table[name].dropna()
        if len(values):
            left.hist(values, edges, label=f"{name}: mean {values.mean():+.3f}", **style)
    left.set(xlabel="correlation of the two members", ylabel="couples", title="members, which share their song")
    known = table.noise_correlation.dropna()
    shown = ["noise_correlation"] if len(known) else ["noise_bound_low", "noise_bound_high"]
    if len(known):  # correlations of independent noises are near zero and need a narrow axis
        edges = np.linspace(-1, 1, 61) * min(1, max(0.02, 1.1 * known.abs().max()))
    for name, colour in zip(shown, (COLOURS["noisy"], COLOURS["clean"]), strict=False):
        values = table[name].dropna()
        if len(values):
            right.hist(values, edges, alpha=0.6, color=colour, label=f"{name}: mean {values.mean():+.3f}")
    right.set(xlabel="correlation of the two noises", ylabel="couples",
              title="noises alone, from the manifest" if len(known) else "noises: bounds, no manifest or noises found")
    for end in (0.5, 0.8):  # "medium" and "high" begin here
        left.axvline(end, color="black", lw=0.7, ls=":")
    for axes in (left, right):
        _legend_below(axes)
        _count(axes.yaxis)
    return figure


def segment_scores(decorrelation: np.ndarray, chosen: np.ndarray, diversity: tuple[float, float]) -> Figure:
    """Draw the effect of a choice of segments.

    decorrelation: score of each candidate, NaN where unknown; chosen: indices in the order of the choice; diversity:
    mean distance of a segment to its nearest neighbour, among random candidates and among the chosen ones.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4), layout="constrained", width_ratios=(2, 2, 1))
    known = decorrelation[np.isfinite(decorrelation)]
    if len(known):
        edges = np.histogram_bin_edges(known, bins=30)
        left.hist(known, edges, color="#bbbbbb", label=f"all {len(known)} candidates")
        left.hist(decorrelation[chosen], edges, color=COLOURS["denoised"], alpha=0.6, label=f"{len(chosen)} chosen")
        _legend_below(left)
        middle.plot(np.arange(1, len(chosen) + 1), decorrelation[chosen], ".", ms=3, color=COLOURS["denoised"])
    left.set(xlabel="decorrelation of the two noises", ylabel="segments", title="scores")
    left.locator_params(axis="x", nbins=5)
    for axis in (left.yaxis, middle.xaxis):
        _count(axis)
    middle.set(xlabel="chosen as number", ylabel="decorrelation of the two noises", title="the order of the choice")
    right.bar(["as many at\nrandom", "chosen"], diversity, color=["#bbbbbb", COLOURS["denoised"]])
    right.set(ylabel="mean distance to the nearest", title="spectral diversity")
    return figure
