import numpy as np
import pytest
import torch

from common.denoising.files import denoise
from common.errors import UserError
from common.network.checkpoints import load_weights, save_weights
from common.network.confidence import (
    N_FEATURES,
    N_FEATURES_WITH_PRINT,
    WINDOW_SAMPLES,
    Confidence,
    band_edges,
    band_features,
    band_powers,
    band_sums,
    confidence_features,
    scale_by_confidence,
)
from common.network.dcunet import LITERATURE, PLANS
from common.network.inference import inference_form
from common.network.model import Denoiser
from common.network.stft import STFT
from common.seeds import number
from common.training import confidence_fit
from common.training.confidence_fit import (
    SHIFTS,
    Windows,
    calibrate,
    choose_shift,
    fit_confidence,
    fit_on_other_songs,
    measure_windows,
    shifted,
    trade_off,
)


def constant(logit, n=N_FEATURES, n_bands=25):
    """A confidence that is the same everywhere."""
    return Confidence(np.zeros(n, "f"), np.ones(n, "f"), np.zeros(n, "f"), np.full(n_bands, logit, "f"))


def of_window(logit=0.3):
    """One confidence for all bands of a window, as in older weights files."""
    weight = np.random.default_rng(2).standard_normal(50).astype(np.float32)
    return Confidence(np.full(50, -8, "f"), np.full(50, 3, "f"), weight, np.float32(logit))


@pytest.fixture
def varying():
    rng, n = np.random.default_rng(2), N_FEATURES
    return Confidence(np.full(n, -6, "f"), np.full(n, 3, "f"), rng.standard_normal(n).astype("f"),
                      rng.standard_normal(25).astype("f"))


def test_bands_cover_all_bins_once():
    for n_bins in (1025, 257, 3, 1):
        edges = band_edges(n_bins)
        assert edges[0] == 0 and edges[-1] == n_bins and (np.diff(edges) > 0).all()


def test_features_do_not_know_the_level_and_are_finite_for_silence(rng):
    noisy, noise = rng.standard_normal((2, 2, 30_000)).astype(np.float32)
    for fluctuation, n in ((False, 50), (True, 100)):
        features = band_features(noisy, 0.3 * noise, STFT(), fluctuation)
        assert features.shape == (2, n)
        quieter = band_features(1e-3 * noisy, 3e-4 * noise, STFT(), fluctuation)
        np.testing.assert_allclose(quieter, features, atol=1e-3, rtol=0)
        assert np.isfinite(band_features(0 * noisy, 0 * noise, STFT(), fluctuation)).all()
    powers = np.exp(band_features(noisy, 0.3 * noise, STFT()))
    np.testing.assert_allclose(powers[:, :25].sum(1), 1, atol=1e-4)
    np.testing.assert_allclose(powers[:, 25:].sum(1), 0.09, atol=5e-3)


def test_features_of_bands_do_not_know_the_level_and_tell_a_print_below_the_estimate(rng):
    sound, noise, heard = rng.uniform(1, 2, (3, 2, 25))
    for given in (None, heard):
        features = confidence_features(sound, noise, given)
        assert features.shape == (2, 25, N_FEATURES if given is None else N_FEATURES_WITH_PRINT)
        louder = confidence_features(100 * sound, 100 * noise, given if given is None else 100 * given)
        np.testing.assert_allclose(louder, features, atol=1e-6)
        assert np.isfinite(confidence_features(0 * sound, 0 * noise, given)).all()
    assert np.allclose(confidence_features(sound, noise, 2 * noise)[..., -1], 0, atol=1e-9)
    np.testing.assert_allclose(confidence_features(sound, noise, noise / 4)[..., -1], -np.log(4), atol=1e-4)


LENGTHS = (1, 1000, WINDOW_SAMPLES - 1, WINDOW_SAMPLES, WINDOW_SAMPLES + 1, 3 * WINDOW_SAMPLES // 2,
           3 * WINDOW_SAMPLES // 2 + 1, 3 * WINDOW_SAMPLES + 7)


@pytest.mark.parametrize("kind, n", [*(("bands", n) for n in LENGTHS), ("window", LENGTHS[-1]), ("print", LENGTHS[-1])])
def test_how_a_stream_is_cut_changes_nothing(varying, rng, n, kind):
    noisy, noise = (rng.standard_normal((2, n)).astype(np.float32) for _ in range(2))
    noise *= np.linspace(0.01, 1, n, dtype=np.float32)
    both, heard = np.stack([noisy, noise]), rng.uniform(0, 1, (2, 1025)) if kind == "print" else None
    confidence = {"bands": varying, "window": of_window(), "print": constant(-1, N_FEATURES_WITH_PRINT)}[kind]
    whole = np.concatenate(list(scale_by_confidence(confidence, STFT(), [both], heard)), 1)
    pieces = [both[..., k : k + 77_777] for k in range(0, n, 77_777)]
    parts = np.concatenate(list(scale_by_confidence(confidence, STFT(), pieces, heard)), 1)
    assert whole.shape == noise.shape and np.array_equal(whole, parts)
    if kind == "window":
        loud = np.abs(noise[0]) > 0.01
        ratio = whole[0][loud] / noise[0][loud]
        assert ratio.min() > 0 and ratio.max() < 1 and np.ptp(ratio) > 0.01  # it moves, between 0 and 1
    if kind == "bands" and n == WINDOW_SAMPLES:
        gains = varying.of(noisy, noise, STFT()).mean(0)
        kept = np.sqrt(band_powers(whole, STFT()).mean(-1).sum(0) / band_powers(noise, STFT()).mean(-1).sum(0))
        np.testing.assert_allclose(kept[8:], gains[8:], rtol=0.1)  # the lowest bands are one bin wide and run together


def test_a_print_decides_by_bands(rng):
    """The part of an estimate that is far louder than the print is kept in the sound."""
    weight = np.array([0, 0, 0, 0, 0, 30], "f")
    confidence = Confidence(np.zeros(6, "f"), np.ones(6, "f"), weight, np.full(25, 6, "f"))
    noise = rng.standard_normal((1, WINDOW_SAMPLES)).astype(np.float32)
    power = np.square(np.abs(STFT().frames(noise))).mean(-1)
    power[:, 600:] *= 0.01
    scaled = np.concatenate(list(scale_by_confidence(confidence, STFT(), [np.stack([2 * noise, noise])], power)), 1)
    share = np.sqrt(band_sums(np.abs(STFT().forward(scaled))**2).mean(-1) / band_sums(
        np.abs(STFT().forward(noise))**2).mean(-1))[0]
    edges = band_edges(1025)
    assert share[edges[1:] < 590].min() > 0.95 and share[edges[:-1] > 610].max() < 0.05


def test_the_noise_is_scaled_in_every_form_of_the_network(model, rng):
    audio = 0.1 * rng.standard_normal((2, 200_000)).astype(np.float32)
    removed = {}
    for name, confidence in (("none", None), ("half", constant(0)), ("sure", constant(50)), ("unsure", constant(-50))):
        careful = Denoiser(model.network, model.stft, confidence).eval()
        for precision in ("float32", "bfloat16"):
            removed[name, precision] = audio - denoise(inference_form(careful, "cpu", precision), audio, 44100)
    for precision in ("float32", "bfloat16"):
        full = removed["none", precision]
        assert np.abs(full).max() > 0.01
        np.testing.assert_allclose(removed["half", precision], full / 2, atol=1e-6)
        np.testing.assert_allclose(removed["sure", precision], full, atol=1e-6)
        assert np.abs(removed["unsure", precision]).max() < 1e-6


@pytest.mark.parametrize("old", [False, True])
def test_confidences_travel_with_the_weights(model, varying, tmp_path, old):
    kept = {"confidence": of_window() if old else varying, "print_confidence": constant(1, N_FEATURES_WITH_PRINT)}
    save_weights(Denoiser(model.network, model.stft, **kept), tmp_path / "m.pth", {}, half=True)
    loaded = load_weights(tmp_path / "m.pth")[0]
    for name, values in kept.items():
        assert all(np.array_equal(a, b) for a, b in zip(vars(getattr(loaded, name)).values(), vars(values).values(),
                                                        strict=True))
    save_weights(model, tmp_path / "m.pth", {})
    assert load_weights(tmp_path / "m.pth")[0].confidence is None


class TakesHigh(torch.nn.Module):
    """Takes all above some 5 kHz for noise."""

    plan = PLANS[LITERATURE]
    compression = 1.0

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(()))

    def forward(self, planes):
        mask = torch.zeros_like(planes)
        mask[:, 0, :232] = 1
        return mask + self.nothing


class Pairs:
    """Low tones with noise above them, where the network is right, or bright songs with low noise, where it harms."""

    def prints(self, seed, step, rows, n_samples):
        return torch.stack([noisy - song for noisy, song in zip(*Pairs(True).batch(seed, step, rows, n_samples),
                                                                strict=True)])

    def __init__(self, clean_target):
        self.clean_target = clean_target

    def song_names(self, seed, step, rows, n_samples):
        return [f"song {row % 6}" for row in rows]

    def batch(self, seed, step, rows, n_samples):
        made = []
        for row in rows:
            rng = np.random.default_rng([seed, row])
            parts = torch.from_numpy(rng.standard_normal((3, n_samples))).float()
            frequency = torch.fft.rfftfreq(n_samples, 1 / 44100)
            spectra = torch.fft.rfft(parts)
            low, high = spectra * (frequency < 5000), spectra * (frequency > 5000)
            song, noise = (low, high) if row % 2 else (high, 0.3 * low)
            song, noise = (torch.fft.irfft(x, n_samples) for x in (song, noise))
            made.append((song[0] + noise[1], song[0] + (0 if self.clean_target else 1) * noise[2]))
        return tuple(torch.stack(x) for x in zip(*made, strict=True))


@pytest.fixture(scope="module")
def harmful():
    return Denoiser(TakesHigh(), STFT()).eval()


@pytest.fixture(scope="module")
def windows(harmful):
    return {clean: measure_windows(harmful, Pairs(clean), 24, seed=clean) for clean in (False, True)}


def believed(confidence, windows):
    """The confidence in each band, (windows, bands)."""
    return torch.from_numpy(confidence(windows.features.numpy()))


def test_windows_tell_what_any_confidence_does(harmful, windows):
    c = torch.linspace(0, 1, 24, dtype=torch.float64)
    noisy, song = Pairs(True).batch(True, 0, range(24), WINDOW_SAMPLES)
    with torch.no_grad():
        estimate = noisy - c[:, None].float() * (noisy - harmful(noisy))
    expected = 10 * torch.log10((noisy - song).square().sum(1) / (estimate - song).square().sum(1))
    torch.testing.assert_close(windows[True].gains_db(c[:, None]).float(), expected, atol=0.05, rtol=0.01)


def test_noisy_pairs_teach_where_a_network_is_wrong(windows):
    assert windows[True].gains_db(torch.ones(24, 1))[::2].max() < -5  # every other song is spoilt
    confidence = fit_confidence(windows[False])
    believed_in = believed(confidence, windows[True])
    taken = windows[True].power > 0.01 * windows[True].power.sum(1, keepdim=True)  # bands with an estimate
    assert believed_in[::2][taken[::2]].max() < 0.1 and believed_in[1::2][taken[1::2]].min() > 0.9
    gains = windows[True].gains_db(believed_in)
    assert gains[1::2].min() > 10 and gains.min() > -3
    assert windows[True].gains_db(believed(shifted(confidence, -4), windows[True])).min() > gains.min()


def test_a_prior_is_left_only_for_a_reason(windows):
    """Of two windows that say nothing new nothing is learnt, of many that contradict it much."""
    prior = fit_confidence(windows[False])
    few = windows[False].select(np.arange(24) < 2)
    near = fit_confidence(few, prior)
    assert np.linalg.norm(near.weight - prior.weight) < 0.1 * np.linalg.norm(prior.weight)
    turned = Confidence(prior.centre, prior.scale, -prior.weight, -prior.offset)
    mended = fit_confidence(windows[False], turned)
    gains = [float(windows[True].gains_db(believed(c, windows[True])).mean()) for c in (turned, mended)]
    assert gains[1] > gains[0] + 3


@pytest.mark.parametrize("given_prior", [False, True])
def test_no_confidence_is_so_sure_that_caution_changes_nothing(given_prior):
    """Even where the whole estimate of all pairs is noise."""
    power = torch.ones(40, 3, dtype=torch.float64)
    features = torch.from_numpy(np.random.default_rng(0).standard_normal((40, 3, 2)))
    windows = Windows(np.arange(40), features, 1.2 * power, power, power)
    zeros = np.zeros(2, np.float32)
    prior = Confidence(zeros, zeros + 1, zeros, np.zeros(3, np.float32)) if given_prior else None
    confidence = fit_confidence(windows, prior)
    assert believed(confidence, windows).min() > 0.8
    assert believed(shifted(confidence, SHIFTS[-1]), windows).max() < 0.8


@pytest.mark.parametrize("n_parts, n_others", [(8, 20), (3, 16)])
def test_every_song_is_measured_with_a_confidence_of_other_songs(windows, monkeypatch, n_parts, n_others):
    monkeypatch.setattr(confidence_fit, "PARTS", n_parts)
    learned, measured = windows[False], windows[True]
    parts = fit_on_other_songs(learned, measured)
    assert sorted(song for _, part in parts for song in part.songs) == sorted(measured.songs)
    for confidence, part in parts:
        others = learned.select(~np.isin(learned.songs, part.songs))
        assert len(others.songs) == n_others and np.array_equal(confidence.weight, fit_confidence(others).weight)
    one = learned.select(learned.songs == "song 1")  # it has no other songs
    ((confidence, part),) = fit_on_other_songs(one, one)
    assert np.array_equal(confidence.weight, fit_confidence(one).weight) and torch.equal(part.power, one.power)


def test_caution_costs_improvement_and_spares_songs():
    n = 200
    rng = torch.Generator().manual_seed(0)
    right = torch.rand(n, generator=rng, dtype=torch.float64) * 2 - 0.5  # the best confidence of each window
    known = right + 0.5 * torch.randn(n, generator=rng, dtype=torch.float64)
    ones = torch.ones(n, dtype=torch.float64)
    windows = Windows(np.arange(n), known[:, None, None], *(x[:, None] for x in (3 * ones, right, ones)))
    confidence = fit_confidence(windows)
    rows = trade_off([(confidence, windows)])
    improved = [row["improved_percent"] for row in rows]
    assert improved == sorted(improved) and rows[0]["worse_percent"] > rows[-1]["worse_percent"]
    best = max(rows, key=lambda row: row["improvement_db"])
    chosen = choose_shift(rows)
    assert best["improvement_db"] - 0.1 <= chosen["improvement_db"] and chosen["shift"] <= best["shift"]
    assert chosen["improved_percent"] >= best["improved_percent"]


def test_calibrating_leaves_the_model_with_its_confidence(harmful, precision):
    found = calibrate(harmful, Pairs(False), Pairs(True), 12, 6)["confidence"]
    learned = measure_windows(harmful, Pairs(False), 12, number(0, "calibration"))
    measured = measure_windows(harmful, Pairs(True), 6, 0)
    assert found["trade_off"] == trade_off(fit_on_other_songs(learned, measured)) != trade_off(
        [(fit_confidence(learned), measured)])
    assert found["improvement_db"] > found["plain_db"] + 5 and found["plain_improved_percent"] == 50
    assert {"shift": found["shift"], "improvement_db": found["improvement_db"]}.items() <= next(
        row for row in found["trade_off"] if row["shift"] == found["shift"]).items()
    noisy, song = Pairs(True).batch(5, 0, range(1), WINDOW_SAMPLES)  # one that is spoilt
    denoised = denoise(harmful, noisy.numpy(), 44100)
    assert np.square(denoised - song.numpy()).sum() < 2 * float((noisy - song).square().sum())


def test_prints_have_a_confidence_of_their_own(precision):
    """One is fitted with prints and one without, and denoising uses the one that fits."""
    class Network(TakesHigh):
        plan = PLANS["folded"]

    model = Denoiser(Network(), STFT()).eval()
    found = calibrate(model, Pairs(False), Pairs(True), 12, 6)
    assert list(found) == ["confidence", "print_confidence"]
    assert model.print_confidence.weight.shape == (N_FEATURES_WITH_PRINT,)
    assert found["print_confidence"]["improvement_db"] > found["print_confidence"]["plain_db"] + 5
    noisy, song = Pairs(True).batch(5, 0, range(1), WINDOW_SAMPLES)
    power = np.square(np.abs(STFT().frames(Pairs(True).prints(5, 0, range(1), WINDOW_SAMPLES).numpy()))).mean(-1)
    for given in (None, power):
        denoised = denoise(model, noisy.numpy(), 44100, print_power=given)
        assert np.square(denoised - song.numpy()).sum() < 2 * float((noisy - song).square().sum())


def test_windows_without_a_print_are_left_out(harmful):
    class Half(Pairs):
        def prints(self, seed, step, rows, n_samples):
            return super().prints(seed, step, rows, n_samples) * (torch.tensor(list(rows))[:, None] < 3)

    assert len(measure_windows(harmful, Half(True), 6, with_print=True).power) == 3


def test_a_prior_of_other_features_gets_one_sentence(windows):
    with pytest.raises(UserError, match="expected a prior of 25 bands with 3 features each"):
        fit_confidence(windows[False], of_window())
