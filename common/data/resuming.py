"""Resume a dataset: which pairs are in a merger's output folders, and whether this run may complete them.

Songs are known by their numbers, and noises are drawn from one list. A dataset is therefore resumed only with the
songs, noises and settings with which it was begun.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common.data import manifest
from common.errors import CallError
from common.locks import LOCK
from common.small_files import read_rows

N_NAMED = 3


def check_output(dirs: Sequence[Path]) -> None:
    """Refuse output folders with files that are not a merger's; remove the half-written files of a killed run."""
    for folder, side in zip(dirs, manifest.SIDES, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        prefix, tables = f"{side.upper()}-", (manifest.MANIFEST, manifest.DATASET)
        half_written = f".{prefix}", *(f".{name}." for name in tables)
        for path in sorted(folder.iterdir()):
            if path.name.startswith(half_written) and path.suffix == ".tmp":
                path.unlink(missing_ok=True)
            elif not (path.name.startswith(prefix) or path.name in (*tables, LOCK)
                      or path.match(manifest.ALL_JOURNALS)):
                raise CallError(f"expected an empty folder or an unfinished dataset of the same command, but "
                                f"{folder} holds {path.name}: choose another folder or move the file away")


def finished_pairs(dirs: Sequence[Path], settings, files: dict[str, list[str]]) -> list[dict]:
    """Return the journal rows of all pairs that earlier runs finished.

    settings: the MergeSettings of this run. files: its lists of songs and of noises, relative to the source folders.
    Raises CallError for folders with other files and when settings or sources have changed since the first run.
    """
    check_output(dirs)
    found = read_rows(dirs[0] / manifest.MANIFEST, manifest.COLUMNS)
    found += [row for path in sorted(dirs[0].glob(manifest.ALL_JOURNALS)) for row in read_rows(path)]
    # A kill may have cut the last line of a journal: its hash is then too short.
    whole = [row for row in found if len(row.get("target_sha256", "")) == 64
             and all(path.is_file() for path in manifest.member_hashes(row, dirs))]
    rows = list({row["pair_id"]: {c: row.get(c, "") for c in manifest.JOURNAL_COLUMNS} for row in whole}.values())
    _check_unchanged(dirs, settings, files, rows)
    return rows


def changes(before: dict, now: dict) -> list[str]:
    """Return phrases on the settings of a run whose values, as in a JSON file, were other ones before."""
    return [f"{name} was {before.get(name)!r} and is {value!r}" for name, value in now.items()
            if before.get(name) != value]


def _check_unchanged(dirs, settings, files, rows):
    stored = manifest.read_dataset(dirs[0])
    before = stored.get("sources", {}).get("files")
    if before is None:
        leftovers = [p for d in dirs for p in sorted(d.iterdir()) if p.name != LOCK]
        if leftovers and stored:
            raise CallError(f"expected a dataset that lists its sources, but {dirs[0]} was begun by an older version: "
                            "complete it with that version, or choose other output folders")
        if leftovers:
            raise CallError(f"expected an empty folder or an unfinished dataset of the same command, but "
                            f"{leftovers[0]} belongs to no known dataset: choose another folder")
        return
    if changed := changes(stored.get("settings", {}), json.loads(json.dumps(asdict(settings)))):
        raise CallError(f"expected the settings with which {dirs[0]} was begun, but {'; '.join(changed)}: use "
                        "the same ones or other output folders")
    changed = _list_changes(before, files) or _content_changes(settings, rows)
    if changed:
        raise CallError(f"expected the songs and noises with which {dirs[0]} was begun, but {'; '.join(changed)}: "
                        "restore them or use other output folders")


def _list_changes(before, now):
    """Phrases on the files that are new in the lists of songs and noises, or gone from them."""
    changes = []
    for what in now:
        for word, these, others in (("new", now, before), ("gone", before, now)):
            if names := sorted(set(these[what]) - set(others[what])):
                changes.append(f"these {what} are {word}: {first_names(names)}")
        if not changes and before[what] != now[what]:
            changes.append(f"the order of the {what} is another one")
    return changes


def _content_changes(settings, rows):
    """Phrases on the sources whose content has changed since the pairs of `rows` were made."""
    expected = {Path(settings.path_songs) / row["song"]: row["song_sha256"] for row in rows}
    expected |= {Path(settings.path_noises) / row[f"{side}_noise"]: row[f"{side}_noise_sha256"] for row in rows
                 for side in manifest.SIDES if row[f"{side}_noise_sha256"]}
    changed = manifest.changed_files(expected)
    return [f"the content of {first_names([path.name for path in changed])} has changed"] if changed else []


def first_names(names: Sequence[str]) -> str:
    """Return the first names of a list as text, and how many more there are."""
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return ", ".join(names[:N_NAMED]) + more
