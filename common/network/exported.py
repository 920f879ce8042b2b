"""A model through onnxruntime, without PyTorch: an exported mask network between the transforms of arrays."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as reasons

from common.errors import CallError, UserError
from common.network.confidence import feature_models
from common.network.network_inputs import network_inputs
from common.network.noise_model import LEAST_NORMALISED_RMS
from common.network.stft import STFT

# Key of the file's metadata with a JSON object: what denoising must know of the model, and which weights it comes from.
SETTINGS_KEY = "song-denoiser-1"
# What onnxruntime raises for a file that holds no network.
DAMAGE = (reasons.Fail, reasons.InvalidArgument, reasons.InvalidGraph, reasons.InvalidProtobuf, reasons.NoModel,
          reasons.NotImplemented, reasons.RuntimeException)


class ExportedModel:
    """A NoiseModel of a file that common.network.onnx_export wrote.

    weights_sha256: hash of the weights file that it was made of. Raises CallError for another device than the processor
    and for another precision than float32, UserError for another file.
    """

    def __init__(self, path: str | Path, device: str = "auto", precision: str = "auto"):
        for flag, asked, able in (("--device", device, "cpu"), ("--precision", precision, "float32")):
            if asked not in ("auto", able):
                raise CallError(f"expected {flag} {able} or auto with onnxruntime, got {asked!r}: install PyTorch and "
                                f"give a .pth file for it, or leave {flag} out")
        options = onnxruntime.SessionOptions()
        options.enable_cpu_mem_arena = False  # halves the memory, and costs a tenth of the speed
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            settings = json.loads(self._session.get_modelmeta().custom_metadata_map[SETTINGS_KEY])
        except (*DAMAGE, KeyError, ValueError) as error:
            raise UserError(f"expected an exported network of this project, but {path} is none: export its weights "
                            "with python -m common.network.onnx_export") from error
        self.weights_sha256 = settings["weights_sha256"]
        self.stft, self.takes_print = STFT(**settings["stft"]), settings["takes_print"]
        self._compression = settings.get("compression", 1.0)
        self.time_stride, self.context_frames = settings["time_stride"], settings["context_frames"]
        self.confidence, self.print_confidence, self.classifier = feature_models(settings, self.stft).values()

    def noise(self, waveform: np.ndarray, level: np.ndarray | None = None,
              print_power: np.ndarray | None = None) -> np.ndarray:
        """Find the noise in (batch, samples) float32, see NoiseModel; Denoiser.forward does the same to tensors."""
        if level is None:
            level = np.sqrt(np.square(waveform).mean(-1, keepdims=True))
        level = np.where(level < LEAST_NORMALISED_RMS, 1, level).astype(np.float32)
        spectrum = self.stft.forward((waveform / level).astype(np.float32))
        inputs = network_inputs(spectrum, self._compression, None if print_power is None else print_power / level**2,
                                1 + self.takes_print)
        planes = np.stack([part for x in inputs for part in (x.real, x.imag)], 1)
        mask, = self._session.run(None, {"planes": planes.astype(np.float32, copy=False)})
        denoised = self.stft.inverse((mask[:, 0] + 1j * mask[:, 1]) * spectrum, waveform.shape[-1])
        return waveform - denoised * level
