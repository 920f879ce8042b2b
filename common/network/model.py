"""The denoiser from waveform to waveform: level, STFT, mask network, inverse STFT."""

import os
from itertools import chain

import numpy as np
import torch
from torch import nn

from common.errors import CallError
from common.network import tensor_stft
from common.network.confidence import Confidence, FeatureModel
from common.network.dcunet import DCUNet20
from common.network.network_inputs import network_inputs
from common.network.noise_model import LEAST_NORMALISED_RMS
from common.network.stft import STFT

# Environment variable that makes a machine compute in the given precision, float32 or bfloat16.
PRECISION_VARIABLE = "DENOISER_PRECISION"


class Denoiser(nn.Module):
    """The mask network between its transforms, for waveforms at `stft.sample_rate`.

    The network gets every waveform at an RMS of 1, and the level is restored afterwards: scaling the input scales the
    output and changes nothing else. It is a NoiseModel; `confidence`, `print_confidence` and `classifier` are for
    common.denoising, and forward() uses none of them.
    """

    def __init__(self, network: DCUNet20, stft: STFT, confidence: Confidence | None = None,
                 print_confidence: Confidence | None = None, classifier: FeatureModel | None = None):
        super().__init__()
        self.network, self.stft, self.classifier = network, stft, classifier
        self.confidence, self.print_confidence = confidence, print_confidence

    @property
    def device(self) -> torch.device:
        """The device on which the network computes."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def takes_print(self) -> bool:
        """Whether the network uses a noise print."""
        return self.network.plan.inputs > 1

    @property
    def time_stride(self) -> int:
        """Number of frames by which a shift of the input only shifts the output."""
        return self.network.plan.time_stride

    @property
    def context_frames(self) -> int:
        """Frames before and after a frame that its output can depend on."""
        return self.network.plan.context_frames()

    def forward(self, waveform: torch.Tensor, level: torch.Tensor | None = None,
                print_power: torch.Tensor | None = None) -> torch.Tensor:
        """Denoise (batch, samples) float32 -> (batch, samples) float32.

        level: RMS that each waveform is divided by, (batch, 1); measured if left out. All chunks of a long signal are
        given the level of the whole. print_power: power of the noise print at the waveform's own level, (batch, bins),
        see common.network.noise_print; zeros or None without a print.
        """
        if level is None:
            level = waveform.square().mean(-1, keepdim=True).sqrt()
        level = torch.where(level < LEAST_NORMALISED_RMS, torch.ones_like(level), level)
        spectrum = tensor_stft.forward(self.stft, waveform / level)
        inputs = network_inputs(spectrum, self.network.compression,
                                None if print_power is None else print_power / level.square(), self.network.plan.inputs)
        mask = self.network(torch.stack([part for x in inputs for part in (x.real, x.imag)], 1))
        spectrum = torch.complex(mask[:, 0], mask[:, 1]) * spectrum
        return tensor_stft.inverse(self.stft, spectrum, waveform.shape[-1]) * level

    @torch.inference_mode()
    def noise(self, waveform: np.ndarray, level: np.ndarray | None = None,
              print_power: np.ndarray | None = None) -> np.ndarray:
        """Find the noise in (batch, samples) float32, see NoiseModel; on the model's device."""
        waveform, level, print_power = (
            None if x is None else torch.as_tensor(x, dtype=torch.float32, device=self.device)
            for x in (waveform, level, print_power))
        return (waveform - self(waveform, level, print_power)).cpu().numpy()


def computes_bfloat16_fast(device: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware. Without it bfloat16 is many times slower than float32.

    The environment variable DENOISER_PRECISION, float32 or bfloat16, overrides this.
    """
    if forced := os.environ.get(PRECISION_VARIABLE):
        if forced not in ("float32", "bfloat16"):
            raise CallError(f"expected {PRECISION_VARIABLE} float32 or bfloat16, got {forced!r}: set or unset it")
        return forced == "bfloat16"
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def autocast(device: str) -> torch.autocast:
    """A context in which convolutions run in bfloat16 if the device computes it fast.

    Transforms and losses stay in float32.
    """
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=computes_bfloat16_fast(device))
