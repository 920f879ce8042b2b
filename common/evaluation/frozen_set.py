"""A frozen test set in twelve conditions: white noise, mixed noises and each UrbanSound8K class.

Test songs are mixed with test noises by the mergers' rules, and one segment of 3.74 s is cut from the middle of each
pair. The same sources and arguments give the same bytes. evaluation_set.csv has a line for each segment with its
hashes, evaluation_prints.csv one for each noise print. A comparison with published files shows that figures rest on
the same audio, which itself may not be published.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from common.data.dataset_builder import MergeSettings, build_dataset
from common.data.manifest import number_in, read_manifest
from common.data.noises import WHITE_SHARE, NoiseSource, parse_clip
from common.data.pairs import pairs_in
from common.data.pool_packing import noise_files
from common.data.segment_sets import save_segments
from common.data.segments import Candidate, Cut, candidates, evenly
from common.data.songs import songs_for_split
from common.errors import UserError
from common.evaluation.frozen_prints import PRINT_COLUMNS, build_prints
from common.labels import CLASS_NAMES, MIXED, WHITE
from common.path_checks import check_folders
from common.small_files import read_rows, write_csv

log = logging.getLogger(__name__)

CONDITIONS = (WHITE, MIXED, *CLASS_NAMES)
INDEX, PRINT_INDEX = "evaluation_set.csv", "evaluation_prints.csv"
COLUMNS = ("condition", "pair_id", "song", "start_seconds", "input_noise", "input_snr_db", "input_sha256",
           "target_sha256")


def _middle(found: Sequence[Candidate]) -> list[Candidate]:
    """Return the middle candidate of each pair."""
    by_pair = {}
    for candidate in found:
        by_pair.setdefault(candidate.pair.pair_id, []).append(candidate)
    return [group[len(group) // 2] for group in by_pair.values()]


def _source(condition, clips):
    if condition == WHITE:
        return NoiseSource(white_share=1.0)
    labelled = [clip for clip in clips if clip.class_id is not None]
    return (NoiseSource(clips, white_share=WHITE_SHARE) if condition == MIXED
            else NoiseSource(labelled, CLASS_NAMES.index(condition)))


def _short(row):
    """Drop the file's name and shorten hashes to 64 bits, which are enough to tell files apart."""
    return {c: v[:16] if c.endswith("_sha256") else v for c, v in row.items() if c != "print_file"}


def _row(condition, row):
    """Make a line of the index from a row of a segments' manifest."""
    return {"condition": condition} | _short({c: row[c] for c in COLUMNS[1:]}) | {
        c: f"{number_in(row, c):.3f}" for c in ("input_snr_db", "start_seconds")}


def build(songs: Sequence[str | Path], noises: Sequence[str | Path], folder: str | Path, n_segments: int = 100,
          noises_per_song: int = 2, conditions: Sequence[str] = CONDITIONS) -> None:
    """Write `folder`/<condition>/{input,target,print} and the indices; finished conditions are kept.

    songs, noises: folders whose test splits are used. Raises CallError when a source is missing, UserError when a
    condition has fewer than `n_segments` pairs.
    """
    folder = Path(folder)
    check_folders({"--output": folder}, [*songs, *noises])
    files = [path for source in songs for path in songs_for_split(source, "test")]
    clips = [parse_clip(path, 0) for source in noises for path in noise_files(source, "test")]
    roots = [os.path.commonpath([os.path.abspath(f) for f in found]) for found in (songs, noises)]
    rows, prints = [], []
    for seed, condition in enumerate(CONDITIONS):
        if condition not in conditions:
            continue
        if not (folder / condition).is_dir():
            merged = folder / "merged" / condition
            settings = MergeSettings(f"evaluation_set-{condition}", roots[0], None if condition == WHITE else roots[1],
                                     noises_per_song, split="test", iter_songs=len(files), seed=seed)
            build_dataset(settings, _source(condition, clips), files, (merged / "input", merged / "target"))
            found = _middle(candidates(pairs_in(merged), Cut(None, 0.0, 0.0)))
            if len(found) < n_segments:
                raise UserError(f"expected {n_segments} pairs long and loud enough for {condition}, got {len(found)}: "
                                "raise --noises-per-song or lower --segments")
            save_segments(found, evenly(found, n_segments), folder / condition)
        found = [_row(condition, row) for row in read_manifest(folder / condition / "input")]
        if len(found) != n_segments:
            raise UserError(f"expected {n_segments} segments in {folder / condition}, got {len(found)} of an earlier "
                            "call: use another folder")
        shutil.rmtree(folder / "merged" / condition, ignore_errors=True)  # other files there may be the user's
        rows += found
        printed = build_prints(folder / condition, clips, roots[1])
        prints += [{"condition": condition} | _short(row) for row in printed]
        log.info("%s: %d segments, %d of them with a noise print", condition, len(found), len(printed))
    if (folder / "merged").is_dir() and not any((folder / "merged").iterdir()):
        (folder / "merged").rmdir()
    write_csv(folder / INDEX, rows, COLUMNS)
    write_csv(folder / PRINT_INDEX, prints, ["condition", *_short(dict.fromkeys(PRINT_COLUMNS, ""))])


def _compare(path, published, what):
    """Return the number of lines of an index; raises UserError if their hashes differ from a published one's."""
    ours, theirs = ({(r["condition"], r["pair_id"]): [r[c] for c in r if c.endswith("_sha256")]
                     for r in read_rows(p, ("condition", "pair_id"))} for p in (path, published))
    different = [key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)]
    if different or not Path(published).is_file():
        raise UserError(f"expected the {len(theirs)} {what} of {published}, but {len(different)} are missing or "
                        f"others, {min(different, default='all')} first: use the same sources and versions")
    return len(ours)


def check(folder: str | Path, published: str | Path) -> int:
    """Compare a set's index with a published one, and that of its prints with the one in the same folder, if any.

    Returns the number of segments. Raises UserError if they differ.
    """
    folder, prints = Path(folder), Path(published).with_name(PRINT_INDEX)
    if prints.is_file():
        _compare(folder / PRINT_INDEX, prints, "noise prints")
    return _compare(folder / INDEX, published, "segments")
