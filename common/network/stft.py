"""The short-time Fourier transform and its inverse, with their settings as one value."""

from dataclasses import asdict, dataclass

import torch

# Rate in Hz at which networks are trained.
SAMPLE_RATE = 44100
# 323 frames of the default STFT: the 3.74 s segments of the literature.
SEGMENT_SAMPLES = 165_000


@dataclass(frozen=True)
class STFT:
    """Settings of the transform; two equal values transform alike.

    n_fft: window and transform length in samples. hop_length: samples between frames.
    sample_rate: rate in Hz that the settings are meant for. The window is a periodic Hann, frames are
    centred on multiples of the hop, the signal is continued with zeros (so that one sample is enough
    and a chunk can be transformed alone), and spectra are divided by sqrt(n_fft).
    """

    n_fft: int = 2048
    hop_length: int = 512
    sample_rate: int = SAMPLE_RATE

    @property
    def n_bins(self) -> int:
        """Frequency bins of a spectrum."""
        return self.n_fft // 2 + 1

    def n_frames(self, n_samples: int) -> int:
        """Frames that `n_samples` give."""
        return 1 + n_samples // self.hop_length

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """(batch, samples) float32 -> (batch, bins, frames) complex64."""
        return torch.stft(waveform, window=self.window(waveform.device), center=True, pad_mode="constant",
                          return_complex=True, **self._lengths())

    def frames(self, samples: torch.Tensor) -> torch.Tensor:
        """Frames that lie wholly inside (batch, n_fft + k * hop_length samples) -> (batch, bins, k + 1) complex64."""
        return torch.stft(samples, window=self.window(samples.device), center=False, return_complex=True,
                          **self._lengths())

    def inverse(self, spectrum: torch.Tensor, n_samples: int) -> torch.Tensor:
        """(batch, bins, frames) complex64 -> (batch, n_samples) float32."""
        return torch.istft(spectrum, window=self.window(spectrum.device), center=True, length=n_samples,
                           **self._lengths())

    def as_dict(self) -> dict:
        """The settings as plain values, for a weights file."""
        return asdict(self)

    def window(self, device: str | torch.device = "cpu") -> torch.Tensor:
        """The analysis window, (n_fft,)."""
        return torch.hann_window(self.n_fft, device=device)

    def _lengths(self):
        return {"n_fft": self.n_fft, "hop_length": self.hop_length, "win_length": self.n_fft, "normalized": True}
