"""The transforms of common.network.stft for tensors: on any device, and with gradients."""

import torch

from common.network.stft import STFT


def forward(stft: STFT, waveform: torch.Tensor) -> torch.Tensor:
    """Transform (batch, samples) float32 into (batch, bins, frames) complex64."""
    return _transformed(stft, waveform, center=True, pad_mode="constant")


def frames(stft: STFT, samples: torch.Tensor) -> torch.Tensor:
    """Transform (batch, n_fft + k * hop_length samples) without padding into (batch, bins, k + 1) complex64."""
    return _transformed(stft, samples, center=False)


def inverse(stft: STFT, spectrum: torch.Tensor, n_samples: int) -> torch.Tensor:
    """Transform (batch, bins, frames) complex64 back into (batch, n_samples) float32."""
    return torch.istft(spectrum, length=n_samples, **_settings(stft, spectrum.device))


def _transformed(stft, samples, **options):
    return torch.stft(samples, return_complex=True, **_settings(stft, samples.device), **options)


def _settings(stft, device):
    return {"n_fft": stft.n_fft, "hop_length": stft.hop_length, "normalized": True,
            "window": torch.hann_window(stft.n_fft, device=device)}
