"""What denoising needs of a model, whatever computes it: PyTorch (network.model) or onnxruntime (network.exported)."""

from typing import Protocol

import numpy as np

from common.network.confidence import Confidence, FeatureModel
from common.network.stft import STFT

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "bfloat16")
# Minimum RMS (-120 dBFS) of a signal that is normalised. A quieter one counts as silent and is not amplified.
LEAST_NORMALISED_RMS = 1e-6


class NoiseModel(Protocol):
    """A network that finds the noise in waveforms at `stft.sample_rate`.

    time_stride: number of frames by which a shift of the input only shifts the output. context_frames: frames before
    and after a frame that its output can depend on. takes_print: whether it uses a noise print. confidence, and
    print_confidence if there is a noise print: see common.network.confidence; denoising scales the noise by it.
    classifier: see common.denoising.auto.
    """

    stft: STFT
    time_stride: int
    context_frames: int
    takes_print: bool
    confidence: Confidence | None
    print_confidence: Confidence | None
    classifier: FeatureModel | None

    def noise(self, waveform: np.ndarray, level: np.ndarray | None = None,
              print_power: np.ndarray | None = None) -> np.ndarray:
        """Find the noise in (batch, samples) float32, in the same shape; level and print_power: see Denoiser."""
