"""Datasets of segments: build them from merged sets, and read their audio."""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import numpy as np

from common.audio.reading import AudioReader, read_audio, resample
from common.audio.signals import pieces
from common.audio.writing import write_audio
from common.data.manifest import MANIFEST, SIDES, file_sha256, read_dataset, write_dataset
from common.data.noises import SPLITS
from common.data.pairs import PairFile, manifest_sha256, pairs_in
from common.data.resuming import changes
from common.data.segments import Candidate, Cut, candidates, choose, evenly, segment_length
from common.errors import CallError
from common.locks import locked
from common.network.stft import SAMPLE_RATE, SEGMENT_SAMPLES
from common.small_files import write_csv

log = logging.getLogger(__name__)

SEGMENTS = "segments.csv"
# The key of a set's dataset.json that says by which settings its segments were chosen.
CHOICE = "choice"


def save_segments(found: Sequence[Candidate], chosen: Sequence[Candidate], output_dir: str | Path,
                  choice: dict | None = None) -> Path:
    """Write the chosen segments as a dataset: `output_dir`/input, /target, a manifest and segments.csv.

    File names carry the number of the segment within its pair (S1N2G3). The manifest repeats the row of the pair, with
    the start and the score of the segment. segments.csv lists all candidates and the order of the choice; dataset.json
    repeats that of the pairs, with the settings of the choice. FLAC pairs give FLAC segments, all others WAV. Returns
    the folder. Raises CallError when it is not empty.
    """
    output_dir = Path(output_dir)
    if _holds_files(output_dir):
        raise CallError(f"expected an empty folder, but {output_dir} holds files: choose another OUTPUT_DIR or remove "
                        "it")
    # Renamed at the end, so that only whole sets have their final name.
    partial = output_dir.with_name(f".{output_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    names, rows = {}, []
    in_order = sorted(chosen, key=lambda c: (c.pair.input.name, c.start_seconds))
    for pair, members in groupby(in_order, key=lambda c: c.pair):
        members = list(members)
        for candidate, columns in zip(members, _cut_out(pair, members, partial), strict=True):
            names[id(candidate)] = columns["pair_id"]
            rows.append(pair.row | columns | {"start_seconds": candidate.start_seconds,
                                              "decorrelation": candidate.decorrelation})
    write_csv(partial / "input" / MANIFEST, rows, dict.fromkeys(key for row in rows for key in row))
    described = read_dataset(found[0].pair.input.parent) | ({CHOICE: choice} if choice else {})
    if described:
        write_dataset(partial / "input", described)
    order = {id(c): n for n, c in enumerate(chosen, 1)}
    write_csv(partial / SEGMENTS, [
        {"pair_id": c.pair.pair_id, "song": c.pair.song, "noise": c.pair.noise, "start_seconds": c.start_seconds,
         "decorrelation": c.decorrelation, "chosen": order.get(id(c), ""), "segment": names.get(id(c), "")}
        for c in found])
    if output_dir.is_dir():
        output_dir.rmdir()
    os.replace(partial, output_dir)
    return output_dir


def _holds_files(folder):
    return folder.is_dir() and any(folder.iterdir())


def _is_there(folder, choice):
    """Whether a folder holds the segments of this choice; CallError if it holds those of another one, or other files.

    Segments that were chosen without settings count as other files.
    """
    if not _holds_files(folder):
        return False
    before = read_dataset(folder / "input").get(CHOICE)
    if not before:
        raise CallError(f"expected an empty folder or segments of an earlier run, but {folder} holds other files: "
                        "choose another OUTPUT_DIR or remove it")
    if changed := changes(before, choice):
        raise CallError(f"expected the settings with which the segments in {folder} were chosen, but "
                        f"{'; '.join(changed)}: use the same ones or choose another OUTPUT_DIR")
    return True


def _cut_out(pair, members, output_dir):
    """Write the segments of one pair, which are in the order of time; returns their manifest columns."""
    rows = [{"pair_id": f"{pair.pair_id}G{n}"} for n, _ in enumerate(members, 1)]
    for side in SIDES:
        path = getattr(pair, side)
        suffix = ".flac" if path.suffix == ".flac" else ".wav"
        with AudioReader(path) as reader:
            rate = reader.sample_rate
            starts = [round(member.start_seconds * rate) for member in members]
            for row, piece in zip(rows, pieces(reader.blocks(rate), starts, segment_length(rate)), strict=True):
                name = path.with_suffix(suffix).name.replace(pair.pair_id, row["pair_id"], 1)
                audio = resample(piece, rate, SAMPLE_RATE)
                audio = np.pad(audio, ((0, 0), (0, max(0, SEGMENT_SAMPLES - audio.shape[-1]))))[:, :SEGMENT_SAMPLES]
                write_audio(output_dir / side / name, audio, SAMPLE_RATE, "PCM_16")
                row |= {f"{side}_file": name, f"{side}_sha256": file_sha256(output_dir / side / name)}
    return rows


def segment_audio(candidate: Candidate) -> tuple[dict[str, np.ndarray], int]:
    """Read input and target of a segment, each (channels, samples), and their rate, for a listening_panel."""
    sides = {}
    for side in SIDES:
        audio, rate = read_audio(getattr(candidate.pair, side))
        start = round(candidate.start_seconds * rate)
        sides[side] = audio[:, start : start + segment_length(rate)]
    return sides, rate


def merged_sets(source: str | Path) -> dict[str, list[PairFile]]:
    """Return the pairs by split of a folder with train, validation or test from the mergers, or with one set alone.

    Raises CallError for another folder.
    """
    source = Path(source)
    if (source / "input").is_dir():
        split = read_dataset(source / "input").get("settings", {}).get("split", "train")
        return {split: pairs_in(source)}
    sets = {split: pairs_in(source / split) for split in SPLITS if (source / split).is_dir()}
    if not sets:
        raise CallError(f"expected folders {', '.join(SPLITS)} with input/ and target/ inside, or one input/ and "
                        f"target/, in {source}: run a merger first")
    return sets


def build_sets(source: str | Path, output_dir: str | Path, n_segments: int, n_held_out: int,
               diversity_weight: float = 0.5, cut: Cut | None = None, jobs: int = -1
               ) -> dict[str, tuple[list[Candidate], list[Candidate]]]:
    """Write segments of every split of `source` (see merged_sets) to `output_dir`/<split>.

    n_segments: number of segments for training, the best ones. n_held_out: number for validation and for test, evenly
    spread. Sets that an earlier call with the same arguments wrote are kept as they are. Returns all candidates and the
    chosen ones by split. Raises CallError when a folder holds something else.
    """
    sets, output_dir, cut, made = merged_sets(source), Path(output_dir), cut or Cut(), {}
    choices = {split: {"pairs": len(pairs), "manifest": manifest_sha256(pairs)[:16]} | asdict(cut) | (
        {"n_segments": n_segments, "diversity_weight": diversity_weight} if split == "train" else
        {"n_held_out": n_held_out}) for split, pairs in sets.items()}
    there = {split for split in sets if _is_there(output_dir / split, choices[split])}
    with locked(output_dir):
        for split, pairs in sets.items():
            found = candidates(pairs, cut, jobs)
            unknown = sum(np.isnan(c.decorrelation) for c in found)
            if split == "train" and unknown:
                log.warning("the noises of %d of %d segments cannot be made again, so that diversity alone ranks them: "
                            "noisy targets, a merger's manifest and its noise folder are needed", unknown, len(found))
            chosen = choose(found, n_segments, diversity_weight) if split == "train" else evenly(found, n_held_out)
            if split not in there:
                save_segments(found, chosen, output_dir / split, choices[split])
            log.info("%s: %d of %d segments of %d pairs %s %s", split, len(chosen), len(found), len(pairs),
                     "are already in" if split in there else "written to", output_dir / split)
            made[split] = found, chosen
    return made
