import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from benchmarks import figures
from common.evaluation.scores import DENOISED, DO_NOTHING
from common.notebook import plots


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_audio_columns_share_their_scales(rng):
    loud = rng.standard_normal((2, 44100)) * 0.2
    figure = plots.audio_figure({"noisy": loud, "denoised": 0.1 * loud, "removed": 0 * loud}, 44100, "title")
    waves, spectra = figure.axes[:3], figure.axes[3:6]
    assert [ax.get_title() for ax in waves] == ["noisy", "denoised", "removed"]
    assert len({ax.get_ylim() for ax in waves}) == 1
    images = [ax.images[0] for ax in spectra]
    assert len({image.get_clim() for image in images}) == 1
    medians = [float(np.median(np.asarray(image.get_array()))) for image in images]
    assert medians[0] - medians[1] == pytest.approx(20, abs=0.1) and medians[2] < medians[1] - 40


def test_a_long_song_draws_no_more_points_than_a_short_one(rng):
    figure = plots.audio_figure({"noisy": rng.standard_normal(44100 * 60)}, 44100)
    assert figure.axes[1].images[0].get_array().shape[1] <= plots.MAX_COLUMNS + 1


def test_distributions_and_curves_show_their_numbers():
    rows = pd.DataFrame([{"method": m, "noise": n, "snr_db": s, "snr_improvement_db": g}
                         for n in ("white", "siren") for m, s, g in ((DO_NOTHING, 5, 0), (DENOISED, 9, 4))])
    figure = plots.snr_distributions(rows)
    assert "+4.00 dB" in figure.axes[2].get_title()
    points = np.concatenate([c.get_offsets() for c in figure.axes[1].collections])
    assert points.tolist() == [[5, 4], [5, 4]]  # input SNR, improvement
    fewer = plots.snr_distributions(rows.iloc[[0, 2, 3]])  # white noise without an estimate
    assert fewer.axes[0].get_title() == "SNR of 1 segments"
    assert [c.get_offsets().tolist() for c in fewer.axes[1].collections] == [[[5, 4]]]
    history = [{"epoch": e, "train_loss": -e, "validation_snr_improvement_db": g, "best": e < 3}
               for e, g in ((1, 1), (2, 3), (3, 2))]
    texts = plots.training_curves(history).axes[1].get_legend().get_texts()
    assert any("epoch 2, +3.00 dB" in t.get_text() for t in texts)


def test_cost_and_quality_of_each_width():
    table = pd.DataFrame({"width": [4, 8], "real_time_factor": [0.1, 0.3], "noise2noise_db": [2.0, 3.0],
                          "noise2clean_db": [float("nan"), 3.2]})
    axes = figures.quality_against_cost(table).axes[0]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[0.1, 2], [0.3, 3]], [[0.3, 3.2]]]
    assert [t.get_text() for t in axes.texts] == ["width 4", "width 8"]


def test_panels_show_every_segment_of_a_noise():
    rows = pd.DataFrame([{"method": m, "noise": n, "segment": f"{n}{k}", "snr_db": s, "snr_improvement_db": g}
                         for k, n in enumerate(("siren", "white", "white"))
                         for m, s, g in ((DO_NOTHING, 5 + k, 0), (DENOISED, 9, 4 - 3 * k))])
    axes = figures.improvement_panels(rows, DENOISED).axes
    assert [ax.get_title() for ax in axes] == ["white: -0.50 dB, 50 % improved", "siren: +4.00 dB, 100 % improved"]
    assert axes[0].collections[0].get_offsets().tolist() == [[6, 1], [7, -2]]


def test_trade_offs_mark_what_was_chosen():
    rows = [{"shift": 0.0, "improvement_db": 2.0, "improved_percent": 80.0, "worse_percent": 15.0},
            {"shift": -1.0, "improvement_db": 1.9, "improved_percent": 90.0, "worse_percent": 5.0}]
    found = {"plain_db": 1.5, "plain_improved_percent": 70.0, "shift": -1.0, "improvement_db": 1.9, "trade_off": rows}
    axes = figures.trade_offs({"white": found, "mixed": found}).axes
    assert [a.get_title() for a in axes] == ["white", "mixed"]
    for panel in axes:
        curves = [line.get_xydata().tolist() for line in panel.lines]
        assert curves[:3] == [[[20, 2.0], [10, 1.9]], [[10, 1.9]], [[30, 1.5]]] and len(curves) == 4


def test_bars_have_their_intervals():
    table = pd.DataFrame([
        {"noise": n, "method": m, "improvement_db": g, "interval_low_db": g - 1, "interval_high_db": g + 2}
        for n in ("all", "white") for m, g in ((DO_NOTHING, 0.0), ("a", 3.0), ("b", -2.0))])
    figure = plots.improvement_bars(table)
    axes = figure.axes[0]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b"]
    assert [bar.get_height() for bar in axes.patches] == [3, 3, -2, -2]
    ends = [segment[:, 1].tolist() for lines in axes.collections for segment in lines.get_segments()]
    assert ends == [[2, 5], [2, 5], [-3, 0], [-3, 0]]


def _rows(noise_correlation):
    return [{"pearson": 0.9, "peak_correlation": 0.95, "noise_correlation": noise_correlation * sign,
             "noise_bound_low": -1.0, "noise_bound_high": 0.9} for sign in (-1, 1)]


def test_histograms_show_noises_or_their_bounds():
    left, right = plots.correlation_histograms(_rows(0.01)).axes
    assert "noise_correlation: mean +0.000" in right.get_legend().get_texts()[0].get_text()
    assert right.get_xlim()[1] < 0.03 and left.get_xlim()[1] > 0.9  # each on its own scale
    right = plots.correlation_histograms(_rows(float("nan"))).axes[1]
    assert [t.get_text().split(":")[0] for t in right.get_legend().get_texts()] == ["noise_bound_low",
                                                                                    "noise_bound_high"]


def test_a_choice_of_segments_is_shown(rng):
    scores = np.append(rng.uniform(0.8, 0.95, 50), np.nan)
    left, middle, right = plots.segment_scores(scores, np.arange(10), (0.1, 0.2)).axes
    assert left.get_legend().get_texts()[0].get_text() == "all 50 candidates"
    assert len(middle.lines[0].get_xdata()) == 10 and [bar.get_height() for bar in right.patches] == [0.1, 0.2]
    assert not plots.segment_scores(np.full(3, np.nan), np.arange(2), (0, 0)).axes[0].patches
