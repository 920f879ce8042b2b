"""Songs and noises with digital silence: what cannot be measured is left out and counted, and no run is lost for it."""

import copy
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from common.audio.writing import write_audio
from common.data.pairs import find_pairs
from common.data.pool import CLIP_PEAK, SONG, Clip, Pool, write_index
from common.data.silence import measurable
from common.errors import UserError
from common.evaluation.scores import (
    DENOISED,
    DO_NOTHING,
    evaluate,
    format_summary,
    markdown_table,
    save_samples,
    summarise,
)
from common.network.checkpoints import load_weights, save_weights
from common.network.stft import SEGMENT_SAMPLES
from common.notebook import plots
from common.training.confidence_fit import calibrate, measure_windows
from common.training.loop import best_epoch, train
from common.training.mixture_validation import MixtureValidation
from common.training.mixtures import MixtureSettings, MixtureSource
from common.training.pair_batches import PairValidation
from common.training.recipe import _keep_best
from common.training.settings import TrainSettings

N = SEGMENT_SAMPLES
SETTINGS = TrainSettings(width=1, epochs=3, steps_per_epoch=1, batch_size=2, warmup_steps=1)


@pytest.mark.parametrize("snr_db, known", [(0, True), (-40.0, True), (59.9, True), (61, False), (-61, False),
                                           (math.inf, False), (-math.inf, False), (math.nan, False)])
def test_what_is_measurable(snr_db, known):
    assert measurable(snr_db) == measurable(np.array([snr_db]))[0] == measurable(torch.tensor([snr_db]))[0] == known


@pytest.fixture
def pairs(tmp_path, rng):
    """Three songs of four segments: with noise everywhere, nowhere, and (the last) everywhere but in one segment."""
    for number, heard in enumerate(([1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 1]), 1):
        clean = 0.1 * rng.standard_normal((1, 4 * N))
        noise = 0.05 * rng.standard_normal(clean.shape) * np.repeat(heard, N)
        noise[:, : 4 * N] += 1e-5  # what a zero-mean noise leaves where it is silent: less than 16 bits can tell
        write_audio(tmp_path / f"i/INPUT-S{number}N1-(a)-(song {number}).wav", clean + noise, 44100)
        write_audio(tmp_path / f"t/TARGET-S{number}N1-(CLEAN)-(song {number}).wav", clean, 44100)
    return find_pairs(tmp_path / "i", tmp_path / "t")


def test_segments_without_noise_are_left_out_of_the_evaluation(pairs, model, tmp_path, caplog):
    caplog.set_level("INFO")
    rows = evaluate({DENOISED: model}, pairs, speech=False)
    assert caplog.text.count("segments: 5 of 12 left out, in which song or noise is silent") == 1
    assert np.isfinite(rows[["snr_db", "snr_improvement_db", "si_sdr_db"]]).all(axis=None) and len(rows) == 2 * 7
    summary = summarise(rows)
    assert summary.segments.iloc[0] == 7 and summary.songs.iloc[0] == 2
    assert np.isfinite(summary[["improvement_db", "interval_low_db", "input_snr_db"]]).all(axis=None)
    plots.snr_distributions(rows)
    plots.improvement_bars(summary)
    samples = save_samples(model, pairs, rows[rows.method == DENOISED], tmp_path / "samples")
    assert len(samples) == 3
    assert len(evaluate({}, pairs, per_pair=2, speech=False)) == 4  # of those with noise


def test_segments_without_noise_are_left_out_of_the_validation(pairs, model):
    gains = PairValidation(pairs, per_pair=None).gains(model, slice(None))
    assert len(gains) == 12 and gains.count(None) == 5 and all(math.isfinite(g) for g in gains if g is not None)


def test_a_set_without_noise_is_an_error(pairs, model):
    with pytest.raises(UserError, match="in all of them song or noise is silent"):
        evaluate({DENOISED: model}, pairs[1:2], speech=False)


def test_tables_and_figures_bear_what_was_not_scored():
    """Tables of earlier versions hold infinities."""
    rows = pd.DataFrame([
        {"segment": f"s{k}", "song": f"song {k}", "noise": "white", "method": method, "snr_db": snr + gain,
         "snr_improvement_db": gain, **{c: 0.0 for n in ("segmental_snr", "si_sdr", "log_spectral_distance")
                                        for c in (f"{n}_db", f"{n}_improvement_db")},
         **{c: math.nan for n in ("pesq_nb", "pesq_wb", "stoi") for c in (n, f"{n}_improvement")}}
        for k, (snr, after) in enumerate([(5.0, 2.0), (math.inf, -math.inf), (7.0, 4.0), (9.0, math.nan)])
        for method, gain in ((DO_NOTHING, 0.0), (DENOISED, after))])
    summary = summarise(rows)
    row = summary[(summary.noise == "all") & (summary.method == DENOISED)].iloc[0]
    assert row.improvement_db == 3 and row.segments == 2 and row.improved_percent == 100 and row.interval_low_db == 2
    assert "inf" not in format_summary(summary) + markdown_table(summary)
    plots.snr_distributions(rows)
    plots.improvement_bars(summary)


def _pool(folder, rng, noise, song=None):
    """Songs and a white noise with other ones, whose samples `noise` makes of (seconds, random samples)."""
    clips, samples = [], []
    for split in ("train", "validation"):
        for label, name in ((SONG, "a"), (SONG, "b"), ("rain", "r"), ("wind", "w")):
            audio = 0.3 * rng.uniform(-1, 1, 2 * N)
            if label != SONG:
                audio = noise(np.arange(2 * N) / N, audio)
            elif song:
                audio = song(np.arange(2 * N) / N, audio)
            clips.append(Clip(f"{split} {name}", split, label, f"{split} {name}", 1, len(samples) * 2 * N, 2 * N,
                              max(float(np.sqrt(np.square(audio).mean())), 1e-3)))
            samples.append(np.rint(CLIP_PEAK * audio).astype(np.int16))
    folder.mkdir()
    np.concatenate(samples).tofile(folder / "samples.i16")
    write_index(folder, clips)
    return Pool.load(folder)


def _burst(t, x):
    return np.where(t < 0.5, x, 0)


def _silence(t, x):
    return 0 * x


MIXTURE = MixtureSettings("rain", "wind", noise_speed=(1.0, 1.0), song_speed=(1.0, 1.0))


def _validation(pool, n):
    return MixtureValidation(MixtureSource(pool, replace(MIXTURE, clean_target=True), "validation"), n, N // 4)


def test_mixtures_without_noise_are_left_out(tmp_path, rng, model):
    validation = _validation(_pool(tmp_path / "pool", rng, _burst), 24)
    gains = validation.gains(model, slice(None))
    assert len(gains) == 24 and 0 < gains.count(None) < 24 and all(abs(g) < 60 for g in gains if g is not None)


def test_mixtures_without_a_song_are_left_out(tmp_path, rng, model):
    validation = _validation(_pool(tmp_path / "pool", rng, lambda t, x: x, _silence), 4)
    assert validation.gains(model, slice(None)) == [None] * 4


@pytest.mark.parametrize("noise, silent", [(_burst, False), (_silence, True)], ids=["some", "all"])
def test_training_always_has_a_best_epoch(tmp_path, rng, noise, silent, caplog):
    caplog.set_level("INFO")
    pool = _pool(tmp_path / "pool", rng, noise)
    history = train(SETTINGS, MixtureSource(pool, MIXTURE), _validation(pool, 12), tmp_path / "w")
    best = best_epoch(history)
    assert load_weights(tmp_path / "w" / "best.pth")[1]["epoch"] == best["epoch"]
    assert caplog.text.count("left out, in which song or noise is silent") == 1
    assert math.isfinite(best["validation_snr_improvement_db"]) != silent
    if silent:
        assert best["epoch"] == 3 and "the last epoch counts as the best one" in caplog.text
        assert "validation: 12 of 12 left out" in caplog.text
    plots.training_curves(history)


@pytest.mark.parametrize("gains, best", [
    ([1, 2, 1.5], 2), ([math.nan, -1, math.nan], 2), ([math.nan] * 3, 3), ([-math.inf] * 3, 3),
    ([-math.inf, math.nan, 1], 3), ([3, math.nan, math.nan], 1), ([-5, -7, -6], 1), ([None, None, 2], 3)])
def test_the_best_epoch_is_finite_if_any_is(tmp_path, rng, gains, best):
    """A network that fails, with NaN, is not taken for silence (None)."""
    values = iter(gains)

    class Validation:
        has_prints = False

        def gains(self, model, part, with_print=False):
            return [next(values)]

    source = MixtureSource(_pool(tmp_path / "pool", rng, _burst), MIXTURE)
    history = train(SETTINGS, source, Validation(), tmp_path / "w")
    assert best_epoch(history)["epoch"] == best == load_weights(tmp_path / "w" / "best.pth")[1]["epoch"]


def test_calibration_leaves_silence_out(tmp_path, rng, model):
    pool, model = _pool(tmp_path / "pool", rng, _burst), copy.deepcopy(model)
    pairs, validation = MixtureSource(pool, MIXTURE), _validation(pool, 8).source
    windows = measure_windows(model, validation, 8)
    assert 0 < len(windows.power) < 8 and windows.before.min() > 0
    found = calibrate(model, pairs, validation, 4, 8)["confidence"]
    assert math.isfinite(found["improvement_db"]) and np.isfinite(model.confidence.weight).all()


def test_calibration_and_recipe_survive_silence_alone(tmp_path, rng, model):
    pool, model = _pool(tmp_path / "pool", rng, _silence), copy.deepcopy(model)
    pairs, validation = MixtureSource(pool, MIXTURE), _validation(pool, 4)
    assert math.isnan(calibrate(model, pairs, validation.source, 4, 4)["confidence"]["improvement_db"])
    for name in ("mixed", "universal", "tuned"):
        save_weights(model, tmp_path / f"{name}.pth", {})
    found = {"fine-tuned": (tmp_path / "tuned.pth", math.nan), "universal": (tmp_path / "universal.pth", math.nan),
             "mean": (tmp_path / "universal.pth", math.nan)}
    assert _keep_best("rain", found, tmp_path, pairs, validation, "cpu")["kept"] == "universal"
    found["fine-tuned"] = (tmp_path / "tuned.pth", -3.0)
    assert _keep_best("rain", found, tmp_path, pairs, validation, "cpu")["kept"] == "fine-tuned"


def test_publish_works_on_noises_with_silence(tmp_path, rng, model, call):
    _pool(tmp_path / "pool", rng, _burst)
    save_weights(model, tmp_path / "m.pth", {})
    call("-m", "common.training", "publish", tmp_path / "m.pth", tmp_path / "pool", "-o", tmp_path / "p.pth", "--noise",
         "rain", "--target-noise", "wind", "--n-validation", 6, "--calibration-pairs", 6, "--device", "cpu")
    assert math.isfinite(load_weights(tmp_path / "p.pth")[1]["validation_snr_improvement_db"])
