"""Weights files by name and by path."""

import os
from pathlib import Path

from common.errors import CallError
from common.labels import CLASS_NAMES, weights_name

PRETRAINED = Path(__file__).resolve().parents[2] / "pretrained_weights"
EXPORTED = ".onnx"


def pretrained_names() -> list[str]:
    """The names of the files in pretrained_weights/."""
    return sorted(path.stem for path in PRETRAINED.glob("*.pth"))


def find_weights(name_or_path: str | Path) -> Path:
    """The file with a name in pretrained_weights/ (`white`, `class3`, `dog_bark`), or at a path.

    A pretrained name never means a file in the working directory; `./white` and `white.pth` do. Raises CallError, with
    the names, if there is no such file.
    """
    named = PRETRAINED / f"{weights_name(os.fspath(name_or_path))}.pth"
    if os.path.basename(name_or_path) == os.fspath(name_or_path) and named.is_file():
        return named
    path = Path(name_or_path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        words = {weights_name(name): f"{weights_name(name)} ({name})" for name in CLASS_NAMES}
        names = ", ".join(words.get(name, name) for name in pretrained_names())
        raise CallError(f"expected a .pth or .onnx file or one of the names {names}, but {path} {what}: choose a name "
                        "or check the path")
    return path


def exported_file(path: str | Path) -> Path:
    """The place of the exported form of a weights file."""
    path = Path(path)
    return path.with_name("onnx") / path.with_suffix(EXPORTED).name
