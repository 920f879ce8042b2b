"""The short-time Fourier transform and its inverse, with their settings as one value."""

from dataclasses import asdict, dataclass

import torch
from torch.nn import functional as F


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
    sample_rate: int = 44100

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


class OverlapAdd:
    """The inverse transform of a stream: frames in, samples out, equal to STFT.inverse of all frames at once."""

    def __init__(self, stft: STFT, channels: int):
        self.stft, self.window = stft, stft.window()
        # Centred frames begin half a window before the signal.
        self.skip = stft.n_fft // 2
        self.tail = torch.zeros(channels, 0)
        self.tail_weight = torch.zeros(1, 0)

    def push(self, spectrum: torch.Tensor, last: bool = False) -> torch.Tensor:
        """Take (channels, bins, frames), give the samples (channels, n) that no later frame can change.

        With `last` all samples are given, up to half a window beyond the centre of the last frame.
        """
        if not spectrum.shape[-1]:
            return self.tail[:, :0]
        scale = self.stft.n_fft ** 0.5  # spectra are divided by it
        frames = torch.fft.irfft(spectrum.transpose(1, 2), self.stft.n_fft) * (scale * self.window)
        sound = self._add(self.tail, frames)
        weight = self._add(self.tail_weight, self.window.square().expand(1, frames.shape[1], -1))
        n = sound.shape[1] if last else frames.shape[1] * self.stft.hop_length
        self.tail, self.tail_weight = sound[:, n:], weight[:, n:]
        skip = min(self.skip, n)
        self.skip -= skip
        return sound[:, skip:n] / weight[:, skip:n].clamp_min(1e-8)

    def _add(self, tail, frames):
        """Frames (channels, frames, n_fft) at their places, over the samples that are left of earlier ones."""
        n = (frames.shape[1] - 1) * self.stft.hop_length + self.stft.n_fft
        added = F.fold(frames.transpose(1, 2).contiguous(), (1, n), (1, self.stft.n_fft),
                       stride=(1, self.stft.hop_length))[:, 0, 0]
        added[:, : tail.shape[1]] += tail
        return added
