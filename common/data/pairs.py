"""Pairs on disk: find them in two folders, and cut pairs with clean targets into segments for evaluation."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from common.audio.reading import list_audio, read_audio
from common.data.manifest import CLEAN, MANIFEST, read_manifest
from common.data.silence import MIN_RMS, measurable
from common.data.songs import song_name
from common.errors import CallError, UserError
from common.network.noise_print import LEAST_PRINT_SECONDS
from common.network.stft import SEGMENT_SAMPLES

_PAIR_FILE = re.compile(r"(INPUT|TARGET|PRINT)-(S\d+N\d+(?:G\d+)?)-")
# Folder beside input/ and target/ with noise prints (see common.network.noise_print) of some of the pairs.
PRINT_FOLDER = "print"
# RMS of one step of 16 bits, the sample format of pairs: a smaller difference is only rounding.
ROUNDING = 2.0**-15


@dataclass(frozen=True)
class PairFile:
    """One pair on disk.

    noise: the class of the input's noise, or an empty text. recordings: of both noises. clean_target: whether the
    manifest says so. noise_print: a file with the input's noise alone, if there is one. row: the pair's row in the
    manifest, empty without a manifest.
    """

    pair_id: str
    input: Path
    target: Path
    song: str
    noise: str
    recordings: frozenset[str]
    clean_target: bool = False
    noise_print: Path | None = None
    row: dict = field(default_factory=dict, compare=False, repr=False)

    @property
    def noisy_target(self) -> bool:
        """Whether the manifest says that the target holds noise. Without a manifest nobody knows."""
        return bool(self.row.get("target_noise")) and not self.clean_target


@dataclass(frozen=True)
class Segment:
    """A piece of a pair with a clean target: arrays (channels, samples) at `sample_rate`.

    noise_print: the noise alone from another place, (channels, any number of samples), or None.
    """

    pair: PairFile
    start_seconds: float
    sample_rate: int
    noisy: np.ndarray
    clean: np.ndarray
    noise_print: np.ndarray | None = None

    @property
    def name(self) -> str:
        return f"{self.pair.pair_id}@{self.start_seconds:.2f}s"


def pair_key(file_name: str) -> str | None:
    """Return the pair id in the name of an INPUT, TARGET or PRINT file, None for another name."""
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
    """Return the pairs in two folders from a merger or from the segment notebook, in the order of the file names.

    Raises CallError when a folder is missing or empty, and when a file has no partner.
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
                              frozenset(recordings), row.get("target_noise") == CLEAN, prints.get(pair_id), row))
    return pairs


def pairs_in(folder: str | Path) -> list[PairFile]:
    """Return the pairs in `folder`/input and `folder`/target, see find_pairs."""
    return find_pairs(Path(folder) / "input", Path(folder) / "target")


def load_test_pairs(folder: str | Path) -> list[PairFile]:
    """Return the pairs of a test set, which holds input/ and target/ or sub-folders with these.

    Each sub-folder is a condition: its name replaces the noise of its pairs and is put before their ids. Raises
    CallError when there are no pairs.
    """
    folder = Path(folder)
    conditions = sorted(path.parent for path in folder.glob("*/input"))
    if (folder / "input").is_dir() or not conditions:
        return pairs_in(folder)
    return [replace(pair, pair_id=f"{path.name}-{pair.pair_id}", noise=path.name)
            for path in conditions for pair in pairs_in(path)]


def manifest_sha256(pairs: Sequence[PairFile]) -> str:
    """Return the hex SHA-256 of the manifests of all folders of the pairs, which identifies a test set."""
    manifests = [folder / MANIFEST for folder in sorted({pair.input.parent for pair in pairs})]
    return hashlib.sha256(b"".join(path.read_bytes() for path in manifests if path.is_file())).hexdigest()


def songs_and_recordings(pairs: Sequence[PairFile]) -> tuple[set[str], set[str]]:
    """Return the names of the songs and of the noise recordings in pairs."""
    return {pair.song for pair in pairs}, set().union(*(pair.recordings for pair in pairs))


def check_disjoint(**splits: tuple[set[str], set[str]]) -> None:
    """Raise UserError when two splits share a song or a noise recording; each split is (songs, recordings)."""
    for (a, in_a), (b, in_b) in combinations(splits.items(), 2):
        for what, names_a, names_b in zip(("song", "noise recording"), in_a, in_b, strict=True):
            if shared := sorted(names_a & names_b):
                raise UserError(f"expected {a} and {b} without a {what} in common, but they share {shared[0]!r} "
                                f"({len(shared)} in all): make all splits from the same folders, or sort these into "
                                "one split")


def segments(pairs: Iterable[PairFile], sample_rate: int, per_pair: int | None = None,
             silent: list[str] | None = None) -> Iterator[Segment]:
    """Cut pairs with clean targets into segments of SEGMENT_SAMPLES, or the whole of a shorter pair, at `sample_rate`.

    per_pair: largest number of segments of a pair, evenly spread; None for all. silent: a list that receives the
    pair id of each segment that is left out because song or noise is silent.
    """
    for pair in pairs:
        noisy, _ = read_audio(pair.input, sample_rate)
        clean, _ = read_audio(pair.target, sample_rate)
        noise_print = pair.noise_print and _read_print(pair.noise_print, sample_rate, len(noisy))
        length = min(SEGMENT_SAMPLES, noisy.shape[1])
        starts = np.arange(0, noisy.shape[1] - length + 1, length)
        loud = [s for s in starts if _holds_both(clean[:, s : s + length], noisy[:, s : s + length])]
        if silent is not None:
            silent += [pair.pair_id] * (len(starts) - len(loud))
        if per_pair and len(loud) > per_pair:
            loud = [loud[i] for i in np.linspace(0, len(loud) - 1, per_pair).round().astype(int)]
        for s in loud:
            yield Segment(pair, s / sample_rate, sample_rate, noisy[:, s : s + length], clean[:, s : s + length],
                          noise_print)


def _read_print(path, sample_rate, channels):
    """A noise print as (channels, samples)."""
    audio, _ = read_audio(path, sample_rate)
    if len(audio) not in (1, channels) or audio.shape[1] < LEAST_PRINT_SECONDS * sample_rate:
        raise UserError(f"expected a noise print of 1 or {channels} channels and {LEAST_PRINT_SECONDS} s at least, but "
                        f"{path} has {len(audio)} and {audio.shape[1] / sample_rate:.2f} s: replace or remove it")
    return np.broadcast_to(audio, (channels, audio.shape[1])).copy()


def _holds_both(clean, noisy):
    """Whether the song is above MIN_RMS and the noise above the rounding of the files."""
    song, noise = (float(np.sqrt(np.square(x).mean())) for x in (clean, noisy - clean))
    return song > MIN_RMS and noise > ROUNDING and measurable(20 * np.log10(song / noise))
