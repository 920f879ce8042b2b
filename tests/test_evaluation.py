import numpy as np
import pandas as pd
import pytest
import torch

from common.audio.reading import read_audio
from common.audio.writing import write_audio
from common.data.pairs import Segment, find_pairs, load_test_pairs, manifest_sha256, pairs_in, segments
from common.denoising.files import denoise
from common.errors import CallError, UserError
from common.evaluation import scores as evaluation
from common.evaluation.baselines import BASELINES
from common.evaluation.metrics import METRICS, improvement_name, snr
from common.evaluation.scores import (
    DENOISED,
    DO_NOTHING,
    WHERE_PRINT,
    WITH_PRINT,
    bootstrap_interval,
    evaluate,
    format_summary,
    markdown_table,
    summarise,
)
from common.network import tensor_stft
from common.network.dcunet import LITERATURE
from common.network.noise_print import print_power
from common.network.stft import SEGMENT_SAMPLES, STFT
from tests.conftest import mini_model


@pytest.fixture(scope="module")
def pairs(merged):
    return find_pairs(*merged("merger_mixed_white.py", "test", 2, 2)[:2])


@pytest.fixture(scope="module")
def rows(model, pairs):
    return evaluate({DENOISED: model}, pairs, per_pair=1, speech=False)


def test_rows_hold_every_segment_with_every_method(rows, pairs, model):
    assert len(rows) == 2 * len(pairs) and set(rows.method) == {DO_NOTHING, DENOISED}
    assert {"segment", "song", "noise", "start_seconds", *METRICS, "snr_improvement_db"} <= set(rows.columns)
    nothing = rows[rows.method == DO_NOTHING]
    assert (nothing.snr_improvement_db == 0).all()
    for segment in segments(pairs, 44100, 1):
        row = nothing[nothing.segment == segment.name].iloc[0]
        assert row.snr_db == pytest.approx(snr(segment.clean, segment.noisy), abs=1e-9)
        after = rows[(rows.segment == segment.name) & (rows.method == DENOISED)].iloc[0]
        assert after.snr_improvement_db == pytest.approx(after.snr_db - row.snr_db)


def test_the_input_snr_is_the_manifests(merged, model):
    """Over a whole pair the do-nothing row is what the merger wrote; a short song is one segment."""
    input_dir, target_dir, rows = merged("merger_white.py", "test", 2, 2)
    for segment in segments(find_pairs(input_dir, target_dir), 44100):
        row = next(r for r in rows if r["pair_id"] == segment.pair.pair_id)
        noisy, _ = read_audio(input_dir / row["input_file"])
        clean, _ = read_audio(target_dir / row["target_file"])
        assert snr(clean, noisy) == pytest.approx(float(row["input_realised_snr_db"]), abs=0.05)


def test_speech_metrics_are_added_and_counted(model, pairs):
    rows = evaluate({DENOISED: model}, pairs[:1], per_pair=1, speech=True)
    assert rows.stoi.between(0, 1).all()
    assert (summarise(rows).pesq_wb_scored <= 1).all() and (summarise(rows).stoi_scored == 1).all()


def test_every_metric_has_its_improvement(rows):
    for metric in METRICS[:4]:
        sign = -1 if metric == "log_spectral_distance_db" else 1
        before, after = (rows[rows.method == m].set_index("segment")[metric] for m in (DO_NOTHING, DENOISED))
        gains = rows[rows.method == DENOISED].set_index("segment")[improvement_name(metric)]
        pd.testing.assert_series_equal(gains, sign * (after - before), check_names=False)
    assert (rows[rows.method == DO_NOTHING][[improvement_name(m) for m in METRICS[:4]]] == 0).all(axis=None)


def test_baselines_and_models_stand_side_by_side(model, pairs):
    rows = evaluate({"a": model, "b": model}, pairs, 1, False, list(BASELINES), jobs=1)
    blind = [name for name in BASELINES if "with a print" not in name]
    assert list(rows.method.unique()) == [DO_NOTHING, "a", "b", *blind] and not rows.has_print.any()
    assert not summarise(rows).method.str.endswith(WHERE_PRINT).any()
    gains = rows.groupby("method").snr_improvement_db.mean()
    assert gains["a"] == gains["b"]
    # The ceilings are such: each knows more than the one before.
    assert gains["oracle bounded complex mask"] > gains["oracle Wiener mask"] > max(3, gains["blind Wiener"])
    assert "oracle Wiener mask" in markdown_table(summarise(rows))
    with pytest.raises(CallError, match="expected baselines among blind Wiener"):
        evaluate({"a": model}, pairs, baselines=["magic"])


PRINTED = "Wiener with a print", "noisereduce with a print"


@pytest.fixture
def printed(tmp_path, rng):
    """Three pairs of two songs in white noise; (channels, rate) of the second's and third's prints differ."""
    tone = 0.1 * np.sin(np.arange(90000) / 20)
    for n, (song, shape) in enumerate([("a", None), ("a", (1, 44100)), ("b", (2, 48000))], 1):
        name = f"S{n}N1-(white)-({song}).wav"
        clean = np.stack([tone, 0.5 * tone]).astype(np.float32)
        noise = 0.02 * n * rng.standard_normal(clean.shape)
        write_audio(tmp_path / f"set/input/INPUT-{name}", (clean + noise).astype(np.float32), 44100)
        write_audio(tmp_path / f"set/target/TARGET-{name}", clean, 44100)
        if shape:
            audio = (0.02 * n * rng.standard_normal((shape[0], 60000))).astype(np.float32)
            write_audio(tmp_path / f"set/print/PRINT-{name}", audio, shape[1], "PCM_24")
    return pairs_in(tmp_path / "set")


def test_methods_with_a_print_are_scored_where_there_is_one(printed, model):
    rows = evaluate({DENOISED: model}, printed, speech=False, jobs=1, baselines=["blind Wiener", *PRINTED])
    n = rows.groupby("method").size()
    assert dict(n) == {DO_NOTHING: 3, DENOISED: 3, "blind Wiener": 3,
                       **dict.fromkeys((DENOISED + WITH_PRINT, *PRINTED), 2)}
    assert rows.groupby("segment").has_print.all().tolist() == [False, True, True]
    found = rows.set_index(["segment", "method"]).snr_db
    for segment in segments(printed[1:], 44100):
        assert segment.noise_print.shape[0] == 2
        power = print_power(model.stft.frames(segment.noise_print))
        assert power.shape == (2, model.stft.n_bins)
        told = denoise(model, segment.noisy, 44100, print_power=power)
        assert found[segment.name, DENOISED + WITH_PRINT] == pytest.approx(snr(segment.clean, told), abs=1e-3)
        assert found[segment.name, DENOISED + WITH_PRINT] != found[segment.name, DENOISED]
    gains = rows[rows.has_print].groupby("method").snr_improvement_db.mean()
    assert gains["Wiener with a print"] > 5 and gains["Wiener with a print"] > gains["blind Wiener"]


def test_blind_methods_are_compared_on_the_segments_that_have_a_print(printed, model):
    rows = evaluate({DENOISED: model}, printed, speech=False, jobs=1, baselines=["blind Wiener", *PRINTED])
    table = summarise(rows)
    overall = table[table.noise == "all"].set_index("method")
    assert dict(overall.segments) == {
        DO_NOTHING: 3, DENOISED: 3, DENOISED + WHERE_PRINT: 2, DENOISED + WITH_PRINT: 2, "blind Wiener": 3,
        "blind Wiener" + WHERE_PRINT: 2, **dict.fromkeys(PRINTED, 2)}
    assert overall.songs[DENOISED + WITH_PRINT] == 2
    alike = rows[rows.has_print].groupby("method").snr_db.mean()
    for method, shown in ((DENOISED + WHERE_PRINT, DENOISED), (DENOISED + WITH_PRINT, DENOISED + WITH_PRINT)):
        assert overall.input_snr_db[method] == pytest.approx(alike[DO_NOTHING])
        assert overall.improvement_db[method] == pytest.approx(alike[shown] - alike[DO_NOTHING])
    assert DENOISED + WHERE_PRINT in format_summary(table) and DENOISED + WITH_PRINT in markdown_table(table)
    everywhere = summarise(rows[rows.has_print])  # all have one: nothing to tell twice
    assert set(everywhere.method) == set(rows.method)
    nobody = summarise(rows[rows.method.isin([DO_NOTHING, DENOISED])])  # none was given one
    assert set(nobody.method) == {DO_NOTHING, DENOISED}


def test_a_network_that_takes_no_print_is_blind(printed):
    assert set(evaluate({DENOISED: mini_model(LITERATURE)}, printed, speech=False).method) == {DO_NOTHING, DENOISED}


@pytest.mark.parametrize("shape, told", [((2, 4000), "and 0.09 s"), ((3, 60000), "has 3 and")])
def test_a_print_that_cannot_be_used_is_one_sentence(printed, shape, told):
    write_audio(printed[1].noise_print, np.ones(shape, np.float32), 44100)
    with pytest.raises(UserError, match=f"expected a noise print of 1 or 2 channels and 0.25 s.*{told}"):
        list(segments(printed, 44100))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_is_called_alike(name, channels, rng):
    clean = (0.1 * np.sin(np.arange(60000) / 20) * np.ones((channels, 1))).astype(np.float32)
    noisy, noise_print = (x + 0.05 * rng.standard_normal(clean.shape).astype(np.float32) for x in (clean, 0 * clean))
    estimate = BASELINES[name](Segment(None, 0.0, 44100, noisy, clean, noise_print))
    assert estimate.shape == noisy.shape and estimate.dtype == np.float32
    without = BASELINES[name](Segment(None, 0.0, 44100, noisy, clean))
    assert without is None if name in PRINTED else np.array_equal(without, estimate)
    if channels == 2 and name in PRINTED:  # each channel has its own print
        first = BASELINES[name](Segment(None, 0.0, 44100, noisy[:1], clean[:1], noise_print[:1]))
        assert np.allclose(estimate[:1], first, atol=1e-6)


def test_the_wiener_baseline_has_the_networks_gain(rng):
    noisy, noise_print = (rng.standard_normal((1, 30000)).astype(np.float32) for _ in range(2))
    spectrum = tensor_stft.forward(STFT(), torch.from_numpy(noisy))
    level = tensor_stft.frames(STFT(), torch.from_numpy(noise_print)).abs().square().mean(-1, keepdim=True)
    gain = (1 - level / spectrum.abs().square()).clamp(min=0.1)
    expected = tensor_stft.inverse(STFT(), gain * spectrum, 30000).numpy()
    estimate = BASELINES["Wiener with a print"](Segment(None, 0.0, 44100, noisy, noisy, noise_print))
    assert np.allclose(estimate, expected, atol=1e-4)


def test_sub_folders_are_conditions(merged, tmp_path):
    for condition in ("white", "more"):
        (tmp_path / condition).symlink_to(merged("merger_white.py", "test", 2, 2)[0].parent)
    pairs = load_test_pairs(tmp_path)
    assert len(pairs) == 8 and {p.noise for p in pairs} == {"white", "more"} and len({p.pair_id for p in pairs}) == 8
    alone = load_test_pairs(tmp_path / "white")
    assert {p.noise for p in alone} == {"white"} and manifest_sha256(alone) != manifest_sha256(pairs)


def test_segments_cover_the_song_once_without_silence(tmp_path, rng):
    clean = 0.1 * rng.standard_normal((1, 4 * SEGMENT_SAMPLES)).astype(np.float32)
    clean[:, SEGMENT_SAMPLES : 2 * SEGMENT_SAMPLES] = 0
    noise = 0.01 * rng.standard_normal(clean.shape).astype(np.float32)
    write_audio(tmp_path / "i/INPUT-S1N1-(a)-(b).wav", clean + noise, 44100)
    write_audio(tmp_path / "t/TARGET-S1N1-(CLEAN)-(b).wav", clean, 44100)
    found = find_pairs(tmp_path / "i", tmp_path / "t")
    starts = [round(s.start_seconds * 44100 / SEGMENT_SAMPLES) for s in segments(found, 44100)]
    assert starts == [0, 2, 3]
    assert [s.start_seconds for s in segments(found, 44100, 2)] == [0, 3 * SEGMENT_SAMPLES / 44100]


def test_a_silent_test_set_is_an_error(tmp_path, model):
    for name in ("i/INPUT-S1N1-(a)-(b).wav", "t/TARGET-S1N1-(CLEAN)-(b).wav"):
        write_audio(tmp_path / name, np.zeros((1, 200000), np.float32), 44100)
    with pytest.raises(UserError, match="silent"):
        evaluate({DENOISED: model}, find_pairs(tmp_path / "i", tmp_path / "t"))


def test_intervals_are_over_songs_not_segments(rng):
    """Ten songs whose segments all agree: a thousand segments know no more than ten songs do."""
    songs = np.repeat(np.arange(10), 100)
    values = np.repeat(rng.standard_normal(10), 100)
    low, high = bootstrap_interval(values, songs)
    standard_error = values[::100].std(ddof=1) / np.sqrt(10)
    assert low < values.mean() < high
    assert (high - low) == pytest.approx(2 * 1.96 * standard_error, rel=0.2)
    assert np.isnan(bootstrap_interval(values, np.zeros(1000))).all()


def test_the_interval_covers_the_truth_as_often_as_it_says(rng):
    hits = 0
    for _ in range(200):
        values = rng.standard_normal(25)
        low, high = bootstrap_interval(values, np.arange(25))
        hits += low < 0 < high
    assert 0.86 < hits / 200 < 0.99


def test_the_summary_has_do_nothing_rows_and_right_means():
    rows = pd.DataFrame([
        {"segment": f"{song}{i}", "song": song, "noise": noise, "method": method, "snr_db": snr_db,
         "snr_improvement_db": gain, **dict.fromkeys(METRICS[1:], 1.0), "pesq_wb": wb,
         **{improvement_name(m): 0.0 for m in METRICS[1:]}}
        for i, (song, noise, before, gain_, wb) in enumerate(
            [("a", "white", 5.0, 4.0, 2.0), ("a", "siren", 7.0, -1.0, np.nan), ("b", "white", 9.0, 2.0, np.nan)])
        for method, snr_db, gain in ((DO_NOTHING, before, 0.0), (DENOISED, before + gain_, gain_))])
    table = summarise(rows).set_index(["noise", "method"])
    assert list(table.index.get_level_values(0).unique()) == ["all", "white", "siren"]
    everything, nothing = table.loc[("all", DENOISED)], table.loc[("all", DO_NOTHING)]
    assert everything.input_snr_db == 7 and everything.improvement_db == pytest.approx(5 / 3)
    assert everything.output_snr_db == pytest.approx(7 + 5 / 3) and nothing.output_snr_db == 7
    assert nothing.improvement_db == nothing.interval_high_db == 0
    assert everything.improved_percent == pytest.approx(200 / 3) and everything.songs == 2
    assert everything.songs_improved == 2 and table.loc[("siren", DENOISED)].songs_improved == 0
    assert everything.pesq_wb_scored == 1 and everything.segments == 3
    assert "do nothing" in format_summary(summarise(rows)) and "+1.67" in format_summary(summarise(rows))


def test_a_long_evaluation_says_how_far_it_is(pairs, monkeypatch, caplog):
    monkeypatch.setattr(evaluation, "PROGRESS_SECONDS", -1)
    with caplog.at_level("INFO"):
        evaluate({}, pairs, per_pair=1, speech=False, jobs=1)
    assert f"1 of {len(pairs)} test pairs" in caplog.text


def test_samples_run_from_least_to_most_improved(model, pairs, rows, tmp_path):
    samples = evaluation.save_samples(model, pairs, rows[rows.method == DENOISED], tmp_path, 3, per_pair=1)
    gains = [s["snr_improvement_db"] for s in samples]
    all_gains = rows[rows.method == DENOISED].snr_improvement_db
    assert gains == sorted(gains) and gains[0] == all_gains.min() and gains[-1] == all_gains.max()
    for sample in samples:
        noisy, clean = (read_audio(tmp_path / f"{sample['name']}_{kind}.wav")[0] for kind in ("noisy", "clean"))
        denoised = sample["audio"]["denoised"]
        assert snr(clean, denoised) - snr(clean, noisy) == pytest.approx(sample["snr_improvement_db"], abs=0.05)
    assert len(list(tmp_path.glob("*.wav"))) == 9


def test_samples_by_number(model, pairs, rows, tmp_path):
    rows = rows[rows.method == DENOISED]
    samples = evaluation.save_samples(model, pairs, rows, tmp_path, per_pair=1, indices=[2, 0])
    segments = list(rows.segment)
    assert [s["segment"] for s in samples] == [segments[2], segments[0]]
    with pytest.raises(CallError, match="from 0 to 3"):
        evaluation.save_samples(model, pairs, rows, tmp_path, per_pair=1, indices=[4])
