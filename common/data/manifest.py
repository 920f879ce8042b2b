"""The files that describe a dataset: manifest.csv, with one row per pair, and dataset.json, which says how it was made.

Both lie in the folder of the INPUT files. Paths in the manifest are relative to the source folders that dataset.json
names, so that the sources can move. A row and the sources are enough to make its pair again bit for bit; a row alone is
enough to compute levels, classes and splits. The model is scaper's annotations (Salamon et al. 2017, "Scaper: a library
for soundscape synthesis and augmentation").
"""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np

from common.audio.signals import RECORDINGS, GaussianNoise, LoopedNoise
from common.errors import UserError
from common.small_files import read_json, read_rows, write_text

MANIFEST, DATASET = "manifest.csv", "dataset.json"
# Rows of finished pairs while other pairs are still to be made. Every worker process writes journals of its own.
JOURNAL, ALL_JOURNALS = "journal-{}.csv", "journal-*.csv"
SIDES = ("input", "target")
# noise_offset: in samples at the song's rate. noise_loops: number of copies of the recording that are used, whole or in
# part. scale: factor on the zero-mean noise. A clean side has the noise CLEAN and empty columns for the rest of it.
MEMBER_COLUMNS = ("noise", "noise_sha256", "noise_class", "noise_fold", "noise_recording", "noise_offset",
                  "noise_loops", "white_seed", "snr_db", "scale", "realised_snr_db", "file", "sha256")
# song_power: mean square at full scale 1. gain: factor on both members of the pair.
COLUMNS = ("pair_id", "split", "song_number", "pair_number", "song", "song_sha256", "sample_rate", "channels",
           "samples", "song_power", "gain", *(f"{side}_{c}" for side in SIDES for c in MEMBER_COLUMNS))
# skipped_noises: noises that could not be used for the pair, with the reasons, as JSON. This column stands first, so
# that a line whose last column (a hash) is whole is whole itself.
JOURNAL_COLUMNS = ("skipped_noises", *COLUMNS)
CLEAN = "CLEAN"


def file_sha256(path: str | Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def changed_files(expected: Mapping[Path, str], jobs: int = -1) -> list[Path]:
    """Return the files that are missing or whose SHA-256 is not the expected one; jobs: number of threads."""
    present = [path for path in expected if path.is_file()]
    hashes = joblib.Parallel(n_jobs=jobs, prefer="threads")(joblib.delayed(file_sha256)(path) for path in present)
    found = dict(zip(present, hashes, strict=True))
    return [path for path, sha256 in expected.items() if found.get(path) != sha256]


def append_row(path: str | Path, row: dict) -> None:
    """Append a row to a journal, which is created when it is missing; a kill damages the last line at most."""
    with open(path, "a", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, JOURNAL_COLUMNS, lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def read_manifest(directory: str | Path) -> list[dict]:
    """Return the manifest rows in a folder of INPUT files, or no rows. Raises UserError for another kind of table."""
    return read_rows(Path(directory) / MANIFEST, ("pair_id",))


def number_in(row: dict, column: str, kind: type = float) -> int | float:
    """Return a number of a manifest row. Raises UserError for other text, which a spreadsheet may have written."""
    try:
        return kind(row[column])
    except (KeyError, ValueError) as error:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"expected {what} as {column} of pair {row.get('pair_id')} in the manifest, got "
                        f"{row.get(column)!r}: restore it as the merger wrote it") from error


def member_hashes(row: dict, dirs: Sequence[Path]) -> dict[Path, str]:
    """Return the paths of a row's INPUT and TARGET file in `dirs`, with their SHA-256."""
    return {folder / row[f"{side}_file"]: row[f"{side}_sha256"] for folder, side in zip(dirs, SIDES, strict=True)}


def write_dataset(directory: Path, content: dict) -> None:
    """Write dataset.json, whole or not at all."""
    write_text(directory / DATASET, json.dumps(content, indent=1, sort_keys=True) + "\n")


def read_dataset(directory: str | Path) -> dict:
    """Return the content of dataset.json, empty when there is none. Raises UserError for a damaged file."""
    path = Path(directory) / DATASET
    return read_json(path, "restore it or make the dataset again") if path.is_file() else {}


@dataclass(frozen=True)
class Sources:
    """The folders to which a manifest's song and noise paths are relative; None for an unknown folder."""

    songs: Path | None
    noises: Path | None

    @classmethod
    def of(cls, directory: str | Path, songs: str | Path | None = None, noises: str | Path | None = None) -> "Sources":
        """Return the given folders; dataset.json in `directory` names those that are not given."""
        named = read_dataset(directory).get("sources", {})
        chosen = songs or named.get("songs"), noises or named.get("noises")
        return cls(*(Path(folder) if folder else None for folder in chosen))

    def song(self, row: dict) -> Path:
        """Return the path of a row's song. Raises UserError when the file is missing."""
        return _existing(self.songs, row["song"], "--path-songs")

    def noise(self, row: dict, side: str) -> LoopedNoise | GaussianNoise | None:
        """Make the noise of a row's input or target again, without its scale; None for a clean side.

        Raises UserError when the recording is missing.
        """
        if row[f"{side}_noise"] == CLEAN:
            return None
        rate, channels, n_samples = (number_in(row, name, int) for name in ("sample_rate", "channels", "samples"))
        if row[f"{side}_white_seed"]:
            return GaussianNoise(number_in(row, f"{side}_white_seed", int), channels, n_samples, rate)
        path = _existing(self.noises, row[f"{side}_noise"], "--path-noises")
        offset = number_in(row, f"{side}_noise_offset", int)
        return LoopedNoise(RECORDINGS.get(path, rate), channels, n_samples, offset, rate)

    def noise_streams(self, row: dict) -> list[Iterator[np.ndarray]]:
        """Return the blocks (channels, samples) of both noises of a row; an empty list where they cannot be made again.

        That is without a merger's row, with a clean target, and when a recording is missing.
        """
        if not row.get("input_scale"):
            return []
        try:
            noises = [self.noise(row, side) for side in SIDES]
        except UserError:
            return []
        return [] if None in noises else [noise.blocks() for noise in noises]


def _existing(root, name, flag):
    path = (root or Path()) / name
    if not path.is_file():
        raise UserError(f"expected the source {path} that the manifest names, but it is not there: say with {flag} "
                        "where the sources are now")
    return path
