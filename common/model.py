"""Waveform to waveform: level, STFT, mask network, inverse."""

import torch
from torch import nn

from common.confidence import Confidence
from common.dcunet import PRODUCTS, DCUNet20
from common.stft import STFT

# Below this level (-120 dBFS) a signal counts as silent and is not amplified.
SILENCE_RMS = 1e-6


class Denoiser(nn.Module):
    """The mask network between its transforms, on waveforms at `stft.sample_rate`.

    The network sees every waveform at an RMS of 1 and the level is restored afterwards, so that
    scaling the input scales the output and nothing else. `confidence` says how much of the noise estimate is to be
    believed (see common.confidence); forward() gives the network's own word, common.denoising heeds it.
    """

    def __init__(self, network: DCUNet20, stft: STFT, confidence: Confidence | None = None):
        super().__init__()
        self.network, self.stft, self.confidence = network, stft, confidence

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        tensors = (*self.parameters(), *self.buffers())  # a streaming network has none and lies on the processor
        return tensors[0].device if tensors else torch.device("cpu")

    def forward(self, waveform: torch.Tensor, level: torch.Tensor | None = None) -> torch.Tensor:
        """Denoise (batch, samples) float32 -> (batch, samples) float32.

        `level` is the RMS of each waveform, shape (batch, 1). Given for a chunk of a longer signal, it
        makes all chunks see the level of the whole; left out, it is measured.
        """
        if level is None:
            level = waveform.square().mean(-1, keepdim=True).sqrt()
        level = torch.where(level < SILENCE_RMS, torch.ones_like(level), level)
        spectrum = self.stft.forward(waveform / level)
        mask = self.network(torch.stack([spectrum.real, spectrum.imag], 1))
        return self.stft.inverse(spectrum - self.noise(mask, spectrum), waveform.shape[-1]) * level

    def noise(self, mask: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
        """What mask planes (batch, 2, bins, frames) take from a complex spectrum (batch, bins, frames)."""
        return spectrum - PRODUCTS[self.network.product](mask, spectrum)


def computes_bfloat16_fast(device: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware; elsewhere it is many times slower than float32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def autocast(device: str) -> torch.autocast:
    """bfloat16 convolutions where the device computes them faster, else no change.

    The transforms and the loss stay in float32 in any case.
    """
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=computes_bfloat16_fast(device))
