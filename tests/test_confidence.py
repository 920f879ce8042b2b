import numpy as np
import pytest
import torch

from common.denoising.files import denoise
from common.network.checkpoints import load_weights, save_weights
from common.network.confidence import WINDOW_SAMPLES, Confidence, band_edges, band_features, scale_by_confidence
from common.network.dcunet import LITERATURE, PLANS
from common.network.inference import inference_form
from common.network.model import Denoiser
from common.network.stft import STFT
from common.training.confidence_fit import (
    Windows,
    calibrate,
    choose_shift,
    fit_confidence,
    measure_windows,
    shifted,
    trade_off,
)


def constant(logit, n=50):
    """A confidence that is the same everywhere."""
    return Confidence(np.zeros(n, "f"), np.ones(n, "f"), np.zeros(n, "f"), np.float32(logit))


@pytest.fixture
def varying():
    weight = np.random.default_rng(2).standard_normal(50).astype(np.float32)
    return Confidence(np.full(50, -8, "f"), np.full(50, 3, "f"), weight, np.float32(0.3))


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


@pytest.mark.parametrize("n", [1, 1000, WINDOW_SAMPLES - 1, WINDOW_SAMPLES, WINDOW_SAMPLES + 1, 3 * WINDOW_SAMPLES // 2,
                               3 * WINDOW_SAMPLES // 2 + 1, 3 * WINDOW_SAMPLES + 7])
def test_how_a_stream_is_cut_changes_nothing(varying, rng, n):
    noisy, noise = (rng.standard_normal((2, n)).astype(np.float32) for _ in range(2))
    noise *= np.linspace(0.01, 1, n, dtype=np.float32)
    both = np.stack([noisy, noise])
    whole = np.concatenate(list(scale_by_confidence(varying, STFT(), [both])), 1)
    pieces = [both[..., k : k + 77_777] for k in range(0, n, 77_777)]
    parts = np.concatenate(list(scale_by_confidence(varying, STFT(), pieces)), 1)
    assert whole.shape == noise.shape and np.array_equal(whole, parts)
    ratio = whole[0] / noise[0]
    assert ratio.min() > 0 and ratio.max() < 1
    if n == WINDOW_SAMPLES:
        np.testing.assert_allclose(ratio, varying(band_features(noisy, noise, STFT())).mean(), rtol=1e-4)
    if n > 2 * WINDOW_SAMPLES:  # it moves, without jumps
        assert np.ptp(ratio) > 0.01 and np.abs(np.diff(ratio)).max() < 1e-4


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


def test_confidence_travels_with_the_weights(model, varying, tmp_path):
    save_weights(Denoiser(model.network, model.stft, varying), tmp_path / "m.pth", {}, half=True)
    loaded = load_weights(tmp_path / "m.pth")[0].confidence
    assert all(np.array_equal(a, b) for a, b in zip(vars(loaded).values(), vars(varying).values(), strict=True))
    save_weights(model, tmp_path / "m.pth", {})
    assert load_weights(tmp_path / "m.pth")[0].confidence is None


class TakesHigh(torch.nn.Module):
    """Takes all above some 5 kHz for noise."""

    plan = PLANS[LITERATURE]

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(()))

    def forward(self, planes):
        mask = torch.zeros_like(planes)
        mask[:, 0, :232] = 1
        return mask + self.nothing


class Pairs:
    """Low tones with noise above them, where the network is right, or bright songs with low noise, where it harms."""

    def __init__(self, clean_target):
        self.clean_target = clean_target

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
    """The confidence of each window, (windows,)."""
    return torch.from_numpy(confidence(windows.features.numpy()))


def test_windows_tell_what_any_confidence_does(harmful, windows):
    c = torch.linspace(0, 1, 24, dtype=torch.float64)
    noisy, song = Pairs(True).batch(True, 0, range(24), WINDOW_SAMPLES)
    with torch.no_grad():
        estimate = noisy - c[:, None].float() * (noisy - harmful(noisy))
    expected = 10 * torch.log10((noisy - song).square().sum(1) / (estimate - song).square().sum(1))
    torch.testing.assert_close(windows[True].gains_db(c).float(), expected, atol=0.05, rtol=0.01)


def test_noisy_pairs_teach_where_a_network_is_wrong(windows):
    assert windows[True].gains_db(torch.ones(24))[::2].max() < -5  # every other song is spoilt
    confidence = fit_confidence(windows[False])
    believed_in = believed(confidence, windows[True])
    assert believed_in[::2].max() < 0.1 and believed_in[1::2].min() > 0.9
    gains = windows[True].gains_db(believed_in)
    assert gains[1::2].min() > 10 and gains.min() > -3
    assert windows[True].gains_db(believed(shifted(confidence, -4), windows[True])).min() > gains.min()


def test_a_prior_is_left_only_for_a_reason(windows):
    """Of two windows that say nothing new nothing is learnt, of many that contradict it much."""
    prior = fit_confidence(windows[False])
    few = Windows(*(x[:2] for x in vars(windows[False]).values()))
    near = fit_confidence(few, prior)
    assert np.linalg.norm(near.weight - prior.weight) < 0.1 * np.linalg.norm(prior.weight)
    turned = Confidence(prior.centre, prior.scale, -prior.weight, -prior.offset)
    mended = fit_confidence(windows[False], turned)
    gains = [float(windows[True].gains_db(believed(c, windows[True])).mean()) for c in (turned, mended)]
    assert gains[1] > gains[0] + 3


def test_caution_costs_improvement_and_spares_songs():
    n = 200
    rng = torch.Generator().manual_seed(0)
    right = torch.rand(n, generator=rng, dtype=torch.float64) * 2 - 0.5  # the best confidence of each window
    known = right + 0.5 * torch.randn(n, generator=rng, dtype=torch.float64)
    ones = torch.ones(n, dtype=torch.float64)
    windows = Windows(known[:, None], 3 * ones, right, ones)
    confidence = fit_confidence(windows)
    rows = trade_off(confidence, windows)
    improved = [row["improved_percent"] for row in rows]
    assert improved == sorted(improved) and rows[0]["worse_percent"] > rows[-1]["worse_percent"]
    best = max(rows, key=lambda row: row["improvement_db"])
    chosen = choose_shift(rows)
    assert best["improvement_db"] - 0.1 <= chosen["improvement_db"] and chosen["shift"] <= best["shift"]
    assert chosen["improved_percent"] >= best["improved_percent"]


def test_calibrating_leaves_the_model_with_its_confidence(harmful, precision):
    found = calibrate(harmful, Pairs(False), Pairs(True), 12, 6)
    assert found["improvement_db"] > found["plain_db"] + 5 and found["plain_improved_percent"] == 50
    assert {"shift": found["shift"], "improvement_db": found["improvement_db"]}.items() <= next(
        row for row in found["trade_off"] if row["shift"] == found["shift"]).items()
    noisy, song = Pairs(True).batch(5, 0, range(1), WINDOW_SAMPLES)  # one that is spoilt
    denoised = denoise(harmful, noisy.numpy(), 44100)
    assert np.square(denoised - song.numpy()).sum() < 2 * float((noisy - song).square().sum())
