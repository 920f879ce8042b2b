"""Weights files: each one rebuilds its own network and STFT, and loading it executes no code."""

import os
import pickle
import subprocess
import zipfile
from dataclasses import asdict
from pathlib import Path

import torch

from common.errors import PARSER_ERRORS, CallError, UserError
from common.network.confidence import FEATURE_MODELS, FeatureModel, feature_models
from common.network.dcunet import LITERATURE, DCUNet20
from common.network.model import Denoiser
from common.network.stft import STFT
from common.network.weights_files import PRETRAINED, find_weights

# Exceptions that zipfile, pickle and PyTorch raise for damaged files.
DAMAGE = (zipfile.BadZipFile, pickle.UnpicklingError, *PARSER_ERRORS)
FORMAT = "song-denoiser-1"


def save_atomically(content: dict, path: str | Path) -> None:
    """Write with torch.save under a temporary name, then rename: a kill leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())  # without it a power cut may keep the name and lose the bytes
    os.replace(temporary, path)


def load_safely(path: str | Path) -> dict:
    """Read a file of plain values and tensors; raises UserError for anything else and for a damaged file."""
    path = Path(path)
    if not path.is_file():
        raise CallError(f"expected a weights file, but {path} does not exist: check the path")
    try:
        with zipfile.ZipFile(path) as archive:  # PyTorch does not check checksums
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"{damaged} has a wrong checksum")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, MemoryError):
        raise
    except DAMAGE as error:
        raise UserError(f"expected a weights file of this project, but {path} cannot be loaded "
                        f"({type(error).__name__}): train again or choose another file") from error
    if not isinstance(content, dict):
        raise UserError(f"expected a weights file of this project, but {path} holds a {type(content).__name__}: "
                        "choose another file")
    return content


def weights_content(model: Denoiser, info: dict, half: bool = False) -> dict:
    """The content of a weights file: format, settings, `info` (plain values), tensors and FEATURE_MODELS.

    `half` stores floating-point tensors in 16 bits, which halves the file.
    """
    state = {name: t.half() if half and t.is_floating_point() else t.clone() for name, t in model.state_dict().items()}
    return {"format": FORMAT, "network": model.network.settings(), "stft": asdict(model.stft), "info": info,
            "state": state} | {name: feature_tensors(getattr(model, name)) for name in FEATURE_MODELS}


def feature_tensors(values: FeatureModel | None) -> dict | None:
    """The arrays of a confidence or a classifier as a weights file holds them."""
    return values and {name: torch.as_tensor(array) for name, array in vars(values).items()}


def save_weights(model: Denoiser, path: str | Path, info: dict, half: bool = False) -> None:
    """Write a weights file, see weights_content."""
    save_atomically(weights_content(model, info, half), path)


def code_commit() -> str | None:
    """The commit of this checkout, followed by + if files differ from it; None outside a git checkout."""
    command = ["git", "-C", str(PRETRAINED.parent), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def load_weights(name_or_path: str | Path, device: str = "cpu") -> tuple[Denoiser, dict]:
    """Rebuild a model in evaluation mode from a weights file; returns it and the file's info."""
    path = find_weights(name_or_path)
    content = load_safely(path)
    if content.get("format") != FORMAT:
        raise UserError(f"expected a weights file of format {FORMAT}, but {path} says {content.get('format')!r}: "
                        "choose a .pth file that this project's training wrote")
    try:
        network, stft, info = content["network"], content["stft"], content["info"]
        if not all(isinstance(value, int) and value > 0 for value in stft.values()):
            raise ValueError
        with torch.device("meta"):  # a damaged file may claim a huge width, and this needs no memory
            # Files that are older than the plans hold the literature's.
            network = DCUNet20(network["width"], network.get("plan", LITERATURE), network.get("depth_factors"))
            model = Denoiser(network, STFT(**stft))
        state = {name: x.float() if x.is_floating_point() else x for name, x in content["state"].items()}
        state.setdefault("network.compression", torch.tensor(1.0))  # files that are older than it
        model.load_state_dict(state, assign=True)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"expected the weights of a DCUNet-20 with its settings, but {path} holds other tensors or "
                        "settings: choose another file") from error
    for name, values in feature_models(content, model.stft).items():
        setattr(model, name, values)
    return model.to(device).eval(), info
