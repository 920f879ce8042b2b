"""Check a dataset against its manifest, or make it again from the manifest and the sources.

    python -m common.data.provenance verify INPUT_DIR TARGET_DIR
    python -m common.data.provenance regenerate MANIFEST --input-dir INPUT_DIR --target-dir TARGET_DIR
"""

import logging
import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import joblib
from tqdm import tqdm

from common.audio.signals import Song
from common.cli import Parser, run
from common.data.continuing import check_output
from common.data.manifest import COLUMNS, DATASET, MANIFEST, SIDES, Sources, number_in
from common.data.mixing import ScaledNoise, file_sha256, write_pair
from common.errors import CallError, UserError
from common.files import read_rows
from common.locks import locked
from common.outputs import check_folders
from common.workers import pool, uninterrupted

log = logging.getLogger(__name__)

N_NAMED = 5


def _merger_rows(path):
    rows = read_rows(path)
    if not rows or "input_scale" not in rows[0] or "start_seconds" in rows[0]:
        raise CallError(f"expected the manifest of a merger, but {path} is {'another kind' if rows else 'not there'}: "
                        f"give the {MANIFEST} in a merger's input folder")
    return read_rows(path, COLUMNS)


def problems(input_dir: str | Path, target_dir: str | Path, jobs: int = -1) -> list[str]:
    """What differs between two folders and their manifest: files missing, changed, or not in the manifest."""
    dirs = Path(input_dir), Path(target_dir)
    rows = _merger_rows(dirs[0] / MANIFEST)
    expected = {d / row[f"{side}_file"]: row[f"{side}_sha256"] for row in rows
                for d, side in zip(dirs, SIDES, strict=True)}
    there = {p for d, side in zip(dirs, SIDES, strict=True) for p in d.glob(f"{side.upper()}-*")}
    found = [f"{path} is missing" for path in expected if path not in there]
    found += [f"{path} is not in the manifest" for path in sorted(there - set(expected))]
    present = [path for path in expected if path in there]
    hashes = joblib.Parallel(n_jobs=jobs, prefer="threads")(joblib.delayed(file_sha256)(p) for p in present)
    return found + [f"{p} has changed" for p, h in zip(present, hashes, strict=True) if h != expected[p]]


def _check_same_set(directory, side, rows, manifest):
    """Refuse a folder that holds another dataset."""
    strangers = {p.name for p in directory.glob(f"{side.upper()}-*")} - {row[f"{side}_file"] for row in rows}
    own = directory / MANIFEST
    if strangers or (own.is_file() and own.read_bytes() != manifest.read_bytes()):
        raise CallError(f"expected an empty folder or one of the same manifest, but {directory} holds "
                        f"{min(strangers, default=MANIFEST)} of another dataset: choose another folder")


def _checked(path, sha256):
    if sha256 and file_sha256(path) != sha256:
        raise UserError(f"expected the source {path} as it was when the manifest was written, but it has changed: "
                        "restore it")
    return path


def _regenerate_song(rows, sources, dirs):
    """All pairs of one song; returns the files whose bytes are not those of the manifest."""
    todo = [row for row in rows if not all((d / row[f"{s}_file"]).is_file() for d, s in zip(dirs, SIDES, strict=True))]
    song = Song(_checked(sources.song(rows[0]), rows[0]["song_sha256"])) if todo else None
    for row in todo:
        members = []
        for side in SIDES:
            noise = sources.noise(row, side)
            if row[f"{side}_noise_sha256"]:
                _checked(sources.noises / row[f"{side}_noise"], row[f"{side}_noise_sha256"])
            members.append(noise and ScaledNoise(noise, number_in(row, f"{side}_scale")))
        paths = [d / row[f"{s}_file"] for d, s in zip(dirs, SIDES, strict=True)]
        with uninterrupted():
            write_pair(song, members, number_in(row, "gain"), paths)
    return [row[f"{s}_file"] for row in rows for d, s in zip(dirs, SIDES, strict=True)
            if file_sha256(d / row[f"{s}_file"]) != row[f"{s}_sha256"]]


def regenerate(manifest: str | Path, input_dir: str | Path, target_dir: str | Path, path_songs: str | None = None,
               path_noises: str | None = None, jobs: int = -1) -> int:
    """Make the audio of a manifest again, bit for bit, and return the number of pairs.

    The sources are where dataset.json beside the manifest says, or in `path_songs` and `path_noises`. Pairs that
    are there already are kept. Raises UserError when a source is missing or changed, or when bytes differ.
    """
    manifest, dirs = Path(manifest), (Path(input_dir), Path(target_dir))
    check_folders(dict(zip(("--input-dir", "--target-dir"), dirs, strict=True)))
    rows = _merger_rows(manifest)
    with locked(*dirs):
        different = _make_again(manifest, rows, dirs, Sources.of(manifest.parent, path_songs, path_noises), jobs)
    if different:
        raise UserError(f"expected the bytes of the manifest, but {_some(different)} of {2 * len(rows)} files differ: "
                        f"compare the library versions in {DATASET} with yours")
    return len(rows)


def _make_again(manifest, rows, dirs, sources, jobs):
    """All pairs of a manifest; returns the files that differ, sorted."""
    for directory, side in zip(dirs, SIDES, strict=True):
        check_output(directory, side.upper())
        _check_same_set(directory, side, rows, manifest)
    by_song = [list(group) for _, group in groupby(rows, key=lambda row: row["song_number"])]
    work = (joblib.delayed(_regenerate_song)(group, sources, dirs) for group in by_song)
    with pool(jobs) as (parallel, _):
        results = tqdm(parallel(work), total=len(by_song), unit="song", disable=None)
        different = sorted(name for names in results for name in names)
    for name in (MANIFEST, DATASET):
        if (manifest.parent / name).is_file() and manifest.parent.resolve() != dirs[0].resolve():
            shutil.copyfile(manifest.parent / name, dirs[0] / name)
    return different


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:N_NAMED])}{' ...' if len(names) > N_NAMED else ''})"


def main():
    """The command line."""
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="check every file against the manifest")
    verify.add_argument("input_dir", help="folder of the INPUT files and the manifest")
    verify.add_argument("target_dir", help="folder of the TARGET files")
    again = commands.add_parser("regenerate", help="make the audio again")
    again.add_argument("manifest", help=f"a merger's {MANIFEST}, with its {DATASET} beside it")
    again.add_argument("--input-dir", required=True, help="folder for the INPUT files")
    again.add_argument("--target-dir", required=True, help="folder for the TARGET files")
    again.add_argument("--path-songs", help="where the songs are now (default: as dataset.json says)")
    again.add_argument("--path-noises", help="where the noises are now (default: as dataset.json says)")
    again.add_argument("--jobs", type=int, default=-1, help="worker processes, -1 for all cores")
    args = parser.parse_args()
    if args.command == "verify":
        found = problems(args.input_dir, args.target_dir)
        if found:
            raise UserError(f"expected the files of the manifest, but there are problems with {_some(found)}: run the "
                            "merger again, or regenerate what is missing")
        log.info("every file is as %s says", Path(args.input_dir) / MANIFEST)
    else:
        n = regenerate(args.manifest, args.input_dir, args.target_dir, args.path_songs, args.path_noises, args.jobs)
        log.info("%d pairs made again, bit for bit", n)


if __name__ == "__main__":
    run(main)
