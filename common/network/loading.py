"""Weights to denoise with, through the library that this machine has."""

from importlib.util import find_spec
from pathlib import Path

from common.errors import CallError
from common.network.noise_model import NoiseModel
from common.network.weights_files import EXPORTED, exported_file, find_weights


def load_noise_model(name_or_path: str | Path, device: str = "auto", precision: str = "auto") -> NoiseModel:
    """Load weights to denoise with: through PyTorch if it is installed, otherwise through onnxruntime.

    An exported file (.onnx) is always computed by onnxruntime. device, precision: of DEVICES and PRECISIONS. Raises
    CallError for weights that were never exported where PyTorch is missing, and for a device or precision that cannot
    be had.
    """
    path = find_weights(name_or_path)
    if path.suffix == EXPORTED:
        exported = path
    elif find_spec("torch"):
        # Takes seconds, and PyTorch may be missing.
        from common.network.checkpoints import load_weights
        from common.network.inference import inference_form

        return inference_form(load_weights(path)[0], device, precision)
    else:
        exported = exported_file(path)
        if not exported.is_file():
            raise CallError(f"expected PyTorch for {path}, but it is not installed: pip install torch, or give a file "
                            "that python -m common.network.onnx_export made of these weights")
    from common.network.exported import ExportedModel

    return ExportedModel(exported, device, precision)
