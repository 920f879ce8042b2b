"""A frozen test set in twelve conditions: white noise, mixed noises and each UrbanSound8K class.

    python -m common.evaluation_set --songs DIR ... --noises DIR ... -o SET [--check benchmarks/evaluation_set.csv]

Test songs with test noises by the mergers' own law, one segment of 3.74 s from the middle of each pair, the same
sources and arguments giving the same bytes. `SET`/evaluation_set.csv has a line per segment with its hashes; --check
compares it with a published one, so that figures are known to rest on the same audio, which may not be published.
"""

import argparse
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from common.cli import count, run
from common.dataset import pairs_in
from common.errors import UserError
from common.files import write_csv
from common.labels import CLASS_NAMES, MIXED, WHITE
from common.manifest import read_manifest, read_rows
from common.merging import MergeSettings, build_dataset
from common.noises import (
    SPLITS,
    ClassNoises,
    MixedNoises,
    NoiseClip,
    WhiteNoises,
    parse_clip,
)
from common.outputs import check_folders, check_outputs
from common.packing import noise_files
from common.segment_sets import save_segments
from common.segments import Candidate, Cut, candidates, evenly
from common.songs import songs_for_split

log = logging.getLogger(__name__)

CONDITIONS = (WHITE, MIXED, *CLASS_NAMES)
INDEX = "evaluation_set.csv"
HASHES = ("input_sha256", "target_sha256")
COLUMNS = ("condition", "pair_id", "song", "start_seconds", "input_noise", "input_snr_db", *HASHES)


def _middle(found: Sequence[Candidate]) -> list[Candidate]:
    """One candidate of each pair."""
    by_pair = {}
    for candidate in found:
        by_pair.setdefault(candidate.pair.pair_id, []).append(candidate)
    return [group[len(group) // 2] for group in by_pair.values()]


def _source(condition, clips):
    if condition == WHITE:
        return WhiteNoises()
    labelled = [clip for clip in clips if clip.class_id is not None]
    return MixedNoises(clips) if condition == MIXED else ClassNoises(labelled, CLASS_NAMES.index(condition))


def _test_clips(folders) -> list[NoiseClip]:
    return [parse_clip(path, 0) for folder in folders for path in noise_files(folder, "test")]


def _row(condition, row):
    """A line of the index; 64 bits of a hash are enough to tell files apart."""
    return {"condition": condition} | {c: row[c] for c in COLUMNS[1:]} | {
        "input_snr_db": f"{float(row['input_snr_db']):.3f}", "start_seconds": f"{float(row['start_seconds']):.3f}",
        **{c: row[c][:16] for c in HASHES}}


def build(songs: Sequence[str | Path], noises: Sequence[str | Path], folder: str | Path, n_segments: int = 100,
          noises_per_song: int = 2, conditions: Sequence[str] = CONDITIONS, jobs: int = -1) -> list[dict]:
    """Write `folder`/<condition>/{input,target} and the index, whose rows are returned; finished conditions are kept.

    songs, noises: folders whose test splits are taken. Raises CallError when a source is missing, UserError when a
    condition has fewer than `n_segments` pairs.
    """
    folder = Path(folder)
    check_folders({"--output": folder}, [*songs, *noises])
    files = [path for source in songs for path in songs_for_split(source, "test")]
    clips = _test_clips(noises)
    roots = [os.path.commonpath([os.path.abspath(f) for f in found]) for found in (songs, noises)]
    rows = []
    for seed, condition in enumerate(CONDITIONS):
        if condition not in conditions:
            continue
        if not (folder / condition).is_dir():
            merged = folder / "merged" / condition
            settings = MergeSettings(f"evaluation_set-{condition}", "test", roots[0],
                                     None if condition == WHITE else roots[1], len(files), noises_per_song, seed)
            build_dataset(settings, _source(condition, clips), files, merged / "input", merged / "target", jobs)
            found = _middle(candidates(pairs_in(merged), Cut(None, 0.0, 0.0), jobs))
            if len(found) < n_segments:
                raise UserError(f"expected {n_segments} pairs long and loud enough for {condition}, got {len(found)}: "
                                "raise --noises-per-song or lower --segments")
            save_segments(found, evenly(found, n_segments), folder / condition)
        found = [_row(condition, row) for row in read_manifest(folder / condition / "input")]
        if len(found) != n_segments:
            raise UserError(f"expected {n_segments} segments in {folder / condition}, got {len(found)} of an earlier "
                            "call: use another folder")
        shutil.rmtree(folder / "merged" / condition, ignore_errors=True)  # and nothing else that may lie there
        rows += found
        log.info("%s: %d segments", condition, len(found))
    if (folder / "merged").is_dir() and not any((folder / "merged").iterdir()):
        (folder / "merged").rmdir()
    write_csv(folder / INDEX, rows, COLUMNS)
    return rows


def check(folder: str | Path, published: str | Path) -> int:
    """Compare a set's index with a published one; returns the number of segments. Raises UserError if they differ."""
    ours, theirs = ({(r["condition"], r["pair_id"]): r for r in read_rows(path)}
                    for path in (Path(folder) / INDEX, published))
    different = [key for key in {*ours, *theirs}
                 if key not in ours or key not in theirs or any(ours[key][h] != theirs[key][h] for h in HASHES)]
    if different or not ours:
        raise UserError(f"expected the {len(theirs)} segments of {published}, but {len(different)} are missing or "
                        f"others, {min(different, default='all')} first: use the same sources and versions")
    return len(ours)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", nargs="+", required=True, help=f"folders of songs, split into {', '.join(SPLITS)}")
    parser.add_argument("--noises", nargs="+", required=True, help="folders with fold1 ... or with test/")
    parser.add_argument("-o", "--output", required=True, help="folder of the set")
    parser.add_argument("--segments", type=count, default=100, help="of each condition (default: 100)")
    parser.add_argument("--noises-per-song", type=count, default=2, help="pairs of a song (default: 2)")
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=CONDITIONS, help="(default: all)")
    parser.add_argument("--check", help="the index of a published set to compare with")
    args = parser.parse_args()
    check_outputs([(Path(args.output) / INDEX, "the index")], [args.check] if args.check else [])
    build(args.songs, args.noises, args.output, args.segments, args.noises_per_song, args.conditions)
    if args.check:
        log.info("%d segments are those of %s", check(args.output, args.check), args.check)


if __name__ == "__main__":
    run(main)
