"""Small files that are whole or not there."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path


def c_name(path: str | Path) -> str | bytes:
    """A path as libsndfile is to be given it: a name may be any bytes, and its binding insists on UTF-8."""
    return os.fspath(path) if os.name == "nt" else os.fsencode(path)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text under a temporary name beside `path`, then rename: a kill leaves the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # another process may write the same
    try:
        # What is not UTF-8 in the name of a file stays the bytes that it is.
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_csv(path: str | Path, rows: Sequence[dict], columns: Iterable[str] | None = None) -> None:
    """Write rows as write_text does; with the keys of the first one as columns, if none are given."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if columns is None else columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
