"""Waveform to waveform: level, STFT, mask network, inverse."""

import os

import torch
from torch import nn

from common.errors import CallError
from common.network.confidence import Confidence
from common.network.dcunet import DCUNet20
from common.network.noise_print import wiener_gain
from common.network.stft import STFT

# Makes a machine compute in the precision of others.
PRECISION_VARIABLE = "DENOISER_PRECISION"
# Below this level (-120 dBFS) a signal counts as silent and is not amplified.
SILENCE_RMS = 1e-6


class Denoiser(nn.Module):
    """The mask network between its transforms, on waveforms at `stft.sample_rate`.

    The network sees every waveform at an RMS of 1 and the level is restored afterwards, so that
    scaling the input scales the output and nothing else. `confidence` says how much of the noise estimate is to be
    believed (see common.network.confidence); forward() gives the network's own word, common.denoising heeds it.
    """

    def __init__(self, network: DCUNet20, stft: STFT, confidence: Confidence | None = None):
        super().__init__()
        self.network, self.stft, self.confidence = network, stft, confidence

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        tensors = (*self.parameters(), *self.buffers())  # a streaming network has none and lies on the processor
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def takes_print(self) -> bool:
        """Whether the network listens to a noise print."""
        return self.network.plan.inputs > 1

    def forward(self, waveform: torch.Tensor, level: torch.Tensor | None = None,
                print_power: torch.Tensor | None = None) -> torch.Tensor:
        """Denoise (batch, samples) float32 -> (batch, samples) float32.

        level: the RMS of each waveform, (batch, 1). Given for a chunk of a longer signal, it makes all chunks see the
        level of the whole; left out, it is measured. print_power: of the noise alone at the waveform's own level,
        (batch, bins), see common.network.noise_print; zeros, or None, where there is no print.
        """
        if level is None:
            level = waveform.square().mean(-1, keepdim=True).sqrt()
        level = torch.where(level < SILENCE_RMS, torch.ones_like(level), level)
        spectrum = self.stft.forward(waveform / level)
        mask = self.network(self._planes(spectrum, print_power, level))
        return self.stft.inverse(torch.complex(mask[:, 0], mask[:, 1]) * spectrum, waveform.shape[-1]) * level

    def _planes(self, spectrum, print_power, level):
        """The network's input: the spectrum and, where the network takes one, what the print leaves of it."""
        spectra = [spectrum]
        if self.takes_print:
            heard = print_power is not None
            spectra.append(spectrum * wiener_gain(spectrum, print_power / level.square()) if heard else spectrum)
        return torch.stack([part for x in spectra for part in (x.real, x.imag)], 1)


def computes_bfloat16_fast(device: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware; elsewhere it is many times slower than float32.

    The environment variable DENOISER_PRECISION, float32 or bfloat16, decides in the device's place.
    """
    if forced := os.environ.get(PRECISION_VARIABLE):
        if forced not in ("float32", "bfloat16"):
            raise CallError(f"expected {PRECISION_VARIABLE} float32 or bfloat16, got {forced!r}: set or unset it")
        return forced == "bfloat16"
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def autocast(device: str) -> torch.autocast:
    """bfloat16 convolutions where the device computes them faster, else no change.

    The transforms and the loss stay in float32 in any case.
    """
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=computes_bfloat16_fast(device))
