"""What an output folder knows of its files: with which settings each was made, in a small file beside them."""

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path

from common.files import write_text

NAME = ".denoised.json"


@functools.lru_cache(maxsize=32)
def _parsed(path, *_version):
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def read_records(folder: str | Path) -> dict[str, dict | None]:
    """Settings by file name, None for a file that was only begun; empty where nothing is known."""
    path = os.path.join(folder, NAME)
    try:
        state = os.stat(path)
        return _parsed(path, state.st_ino, state.st_mtime_ns, state.st_size)
    except OSError:
        return {}


def is_recorded(path: Path) -> bool:
    """Whether a file was made, or begun, by the command that keeps these records."""
    return path.name in read_records(path.parent)


def record(paths: Sequence[Path], settings: dict | None) -> None:
    """Note the settings of files in one folder, which is there; None before the work, so that a kill tells no lie."""
    folder = paths[0].parent
    _parsed.cache_clear()  # another process may have added to it
    write_text(folder / NAME, json.dumps(read_records(folder) | {path.name: settings for path in paths}))
    _parsed.cache_clear()
