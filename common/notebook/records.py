"""A log on a notebook's page, and results that a program can read from the executed notebook."""

import ast
import json
import logging
import math
import sys
from pathlib import Path

from IPython.display import display

MIME = "application/vnd.song-denoiser.record+json"


def log_to_page() -> None:
    """Show the library's log lines below the running cell."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)


def unquoted(parameter):
    """Return a parameter as it was given: papermill turns tuples into text."""
    if isinstance(parameter, list):
        return [unquoted(part) for part in parameter]
    if isinstance(parameter, str) and parameter.startswith("("):
        try:
            return ast.literal_eval(parameter)
        except (SyntaxError, ValueError):  # a name that begins like a tuple
            return parameter
    return parameter


def record(**values) -> None:
    """Store named results (plain values) in the notebook's output and print them.

    NaN and infinity, which JSON lacks, become None.
    """
    values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    display({MIME: values, "text/plain": "\n".join(f"{k} = {v}" for k, v in values.items())}, raw=True)


def read_records(notebook: str | Path) -> dict:
    """Return all results that an executed notebook recorded."""
    found = {}
    for cell in json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            found |= output.get("data", {}).get(MIME, {})
    return found
