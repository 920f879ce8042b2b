"""Folders of pairs: what is in them, and training batches of their crops.

What a row of a batch holds is decided by (seed, step, row) alone, so that it is the same after a restart.
"""

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from common.audio import list_audio, read_audio, resample
from common.errors import CallError, UserError
from common.files import c_name
from common.manifest import CLEAN, read_manifest
from common.pool import SAMPLE_RATE
from common.seeds import stream
from common.signals import SILENT_RMS
from common.songs import song_name

# A segment that is quieter than this (-60 dBFS RMS) has no meaningful SNR.
MIN_RMS = 1e-3
_PAIR_FILE = re.compile(r"(INPUT|TARGET|PRINT)-(S\d+N\d+(?:G\d+)?)-")
# Beside input/ and target/: the noise of an INPUT alone (see common.noise_print), for the pairs that have one.
PRINT_FOLDER = "print"
# Crops that are tried before a silent one is accepted.
MAX_CROPS = 10
# libsndfile says more where it does not know.
MAX_FRAMES = 1 << 62


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


class PairSource:
    """Training batches: random crops of pair files, one random channel each; reads only what it crops.

    workers: threads that read the rows of the next step while this one computes; 0 reads when asked.
    """

    def __init__(self, pairs: Sequence[PairFile], workers: int = 0):
        self.pairs, self._workers, self._ahead = list(pairs), workers and ThreadPoolExecutor(workers), {}

    @property
    def clean_target(self) -> bool:
        """Whether the targets hold no noise, as their manifest says."""
        return any(pair.clean_target for pair in self.pairs)

    def heard(self) -> tuple[set[str], set[str]]:
        """The names of the songs and of the noise recordings."""
        return heard(self.pairs)

    def settings(self) -> dict:
        """What decides the batches besides seed and step."""
        names = "\n".join(sorted(pair.input.name for pair in self.pairs)).encode(errors="surrogateescape")
        return {"pairs": len(self.pairs), "names_sha256": hashlib.sha256(names).hexdigest()}

    def batch(self, seed: int, step: int, rows: range, n_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of these rows, each (len(rows), n_samples) float32 at SAMPLE_RATE."""
        keys = [(seed, step, row, n_samples) for row in rows]
        if self._workers:
            ready = [self._ahead.pop(key, None) or self._workers.submit(self._row, *key) for key in keys]
            self._ahead = {(seed, step + 1, row, n): self._workers.submit(self._row, seed, step + 1, row, n)
                           for _, _, row, n in keys}
            found = [future.result() for future in ready]
        else:
            found = [self._row(*key) for key in keys]
        return tuple(torch.from_numpy(np.stack(members)) for members in list(zip(*found, strict=True))[:2])

    def prints(self, seed: int, step: int, rows: range, n_samples: int) -> None:
        """No noise prints: a pair's file does not say where its noise is alone."""

    def names(self, seed: int, step: int, rows: range, n_samples: int) -> list[str]:
        """The INPUT file of each row."""
        return [self._row(seed, step, row, n_samples)[2] for row in rows]

    def _row(self, seed, step, row, n_samples):
        rng = stream(seed, "pairs", step, row)
        for _ in range(MAX_CROPS):  # silent crops are drawn again
            pair = self.pairs[rng.integers(len(self.pairs))]
            position, channel = rng.random(2)
            members = [_read_crop(p, position, channel, n_samples) for p in (pair.input, pair.target)]
            if np.abs(members[0]).max() > SILENT_RMS:
                break
        return *members, pair.input.name


def _read_crop(path, position, channel, n_samples):
    """A crop of `n_samples` at SAMPLE_RATE from a relative position; a short file is continued with zeros."""
    audio, rate = _native_crop(path, position, n_samples)
    audio = resample(audio[int(channel * len(audio))][None], rate, SAMPLE_RATE)[0, :n_samples]
    return np.pad(audio, (0, n_samples - len(audio)))


def _native_crop(path, position, n_samples):
    """All channels at the file's own rate, which is returned too."""
    def place(n_frames, rate):
        n_native = -(-n_samples * rate // SAMPLE_RATE)
        return int(position * max(0, n_frames - n_native + 1)), n_native

    try:
        with sf.SoundFile(c_name(path)) as file:
            if 0 < file.frames < MAX_FRAMES:
                start, n_native = place(file.frames, file.samplerate)
                file.seek(start)
                return file.read(n_native, dtype="float32", always_2d=True).T, file.samplerate
    except sf.LibsndfileError:
        pass
    audio, rate = read_audio(path)  # no random access: libsndfile cannot read or count it
    start, n_native = place(audio.shape[1], rate)
    return audio[:, start : start + n_native], rate
