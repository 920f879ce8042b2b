"""Figures of the benchmarks' results."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from common.evaluation.scores import DO_NOTHING
from common.notebook.plots import COLOURS


def quality_against_cost(table: pd.DataFrame) -> Figure:
    """Draw the SNR improvement over the time of denoising, a point for each width.

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
    axes.legend(loc="lower right")
    return figure


def _panels(number, **settings):
    """Return a figure and `number` panels of it, four in a line."""
    columns = min(4, number)
    lines = -(-number // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.2 * columns, 0.4 + 2.3 * lines), squeeze=False,
                                layout="constrained", **settings)
    for unused in axes.flat[number:]:
        unused.axis("off")
    panels = axes.flat[:number]
    # The lowest panel of each column has the numbers of a shared axis, also where the last line is not full.
    for lowest in panels[-columns:]:
        lowest.tick_params(labelbottom=True)
    return figure, panels


def improvement_panels(rows: pd.DataFrame, method: str) -> Figure:
    """Draw the improvement of every segment over its input SNR, a panel for each noise; rows: of `evaluate`."""
    noises = sorted(rows.noise.unique(), key=lambda n: (n != "white", n))
    figure, panels = _panels(len(noises), sharex=True, sharey=True)
    for axis, noise in zip(panels, noises, strict=True):
        before = rows[(rows.noise == noise) & (rows.method == DO_NOTHING)].set_index("segment").snr_db
        gains = rows[(rows.noise == noise) & (rows.method == method)].set_index("segment").snr_improvement_db
        axis.scatter(before.loc[gains.index], gains, s=7, color=COLOURS["denoised"])
        axis.axhline(0, color="black", lw=0.8)
        axis.set_title(f"{noise}: {gains.mean():+.2f} dB, {100 * (gains > 0).mean():.0f} % improved", fontsize=9)
    figure.supxlabel("input SNR (dB)", fontsize=10)
    figure.supylabel("SNR improvement (dB)", fontsize=10)
    return figure


def trade_offs(curves: dict[str, dict]) -> Figure:
    """Draw the improvement against the share of mixtures made worse, a panel for each weights file.

    curves: results of common.training.confidence_fit.calibrate by name. A dot marks the chosen caution, a cross no
    confidence.
    """
    figure, panels = _panels(len(curves), sharex=True)
    for axes, (name, found) in zip(panels, curves.items(), strict=True):
        chosen = next(row for row in found["trade_off"] if row["shift"] == found["shift"])
        axes.plot([100 - row["improved_percent"] for row in found["trade_off"]],
                  [row["improvement_db"] for row in found["trade_off"]], color=COLOURS["denoised"])
        axes.plot(100 - chosen["improved_percent"], chosen["improvement_db"], "o", color=COLOURS["denoised"])
        axes.plot(100 - found["plain_improved_percent"], found["plain_db"], "x", color=COLOURS["noisy"])
        axes.axhline(0, color="black", lw=0.8)
        axes.set_title(name, fontsize=9)
    figure.suptitle("dot: as published, cross: without confidence", fontsize=10)
    figure.supxlabel("validation mixtures made worse (%)", fontsize=10)
    figure.supylabel("mean SNR improvement (dB)", fontsize=10)
    return figure


def learning_curve(table: pd.DataFrame) -> Figure:
    """Draw the validation SNR improvement over optimiser steps, a line for each run and a dot where it was best.

    table: run, steps, validation_snr_improvement_db, validation_with_print_db and best (bool).
    """
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    kinds = {"validation_with_print_db": ("with a noise print", "removed"),
             "validation_snr_improvement_db": ("without", "denoised")}
    for column, (label, colour) in kinds.items():
        for number, rows in table.groupby("run"):
            best = rows[rows.best].iloc[-1]
            axes.plot(rows.steps, rows[column], "-", color=COLOURS[colour], label=label if number == 1 else None)
            axes.plot(best.steps, best[column], "o", color=COLOURS[colour])
    axes.set(xlabel="optimiser steps", ylabel="SNR improvement (dB)",
             title="validation mixtures; each run begins with the weights at the dot before")
    axes.legend(loc="lower right")
    return figure
