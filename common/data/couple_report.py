"""The report on a couple of noisy copies: a line, a JSON file and a picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from common.data import copy_matching
from common.data.couple import LEAST_AGREEMENT, Couple
from common.small_files import write_text


def picture(couple: Couple) -> Figure:
    """Draw the delay, how far its measurements lie off the curve, the agreement over time, and the spectra."""
    figure, axes = plt.subplots(2, 2, figsize=(13, 7.5), layout="constrained")
    delays, rate = couple.delays, couple.rate
    times = np.linspace(*(part / rate for part in couple.span), 400)
    ends = couple.curve(times[[0, -1]])
    straight = ends[0] + (ends[1] - ends[0]) * (times - times[0]) / (times[-1] - times[0])
    axes[0, 0].plot(times, 1e3 * (couple.curve(times) - straight))
    axes[0, 0].set(xlabel="time in A (s)", ylabel="delay (ms)", title="delay of B against A, without the straight "
                   f"line from {ends[0]:.3f} s to {ends[1]:.3f} s")
    off = (delays.delay - couple.curve(delays.seconds)) * rate
    axes[0, 1].errorbar(delays.seconds, off, delays.error * rate, fmt=".", ms=3, lw=0.6)
    axes[0, 1].set(xlabel="time in A (s)", ylabel="samples", title="measured delays, off the curve")
    block_seconds = copy_matching.BLOCK_SAMPLES / rate
    axes[1, 0].plot(couple.span[0] / rate + block_seconds * np.arange(len(couple.agreement)), couple.agreement)
    axes[1, 0].axhline(LEAST_AGREEMENT, color="black", lw=0.7, ls=":")
    axes[1, 0].set(xlabel="time in A (s)", ylim=(0, 1.02), title="agreement of the copies; below the line they are cut")
    hertz, music, own_a, own_b = copy_matching.spectra(couple.statistics.of(couple.agreement >= LEAST_AGREEMENT))
    for power, label in ((music, "what the copies share"), (own_a, "A alone"), (own_b, "B alone, at A's level")):
        axes[1, 1].semilogx(hertz, 10 * np.log10(power + 1e-20), label=label)
    top = 10 * np.log10(music.max() + 1e-20)
    axes[1, 1].set(xlabel="frequency (Hz)", ylabel="dB", ylim=(top - 90, top + 5), title="spectra in third octaves")
    axes[1, 1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    return figure


def in_words(couple: Couple, rows: Mapping[str, Sequence[dict]]) -> str:
    """A couple in one line; rows: those of the manifests, by split."""
    report = couple.report
    seconds = {split: sum(row["samples"] for row in found[::2]) / couple.rate for split, found in rows.items()}
    return (f"{couple.copy_a.name} and {couple.copy_b.name}: B is {report['delay_start_seconds']:+.3f} s behind A at "
            f"first, {report['speed_difference_ppm']:+.0f} ppm of speed, followed to {report['residual_samples']:.3f} "
            f"samples; agreement {report['agreement']:.2f}; pairs of "
            + " and ".join(f"{value:.0f} s for {split}" for split, value in seconds.items()))


def write_report(couple: Couple, path: Path) -> None:
    """Write the report as `path` with .json and .png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path.with_suffix(".json"), json.dumps(couple.report, indent=1) + "\n")
    figure = picture(couple)
    figure.savefig(path.with_suffix(".png"), dpi=100)
    plt.close(figure)
