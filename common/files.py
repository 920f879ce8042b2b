"""Small files that are whole or not there."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

# File names that are not UTF-8 go into text files and come back byte for byte.
NAMES = "surrogateescape"


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text under a temporary name beside `path`, then rename: a kill leaves the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8", errors=NAMES, newline="") as file:
        file.write(text)
    os.replace(temporary, path)


def write_csv(path: str | Path, rows: Sequence[dict], columns: Iterable[str] | None = None) -> None:
    """Write rows as write_text does; with the keys of the first one as columns, if none are given."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if columns is None else columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
