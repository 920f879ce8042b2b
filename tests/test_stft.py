import pytest
import torch

from common.network.stft import STFT


@pytest.mark.parametrize("n", [1, 2, 511, 512, 513, 2047, 44100, 164864])
def test_round_trip(n):
    torch.manual_seed(0)
    x = torch.randn(2, n)
    stft = STFT()
    spectrum = stft.forward(x)
    assert spectrum.shape == (2, stft.n_bins, 1 + n // 512)
    assert (stft.inverse(spectrum, n) - x).abs().max() < 1e-6 * max(1, x.abs().max())


def test_energy_is_preserved_on_average():
    """Divided by sqrt(n_fft), a Hann frame of white noise of variance 1 has bins of power 3/8."""
    torch.manual_seed(0)
    power = STFT().forward(torch.randn(1, 441000)).abs().square()[:, 10:-10, 5:-5].mean()
    assert float(power) == pytest.approx(3 / 8, rel=0.02)


def test_settings_compare_by_value():
    assert STFT(**vars(STFT())) == STFT() != STFT(hop_length=256)
