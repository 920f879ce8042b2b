import numpy as np
import pytest
import torch

from common.training.losses import LOSSES, sdr_loss, spectrum_l2_loss, weighted_sdr_loss


@pytest.fixture
def signals():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(3, 20000, generator=generator) for _ in range(3))


def test_sdr_is_the_ratio_in_db(signals):
    estimate, target, noisy = signals
    e, t = estimate.numpy(), target.numpy()
    expected = np.mean([10 * np.log10(np.sum((a - b) ** 2) / np.sum(b**2)) for a, b in zip(e, t, strict=True)])
    assert float(sdr_loss(estimate, target, noisy)) == pytest.approx(expected, abs=1e-4)


def test_weighted_sdr_is_choi_equation_4(signals):
    estimate, target, noisy = (x.double() for x in signals)
    total = 0
    for y_hat, y, x in zip(estimate.numpy(), target.numpy(), noisy.numpy(), strict=True):
        z, z_hat = x - y, x - y_hat
        alpha = np.sum(y**2) / (np.sum(y**2) + np.sum(z**2))
        total += -alpha * (y @ y_hat) / np.linalg.norm(y) / np.linalg.norm(y_hat)
        total += -(1 - alpha) * (z @ z_hat) / np.linalg.norm(z) / np.linalg.norm(z_hat)
    assert float(weighted_sdr_loss(estimate, target, noisy)) == pytest.approx(total / 3, abs=1e-6)
    assert float(weighted_sdr_loss(target, target, noisy)) == pytest.approx(-1, abs=1e-6)


def test_spectrum_l2_of_nothing_is_the_energy_ratio(signals):
    _, target, _ = signals
    assert float(spectrum_l2_loss(torch.zeros_like(target), target, target)) == pytest.approx(1, abs=1e-4)
    assert float(spectrum_l2_loss(target, target, target)) == 0


@pytest.mark.parametrize("name", ["sdr", "spectrum_l2"])
def test_noisy_targets_have_the_same_minimum_as_clean_ones(name):
    """Noise2Noise: over many noisy targets the best gain on a clean-signal estimate is 1, as with clean targets."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.randn(1, 44100, generator=generator).expand(16, -1)
    noisy_target = clean + torch.randn(16, 44100, generator=generator)
    gains = torch.linspace(0.8, 1.2, 41)
    losses = torch.stack([LOSSES[name](g * clean, noisy_target, noisy_target) for g in gains])
    assert float(gains[losses.argmin()]) == pytest.approx(1, abs=0.015)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_silence_gives_finite_gradients(name):
    estimate = torch.zeros(1, 4096, requires_grad=True)
    LOSSES[name](estimate + 0, torch.zeros(1, 4096), torch.zeros(1, 4096)).backward()
    assert torch.isfinite(estimate.grad).all()
