"""Checks before a run: no output may replace an input or another output."""

import os
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from common.errors import CallError


def _place(path):
    """Return the location of a path with links to folders followed, in the form of file systems without case."""
    path = Path(path)
    # A link to a file is not followed, since an output replaces it.
    real = os.path.realpath(path) if os.path.isdir(path) else os.path.join(os.path.realpath(path.parent), path.name)
    return unicodedata.normalize("NFC", real).casefold()


def _marks(path):
    """Return the location of a path and the identity of the file there. Two paths of one file have one in common."""
    marks = {_place(path)}
    with suppress(OSError):
        found = os.stat(path)
        if found.st_ino:  # some network drives give all files the number 0
            marks.add((found.st_dev, found.st_ino))
    return marks


def check_outputs(outputs: Iterable[tuple[str | Path, object]], inputs: Iterable[str | Path] = ()) -> None:
    """Raise CallError if an output is an input, is written twice, or needs the place of a folder.

    outputs: each path with the source or the purpose of the file. A hard or symbolic link to a file counts as that
    file. Names that differ only in case count as one name, as on many systems.
    """
    outputs, written = [(Path(path), what) for path, what in outputs], {}
    read = {mark: path for path in inputs for mark in _marks(path)}
    for path, what in outputs:
        if os.path.isdir(path):
            raise CallError(f"expected the name of a file to write, but {path} is a folder: choose another name")
        if found := _marks(path) & read.keys():
            raise CallError(f"expected an output other than the input, but {path} is the input {read[found.pop()]}: "
                            "choose another name or folder")
        other, source = written.setdefault(_place(path), (path, what))
        if source is not what:
            name = path if other == path else f"{other} and {path}, which are one name on many systems"
            raise CallError(f"expected one input per output, but {source} and {what} would both become {name}: rename "
                            "one, or run them into two folders")
    for folder in {parent for path, _ in outputs for parent in path.parents}:
        if os.path.isfile(folder) or _place(folder) in written:
            raise CallError(f"expected a folder, but {folder} is a file or will be one: choose another output")


def check_folders(outputs: Mapping[str, str | Path], sources: Iterable[str | Path] = ()) -> None:
    """Raise CallError if two output folders are the same, or if one lies in a source: the next run would read it.

    outputs: folders by the names of their flags.
    """
    read, written = {_place(source): source for source in sources}, {}
    for name, folder in outputs.items():
        where = _place(folder)
        if where in written:
            raise CallError(f"expected two output folders, but {written[where]} and {name} are both {folder}: choose "
                            "another")
        written[where] = name
        for around in (where, *map(str, Path(where).parents)):
            if around in read:
                raise CallError(f"expected an output outside of the sources, but {name} {folder} lies in "
                                f"{read[around]}: choose another folder")
