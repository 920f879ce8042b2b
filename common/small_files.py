"""Small files: text and tables that are written as a whole or not at all, and read as spreadsheets may save them."""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from common.errors import UserError

# Python holds the bytes of a file name that is not UTF-8 as lone surrogates, which UTF-8 cannot encode. Files contain
# them as JSON escapes such as \udce9.
_SURROGATE = re.compile(r"\\u(d[89a-f][0-9a-f]{2})")
_UTF_16_MARKS = b"\xff\xfe", b"\xfe\xff"
# Numbers of spreadsheets that separate columns by ; or tabs.
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+([eE][-+]?\d+)?")


def c_name(path: str | Path) -> str | bytes:
    """Return a path in the form that libsndfile needs: soundfile encodes text as UTF-8, but a name may be any bytes."""
    return os.fspath(path) if os.name == "nt" else os.fsencode(path)


def ffmpeg_name(path: str | Path) -> str:
    """Return a path in the form that FFmpeg needs, which takes the beginning of a name with a colon for a protocol."""
    return f"file:{os.fspath(path)}"


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text to a temporary file beside `path`, then rename it: a kill leaves the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # another process may write the same file
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_csv(path: str | Path, rows: Sequence[dict], columns: Iterable[str] | None = None) -> None:
    """Write rows with write_text. By default the columns are the keys of the first row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if columns is None else columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_rows(path: str | Path, columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """Read the rows of a CSV file, all values as text; no rows if the file does not exist.

    A spreadsheet may have saved it: with `;` or tabs between columns and then perhaps decimal commas, with a byte order
    mark, as UTF-16 or in the code page of Western Windows. Raises UserError if some of `columns` are missing.
    """
    path = Path(path)
    if not path.is_file():
        return []
    text = _SURROGATE.sub(lambda found: chr(int(found[1], 16)), _decoded(path.read_bytes()).lstrip())
    header = (text.splitlines() or [""])[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        rows = [{name: value for name, value in row.items() if name} for row in reader]
    except csv.Error as error:
        raise UserError(f"expected a table in {path}, but it is damaged ({error}): restore it or make it "
                        "again") from error
    missing = [name for name in columns if name not in reader.fieldnames]
    if missing:
        raise UserError(f"expected the columns {', '.join(columns)} in {path}, but it has no {', '.join(missing)}: "
                        "restore it or make it again")
    if delimiter != ",":
        rows = [{k: v.replace(",", ".") if _DECIMAL_COMMA.fullmatch(v) else v for k, v in row.items()} for row in rows]
    return [row for row in rows if any(row.values())]


def _decoded(data):
    if data.startswith(_UTF_16_MARKS):
        return data.decode("utf-16", errors="replace")
    for encoding in ("utf-8-sig", "cp1252"):
        with suppress(UnicodeDecodeError):
            return data.decode(encoding)
    return data.decode("latin-1")


def read_json(path: str | Path, advice: str) -> dict:
    """Read the object in a JSON file. Raises UserError, which ends in `advice`, if the file is damaged."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:  # both wrong UTF-8 and wrong JSON
        raise UserError(f"expected JSON in {path}, but it is damaged ({error}): {advice}") from error
    if not isinstance(content, dict):
        raise UserError(f"expected a JSON object in {path}, got a {type(content).__name__}: {advice}")
    return content
