"""One sentence for a package that is not installed: the smallest installation has only what denoising needs.

Scripts import packages before any function of theirs runs, so that only the hook for uncaught exceptions sees all.
"""

import re
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def install() -> None:
    """Put the sentence before the present hook for uncaught exceptions."""
    earlier = sys.excepthook

    def explain(kind, error, trace):
        if package := _missing(error, trace):
            print(f"error: expected the package {package}, but it is not installed: in the folder of the repository, "
                  f"{_advice(package)}", file=sys.stderr)
        else:
            earlier(kind, error, trace)
    sys.excepthook = explain


def _advice(package):
    """What installs a package: the small installation, if it is enough."""
    names = re.findall(r"^\w+", (ROOT / "requirements" / "listen.txt").read_text(encoding="utf-8"), re.MULTILINE)
    if package in names:
        return "pip install -e . installs what denoising needs"
    return "pip install -r requirements.txt installs all"


def _missing(error, trace):
    """The package of others that a module of this repository wanted to import in vain, or None."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    files = [Path(frame.filename) for frame in traceback.extract_tb(trace) if not frame.filename.startswith("<")]
    ours = files and files[-1].is_relative_to(ROOT) and "site-packages" not in files[-1].parts
    package = error.name.partition(".")[0]
    return package if ours and not (ROOT / package).is_dir() else None
