"""Small files: written whole or not at all, and read as others may have left them."""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.errors import UserError

# A file name need not be UTF-8. Python holds its odd bytes as lone surrogates, which UTF-8 cannot encode. They are
# written as JSON escapes, \udce9, and read back from these.
_SURROGATE = re.compile(r"\\u(d[89a-f][0-9a-f]{2})")
# Spreadsheets save what they call Unicode, UTF-8 with a mark, or the code page of Western Windows.
_ENCODINGS = ("utf-8-sig", "cp1252", "latin-1")
_UTF_16_MARKS = b"\xff\xfe", b"\xfe\xff"
# Where ; or tabs separate columns, a comma stands within numbers.
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+([eE][-+]?\d+)?")


def c_name(path: str | Path) -> str | bytes:
    """A path as libsndfile is to be given it: a name may be any bytes, and its binding insists on UTF-8."""
    return os.fspath(path) if os.name == "nt" else os.fsencode(path)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text under a temporary name beside `path`, then rename: a kill leaves the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # another process may write the same
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
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


def read_rows(path: str | Path, columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """The rows of a CSV file, all values as text; empty when there is no such file.

    A spreadsheet may have saved it: with `;` or tabs between columns and then perhaps decimal commas, with a byte order
    mark, as UTF-16 or in Western Windows' code page. Raises UserError for a file that lacks some of `columns`.
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
    for encoding in _ENCODINGS:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise AssertionError("Latin-1 decodes everything")


def read_json(path: str | Path, advice: str) -> dict:
    """The object in a JSON file; raises UserError, which ends in `advice`, when it is damaged."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:  # of the encoding or of the JSON
        raise UserError(f"expected JSON in {path}, but it is damaged ({error}): {advice}") from error
    if not isinstance(content, dict):
        raise UserError(f"expected a JSON object in {path}, got a {type(content).__name__}: {advice}")
    return content
