import numpy as np
import pytest
import torch
from torch import nn

from common.checkpoints import load_weights, save_weights
from common.denoising import denoise
from common.inference import inference_form
from common.model import Denoiser
from common.stft import STFT
from common.trust import band_edges, measure_trust

SPLIT_HZ = 2000  # the song below has nothing above


class SameMask(nn.Module):
    """Takes away half of everything, whatever it is."""

    product = "complex"

    def forward(self, planes):
        mask = torch.zeros_like(planes)
        mask[:, 0] = 0.5
        return mask


class Pairs:
    """A low-passed song of RMS 1 with two independent white noises, or its clean self as the target."""

    def __init__(self, snr_db, clean_target):
        self.gain, self.clean_target = 10 ** (-snr_db / 20), clean_target

    def batch(self, seed, step, rows, n_samples):
        made = [[torch.from_numpy(np.random.default_rng([seed, row, k]).standard_normal(n_samples)).float()
                 for k in range(3)] for row in rows]
        song, first, second = (torch.stack(x) for x in zip(*made, strict=True))
        spectrum = torch.fft.rfft(song)
        spectrum[:, round(SPLIT_HZ * n_samples / 44100):] = 0
        song = torch.fft.irfft(spectrum, n_samples)
        song = song / song.square().mean(-1, keepdim=True).sqrt()
        return song + self.gain * first, song if self.clean_target else song + self.gain * second


@pytest.mark.parametrize("clean_target", [False, True])
def test_trust_is_the_share_of_the_estimate_that_is_noise(clean_target):
    """Of half of X, below 2 kHz a share 2 P_noise / (P_song + P_noise) is noise; above more than all of it."""
    model = Denoiser(SameMask(), STFT())
    trust = measure_trust(model, Pairs(10, clean_target), 12, 60_000)
    assert trust.shape == (1025,) and trust.min() >= 0 and trust.max() <= 1
    in_band = 2 * 0.1 / (0.1 + 22050 / SPLIT_HZ)
    assert float(trust[5:70].mean()) == pytest.approx(in_band, abs=0.15 * in_band)
    assert float(trust[200:].min()) > 0.97
    model.trust.copy_(torch.rand(1025))
    assert torch.equal(measure_trust(model, Pairs(10, clean_target), 12, 60_000), trust)


def test_trust_makes_the_estimate_better_on_other_pairs():
    full = Denoiser(SameMask(), STFT())
    careful = Denoiser(SameMask(), STFT(), measure_trust(full, Pairs(10, False), 12, 60_000))
    noisy, song = Pairs(10, True).batch(7, 0, range(4), 60_000)
    errors = [float((m(noisy) - song).square().mean()) for m in (full, careful)]
    assert errors[1] < 0.06 < 0.1 < errors[0]  # the noise has a power of 0.1


def test_who_finds_no_noise_is_trusted():
    class Silence(Pairs):
        def batch(self, *where):
            return tuple(torch.zeros_like(x) for x in super().batch(*where))

    assert measure_trust(Denoiser(SameMask(), STFT()), Silence(10, False), 2, 20_000).min() == 1


def test_bands_cover_all_bins_once():
    for n_bins in (1025, 257, 3, 1):
        edges = band_edges(n_bins)
        assert edges[0] == 0 and edges[-1] == n_bins and (np.diff(edges) > 0).all()


@pytest.fixture
def careful(model):
    return Denoiser(model.network, model.stft, torch.linspace(0, 1, 1025)).eval()


def test_trust_scales_what_is_taken_away(model, careful, rng):
    audio = 0.1 * rng.standard_normal((2, 70_000)).astype(np.float32)
    x = torch.from_numpy(audio)
    with torch.inference_mode():
        noise, cautious = (model.stft.forward(x - m(x)) for m in (model, careful))
        inner = slice(4, -4)  # at the ends no frames overlap that could cancel
        wanted = (careful.trust[:, None] * noise)[..., inner]
        assert (cautious[..., inner] - wanted).norm() < 0.02 * wanted.norm()
        nothing = Denoiser(model.network, model.stft, torch.zeros(1025)).eval()
        assert torch.allclose(nothing(x), x, atol=1e-6)
    # Streaming, and in chunks through convolutions.
    expected = careful(x).detach().numpy()
    for precision in ("float32", "bfloat16"):
        got = denoise(inference_form(careful, "cpu", precision), audio, 44100)
        assert np.square(got - expected).sum() < 1e-4 * np.square(audio - expected).sum()


def test_trust_travels_with_the_weights(careful, tmp_path):
    save_weights(careful, tmp_path / "m.pth", {}, half=True)
    assert torch.equal(load_weights(tmp_path / "m.pth")[0].trust, careful.trust)
