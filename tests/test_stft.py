import numpy as np
import pytest
import torch

from common.network import tensor_stft
from common.network.stft import STFT


@pytest.mark.parametrize("n", [1, 2, 511, 512, 513, 2047, 44100, 164864])
def test_round_trip(rng, n):
    x, stft = rng.standard_normal((2, n)).astype(np.float32), STFT()
    spectrum = stft.forward(x)
    assert spectrum.shape == (2, stft.n_bins, 1 + n // 512) and spectrum.dtype == np.complex64
    again = stft.inverse(spectrum, n)
    assert again.dtype == np.float32
    np.testing.assert_allclose(again, x, atol=1e-6 * max(1, np.abs(x).max()))


@pytest.mark.parametrize("stft", [STFT(), STFT(hop_length=300), STFT(512, 128)])
def test_tensors_are_transformed_as_arrays_are(rng, stft):
    x = rng.standard_normal((2, 20_000)).astype(np.float32)
    spectrum, mask = stft.forward(x), rng.standard_normal((2, stft.n_bins, 1 + 20_000 // stft.hop_length))
    changed = (spectrum * mask).astype(np.complex64)
    for array, tensor in ((spectrum, tensor_stft.forward(stft, torch.from_numpy(x))),
                          (stft.frames(x), tensor_stft.frames(stft, torch.from_numpy(x))),
                          (stft.inverse(changed, 20_000),
                           tensor_stft.inverse(stft, torch.from_numpy(np.ascontiguousarray(changed)), 20_000))):
        np.testing.assert_allclose(array, tensor.numpy(), atol=1e-5)


def test_energy_is_preserved_on_average(rng):
    """Divided by sqrt(n_fft), a Hann frame of white noise of variance 1 has bins of power 3/8."""
    spectrum = STFT().forward(rng.standard_normal((1, 441000)).astype(np.float32))
    assert (np.abs(spectrum) ** 2)[:, 10:-10, 5:-5].mean() == pytest.approx(3 / 8, rel=0.02)


def test_settings_compare_by_value():
    assert STFT(**vars(STFT())) == STFT() != STFT(hop_length=256)
