"""What a dataset says about itself: manifest.csv, a row per pair, and dataset.json, how it was made.

Both lie in the folder of the INPUT files. Paths in the manifest are relative to the source folders that
dataset.json names, so that the sources can move. With the sources, a row is enough to make its pair again bit
for bit; without them, enough to compute levels, classes and splits. In the spirit of scaper's annotations
(Salamon et al. 2017, "Scaper: a library for soundscape synthesis and augmentation").
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from common.audio.signals import RECORDINGS, GaussianNoise, LoopedNoise
from common.errors import UserError
from common.files import read_json, read_rows, write_text

MANIFEST, DATASET, JOURNAL = "manifest.csv", "dataset.json", "journal.csv"
JOURNAL_PART = "journal-{}.csv"
SIDES = ("input", "target")
# offset: in samples at the song's rate; loops: copies of the recording that the noise touches; scale: the factor
# on the zero-mean noise; SNRs in dB; a clean side has the noise CLEAN and empty columns after it.
MEMBER_COLUMNS = ("noise", "noise_sha256", "noise_class", "noise_fold", "noise_recording", "noise_offset",
                  "noise_loops", "white_seed", "snr_db", "scale", "realised_snr_db", "file", "sha256")
# song_power: mean square at full scale 1; gain: the factor on both members of the pair.
COLUMNS = ("pair_id", "split", "song_number", "pair_number", "song", "song_sha256", "sample_rate", "channels",
           "samples", "song_power", "gain", *(f"{side}_{c}" for side in SIDES for c in MEMBER_COLUMNS))
# A journal's row also says, as JSON, which noises were passed over for its pair and why. That comes first: where the
# last column is whole, the line is.
JOURNAL_COLUMNS = ("skipped_noises", *COLUMNS)
CLEAN = "CLEAN"


def append_row(path: str | Path, row: dict) -> None:
    """Add a row to a journal, which is begun when it is not there; a kill tears the last line at most."""
    with open(path, "a", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, JOURNAL_COLUMNS, lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def read_manifest(directory: str | Path) -> list[dict]:
    """The manifest rows of a dataset's input folder; empty when there is none. Raises UserError for another table."""
    return read_rows(Path(directory) / MANIFEST, ("pair_id",))


def number_in(row: dict, column: str, kind: type = float) -> int | float:
    """A number from a manifest row; raises UserError for a text that is no number, as a spreadsheet may leave it."""
    try:
        return kind(row[column])
    except (KeyError, ValueError) as error:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"expected {what} as {column} of pair {row.get('pair_id')} in the manifest, got "
                        f"{row.get(column)!r}: restore it as the merger wrote it") from error


def write_dataset(directory: Path, content: dict) -> None:
    """Write dataset.json, whole or not at all."""
    write_text(directory / DATASET, json.dumps(content, indent=1, sort_keys=True) + "\n")


def read_dataset(directory: str | Path) -> dict:
    """The content of a dataset.json; empty when there is none. Raises UserError for one that is not JSON."""
    path = Path(directory) / DATASET
    if not path.is_file():
        return {}
    return read_json(path, "restore it or make the dataset again")


@dataclass(frozen=True)
class Sources:
    """The folders to which a manifest's song and noise paths are relative; None where there was none."""

    songs: Path | None
    noises: Path | None

    @classmethod
    def of(cls, directory: str | Path, songs: str | Path | None = None, noises: str | Path | None = None) -> "Sources":
        """Those that `directory`/dataset.json names, or the given ones where they have moved."""
        named = read_dataset(directory).get("sources", {})
        chosen = [given or named.get(key) for given, key in ((songs, "songs"), (noises, "noises"))]
        return cls(*(Path(c) if c else None for c in chosen))

    def song(self, row: dict) -> Path:
        """The song file of a row. Raises UserError when it is not there."""
        return _existing(self.songs, row["song"], "--path-songs")

    def noise(self, row: dict, side: str) -> LoopedNoise | GaussianNoise | None:
        """The noise of a row's input or target, unscaled, made again; None for a clean side.

        Raises UserError when its recording is not there.
        """
        rate, channels, n_samples = (number_in(row, name, int) for name in ("sample_rate", "channels", "samples"))
        if row[f"{side}_noise"] == CLEAN:
            return None
        if row[f"{side}_white_seed"]:
            return GaussianNoise(number_in(row, f"{side}_white_seed", int), channels, n_samples, rate)
        path = _existing(self.noises, row[f"{side}_noise"], "--path-noises")
        offset = number_in(row, f"{side}_noise_offset", int)
        return LoopedNoise(RECORDINGS.get(path, rate), channels, n_samples, offset, rate)


def _existing(root, name, flag):
    path = (root or Path()) / name
    if not path.is_file():
        raise UserError(f"expected the source {path} that the manifest names, but it is not there: say with {flag} "
                        "where the sources are now")
    return path
