"""Folders of pairs and what is in them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from common.audio.reading import list_audio
from common.data.manifest import CLEAN, read_manifest
from common.data.songs import song_name
from common.errors import CallError, UserError

# A segment that is quieter than this (-60 dBFS RMS) has no meaningful SNR.
MIN_RMS = 1e-3
_PAIR_FILE = re.compile(r"(INPUT|TARGET|PRINT)-(S\d+N\d+(?:G\d+)?)-")
# Beside input/ and target/: the noise of an INPUT alone (see common.network.noise_print), for the pairs that have one.
PRINT_FOLDER = "print"


@dataclass(frozen=True)
class PairFile:
    """One pair on disk. `noise` is the class of the input's noise as a word, or '' when unknown.

    clean_target: whether its manifest says so. noise_print: a file with the input's noise alone, if there is one.
    """

    pair_id: str
    input: Path
    target: Path
    song: str
    noise: str
    recordings: frozenset[str]
    clean_target: bool = False
    noise_print: Path | None = None


def pair_key(file_name: str) -> str | None:
    """The pair id in the name of an INPUT, TARGET or PRINT file; None for another name."""
    match = _PAIR_FILE.match(file_name)
    return match and match[2]


def _by_pair_id(directory, side):
    found = {}
    for path in list_audio(directory):
        match = _PAIR_FILE.match(path.name)
        if match and match[1] == side and path is not (first := found.setdefault(match[2], path)):
            raise CallError(f"expected one {side} file of every pair, but {first.name} and {path.name} in {directory} "
                            f"are both of {match[2]}: remove one of them")
    if not found:
        raise CallError(f"expected {side}-S1N1-... files in {directory}, but there is none: run a merger first or "
                        "swap the two folders")
    return found


def find_pairs(input_dir: str | Path, target_dir: str | Path) -> list[PairFile]:
    """The pairs of two folders that a merger or the segment notebook wrote, in manifest order.

    Raises CallError when a folder is missing or empty, or when members lack their partner.
    """
    inputs, targets = _by_pair_id(input_dir, "INPUT"), _by_pair_id(target_dir, "TARGET")
    alone = sorted(inputs.keys() ^ targets.keys())
    if alone:
        raise CallError(f"expected an INPUT and a TARGET for every pair, but {alone[0]} and {len(alone) - 1} others "
                        f"lack one in {input_dir} or {target_dir}: run the merger again to complete the set")
    rows = {row["pair_id"]: row for row in read_manifest(input_dir)}
    prints = {pair_key(path.name): path for path in sorted((Path(input_dir).parent / PRINT_FOLDER).glob("PRINT-*"))}
    pairs = []
    for pair_id, path in inputs.items():
        row = rows.get(pair_id, {})
        song = song_name(row["song"]) if row.get("song") else re.sub(r".*-\((.*)\)$", r"\1", path.stem)
        recordings = {row.get("input_noise_recording"), row.get("target_noise_recording")} - {None, ""}
        pairs.append(PairFile(pair_id, path, targets[pair_id], song, row.get("input_noise_class", ""),
                              frozenset(recordings), row.get("target_noise") == CLEAN, prints.get(pair_id)))
    return pairs


def pairs_in(folder: str | Path) -> list[PairFile]:
    """The pairs of a dataset folder: find_pairs of its input/ and target/."""
    return find_pairs(Path(folder) / "input", Path(folder) / "target")


def heard(pairs: Sequence[PairFile]) -> tuple[set[str], set[str]]:
    """The names of the songs and of the noise recordings of pairs."""
    return {p.song for p in pairs}, set().union(*(p.recordings for p in pairs))


def check_disjoint(**splits: tuple[set[str], set[str]]) -> None:
    """Raise UserError when two splits share a song or a noise recording; each is what `heard` gives."""
    for (a, in_a), (b, in_b) in combinations(splits.items(), 2):
        for what, shared in zip(("song", "noise recording"), (x & y for x, y in zip(in_a, in_b, strict=True)),
                                strict=True):
            if shared:
                raise UserError(f"expected {a} and {b} without a {what} in common, but they share "
                                f"{sorted(shared)[0]!r} ({len(shared)} in all): make all splits from the same folders, "
                                "or sort these into one split")
