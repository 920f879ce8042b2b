"""Going on with a dataset: what lies in a merger's output folders, and whether this run may add to it.

The pairs of a run are known by the numbers of their songs, and each is drawn from one list of noises. So what is there
may stay only where songs, noises and settings are what they were.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import joblib

from common.data.manifest import (
    COLUMNS,
    DATASET,
    JOURNAL,
    JOURNAL_COLUMNS,
    JOURNAL_PART,
    MANIFEST,
    SIDES,
    number_in,
    read_dataset,
)
from common.data.mixing import file_sha256
from common.errors import CallError
from common.files import read_rows, write_csv
from common.locks import LOCK

N_NAMED = 3


def check_output(directory: Path, prefix: str) -> None:
    """Refuse a folder that holds anything but this tool's own files; remove what a killed run left."""
    directory.mkdir(parents=True, exist_ok=True)
    lists = MANIFEST, DATASET, JOURNAL
    half_written = f".{prefix}-", *(f".{name}." for name in lists)
    for path in sorted(directory.iterdir()):
        if path.name.startswith(half_written) and path.suffix == ".tmp":
            path.unlink(missing_ok=True)
        elif not (path.name.startswith(f"{prefix}-") or path.name in (*lists, LOCK)
                  or path.match(JOURNAL_PART.format("*"))):
            raise CallError(f"expected an empty folder or an unfinished dataset of the same command, but "
                            f"{directory} holds {path.name}: choose another folder or move the file away")


def finished_pairs(dirs: tuple[Path, Path]) -> list[dict]:
    """JOURNAL_COLUMNS of the pairs that earlier runs finished and whose files are still there."""
    journals = [dirs[0] / JOURNAL, *sorted(dirs[0].glob(JOURNAL_PART.format("*")))]
    found = read_rows(dirs[0] / MANIFEST, COLUMNS) + [row for path in journals for row in read_rows(path)]
    whole = [row for row in found if len(row.get("target_sha256", "")) == 64  # not a torn last line
             and all((d / row[f"{s}_file"]).is_file() for d, s in zip(dirs, SIDES, strict=True))]
    return list({row["pair_id"]: {c: row.get(c, "") for c in JOURNAL_COLUMNS} for row in whole}.values())


def take_over(dirs: tuple[Path, Path], rows: Sequence[dict]) -> None:
    """Make the journals of earlier runs one, which holds `rows`."""
    write_csv(dirs[0] / JOURNAL, rows, JOURNAL_COLUMNS)
    for path in dirs[0].glob(JOURNAL_PART.format("*")):
        path.unlink()


def check_unchanged(dirs: tuple[Path, Path], settings, files: dict[str, list[str]], rows: Sequence[dict]) -> None:
    """Raise CallError, saying what changed, unless settings and sources are those with which a dataset was begun.

    settings: a MergeSettings; files: `songs` and `noises`, in order, relative to the source folders; rows: of the pairs
    that are there, whose sources' bytes are compared too.
    """
    stored = read_dataset(dirs[0])
    if "settings" not in stored:
        leftovers = [p for d in dirs for p in sorted(d.iterdir()) if p.name != LOCK]
        if leftovers:
            raise CallError(f"expected an empty folder or an unfinished dataset of the same command, but "
                            f"{leftovers[0]} belongs to no known dataset: choose another folder")
        return
    before, now = stored["settings"], json.loads(json.dumps(asdict(settings)))
    changed = [f"{k} was {before.get(k)!r} and is {v!r}" for k, v in now.items() if before.get(k) != v]
    if changed:
        raise CallError(f"expected the settings with which {dirs[0]} was begun, but {'; '.join(changed)}: use "
                        "the same ones or other output folders")
    listed = stored["sources"].get("files", files)  # older datasets have no lists
    changed = [change for what, names in files.items() for change in _differences(what, listed[what], names)]
    changed = changed or _changed_sources(settings, files["songs"], rows)
    if changed:
        raise CallError(f"expected the songs and noises with which {dirs[0]} was begun, but {'; '.join(changed)}: "
                        "restore them or use other output folders")


def _differences(what, before, now):
    """What came into a list of files and what left it, in words."""
    changes = [(word, sorted(set(a) - set(b))) for word, a, b in (("new", now, before), ("gone", before, now))]
    found = [f"of the {what} {_some(names)} {'is' if len(names) == 1 else 'are'} {word}"
             for word, names in changes if names]
    return found or ([f"the order of the {what} is another one"] if before != now else [])


def _changed_sources(settings, songs, rows):
    """The sources that changed since pairs were made of them, in words."""
    numbers = {row["song"]: number_in(row, "song_number", int) for row in rows}
    strangers = sorted(song for song, n in numbers.items() if songs[n - 1 : n] != [song])
    if strangers:  # of a dataset without lists
        return [f"{_some(strangers)} {'is' if len(strangers) == 1 else 'are'} not where the list of songs had them"]
    expected = {Path(settings.path_songs) / row["song"]: row["song_sha256"] for row in rows}
    expected |= {Path(settings.path_noises) / row[f"{side}_noise"]: row[f"{side}_noise_sha256"] for row in rows
                 for side in SIDES if row[f"{side}_noise_sha256"]}
    hashes = joblib.Parallel(n_jobs=-1, prefer="threads")(joblib.delayed(_sha256)(path) for path in expected)
    changed = [path.name for path, found in zip(expected, hashes, strict=True) if found != expected[path]]
    return [f"the content of {_some(changed)} has changed"] if changed else []


def _sha256(path):
    return file_sha256(path) if path.is_file() else None


def _some(names):
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return ", ".join(names[:N_NAMED]) + more
