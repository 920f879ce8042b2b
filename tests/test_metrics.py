import numpy as np
import pytest
import torch
from pesq import pesq
from pystoi import stoi as pystoi
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio, signal_noise_ratio

from common.errors import UserError
from common.evaluation import metrics

RATE = 16000


@pytest.fixture
def speechlike(rng):
    """Three seconds of syllables (a gliding pulse train in bursts), and the same with noise."""
    t = np.arange(3 * RATE) / RATE
    phase = 2 * np.pi * np.cumsum(130 + 25 * np.sin(2 * np.pi * 0.7 * t)) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 25)) * np.clip(np.sin(2 * np.pi * 2.5 * t), 0, 1) * 0.3
    return voice.astype(np.float32), (voice + 0.05 * rng.standard_normal(len(voice))).astype(np.float32)


def _frozen_signals():
    n = np.arange(4410)
    low, high = np.sin(0.07 * n), np.sin(0.31 * n)
    return low + 0.3 * high, 0.9 * low + 0.31 * high + 0.1 * np.cos(2 * n)


def test_snr_and_si_sdr_agree_with_torchmetrics(rng):
    for _ in range(5):
        reference = rng.standard_normal(5000)
        estimate = 0.7 * reference + 0.3 * rng.standard_normal(5000)
        a, b = torch.from_numpy(estimate), torch.from_numpy(reference)
        assert metrics.snr(reference, estimate) == pytest.approx(float(signal_noise_ratio(a, b)), abs=1e-4)
        assert metrics.si_sdr(reference, estimate) == pytest.approx(
            float(scale_invariant_signal_distortion_ratio(a, b)), abs=1e-4)


def test_frozen_values():
    """Computed once with torchmetrics and a loop over frames; they change only with the metrics."""
    reference, estimate = _frozen_signals()
    assert metrics.snr(reference, estimate) == pytest.approx(17.34070, abs=1e-4)
    assert metrics.si_sdr(reference, estimate) == pytest.approx(18.96497, abs=1e-4)
    assert metrics.segmental_snr(reference, estimate, 44100) == pytest.approx(17.33986, abs=1e-4)


def test_segmental_snr_is_the_mean_over_frames(rng):
    reference = rng.standard_normal(30 * 100)
    estimate = reference + np.repeat(10 ** (-np.arange(10) / 4), 300) * rng.standard_normal(3000)
    frames = [metrics.snr(reference[i : i + 30], estimate[i : i + 30]) for i in range(0, 3000, 30)]
    assert metrics.segmental_snr(reference, estimate, 1000) == pytest.approx(np.clip(frames, -10, 35).mean(), abs=1e-9)


def test_pesq_and_stoi_are_those_of_their_packages(speechlike):
    reference, estimate = speechlike
    nb, wb = metrics.pesq_scores(reference, estimate, RATE)
    assert nb == pytest.approx(pesq(RATE, reference, estimate, "nb"), abs=1e-6)
    assert wb == pytest.approx(pesq(RATE, reference, estimate, "wb"), abs=1e-6)
    assert metrics.stoi(reference, estimate, RATE) == pytest.approx(pystoi(reference, estimate, RATE), abs=1e-9)


def test_log_spectral_distance_is_the_gain_in_db_and_hears_spectra(rng):
    reference, _ = _frozen_signals()
    assert metrics.log_spectral_distance(reference, reference) == 0
    loud = rng.standard_normal(20000)
    assert metrics.log_spectral_distance(loud, 0.5 * loud) == pytest.approx(20 * np.log10(2), abs=0.01)
    # Half of the bins 20 dB off: the RMS over bins is 20 / sqrt(2).
    spectrum = np.fft.rfft(loud)
    spectrum[len(spectrum) // 2 :] *= 0.1
    assert metrics.log_spectral_distance(loud, np.fft.irfft(spectrum)) == pytest.approx(20 / np.sqrt(2), abs=0.3)
    both = metrics.log_spectral_distance(np.stack([loud, loud]), np.stack([loud, 0.5 * loud]))
    assert both == pytest.approx(10 * np.log10(2), abs=0.01)


def test_limits():
    reference, _ = _frozen_signals()
    assert metrics.snr(reference, reference) == np.inf
    assert metrics.segmental_snr(reference, reference, 44100) == 35
    assert metrics.segmental_snr(reference, -100 * reference, 44100) == -10
    assert metrics.si_sdr(reference, 0.5 * reference) > 200
    assert metrics.snr(reference, 0 * reference) == 0
    assert metrics.snr(np.ones(1), np.full(1, 0.9)) == pytest.approx(20)


def test_what_cannot_be_scored_is_nan(rng):
    short = rng.standard_normal(500).astype(np.float32)
    scores = metrics.score(short, short + 0.1, RATE)
    assert np.isnan([scores["pesq_nb"], scores["pesq_wb"], scores["stoi"]]).all()
    assert np.isfinite(scores["snr_db"])


@pytest.mark.parametrize("reference, estimate, message", [
    (np.ones(5), np.ones(6), "one shape"), (np.ones((2, 3, 4)), np.ones((2, 3, 4)), "one shape"),
    (np.ones(5), np.array([1, 2, np.nan, 4, 5]), "finite"), (np.zeros(5), np.ones(5), "silence")])
def test_unscorable_input_is_refused(reference, estimate, message):
    for metric in (metrics.snr, metrics.si_sdr, lambda a, b: metrics.segmental_snr(a, b, RATE),
                   lambda a, b: metrics.pesq_scores(a, b, RATE), lambda a, b: metrics.stoi(a, b, RATE)):
        with pytest.raises(UserError, match=message):
            metric(reference, estimate)


def test_channels_count_together(rng):
    reference = rng.standard_normal((2, 1000))
    estimate = reference.copy()
    estimate[1] += rng.standard_normal(1000)
    assert metrics.snr(reference, estimate) == pytest.approx(metrics.snr(reference.ravel(), estimate.ravel()))


def test_without_the_package_pesq_is_missing_and_nothing_else(speechlike, monkeypatch, caplog):
    monkeypatch.setattr(metrics, "pesq", None)
    metrics._warn_without_pesq.cache_clear()
    scores = metrics.score(*speechlike, RATE)
    assert [name for name, value in scores.items() if np.isnan(value)] == ["pesq_nb", "pesq_wb"]
    assert "the package pesq is not installed" in caplog.text
