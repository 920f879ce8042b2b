"""Synthetic noises for training: coloured noise and mains hum."""

import torch

from common.network.stft import SAMPLE_RATE

# Power density over frequency in Hz, up to a factor: white, 1/f, 1/f^2, and tape hiss, which rises up to about 4 kHz.
# The density is constant below 20 Hz, which is inaudible.
SPECTRA = {
    "white": torch.ones_like,
    "pink": lambda f: 1 / f.clamp(min=20),
    "brown": lambda f: 1 / f.clamp(min=20).square(),
    "hiss": lambda f: f.square() / (f.square() + 4000**2),
}
HUM = "hum"  # harmonics of the mains frequency
SYNTHETIC = (*SPECTRA, HUM)
MAINS_HZ, HUM_HARMONICS = (50.0, 60.0), 12


def synthetic(name: str, seed: int, n_samples: int, device: str | torch.device = "cpu") -> torch.Tensor:
    """Make a noise of SYNTHETIC at SAMPLE_RATE with an expected RMS of 1, (n_samples,).

    Processors and GPUs give different noises for one seed.
    """
    generator = torch.Generator(device).manual_seed(seed)
    if name == HUM:
        return _hum(generator, n_samples, device)
    white = torch.randn(n_samples, generator=generator, device=device)
    if name == "white":
        return white
    frequency = torch.fft.rfftfreq(n_samples, 1 / SAMPLE_RATE, device=device)
    power = SPECTRA[name](frequency)
    return torch.fft.irfft(torch.fft.rfft(white) * (power / power.mean()).sqrt(), n_samples)


def _hum(generator, n_samples, device):
    """Make harmonics of 50 or 60 Hz with random phases; their random strengths fall by about 1/n."""
    random = torch.rand(3, HUM_HARMONICS, generator=generator, device=device)
    mains = torch.where(random[2, 0] < 0.5, *MAINS_HZ)
    n = torch.arange(1, HUM_HARMONICS + 1, device=device)
    strength = random[0] / n
    strength = strength / (strength.square().sum() / 2).sqrt()
    seconds = torch.arange(n_samples, device=device) / SAMPLE_RATE
    return strength @ torch.sin(2 * torch.pi * (mains * n[:, None] * seconds + random[1, :, None]))
