"""Check a dataset against its manifest, or make it again from the manifest and the sources.

    python -m common.data.provenance verify INPUT_DIR TARGET_DIR
    python -m common.data.provenance regenerate MANIFEST --input-dir INPUT_DIR --target-dir TARGET_DIR
"""

import logging
import shutil
from itertools import groupby
from pathlib import Path

import joblib
from tqdm import tqdm

from common.audio.signals import Song
from common.cli import Parser, run
from common.data import manifest
from common.data.mixing_law import ScaledNoise, write_pair
from common.data.resuming import check_output, first_names
from common.errors import CallError, UserError
from common.locks import locked
from common.path_checks import check_folders
from common.small_files import read_rows
from common.workers import uninterrupted, worker_processes

log = logging.getLogger(__name__)


def _merger_rows(path):
    rows = read_rows(path)
    if not rows or "input_scale" not in rows[0] or "start_seconds" in rows[0]:
        raise CallError(f"expected the manifest of a merger, but {path} is {'another kind' if rows else 'not there'}: "
                        f"give the {manifest.MANIFEST} in a merger's input folder")
    return read_rows(path, manifest.COLUMNS)


def _files_in(dirs):
    return {path for folder, side in zip(dirs, manifest.SIDES, strict=True)
            for path in folder.glob(f"{side.upper()}-*")}


def problems(input_dir: str | Path, target_dir: str | Path, jobs: int = -1) -> list[str]:
    """Return sentences on the files that are missing, have changed, or are not in the manifest."""
    dirs = Path(input_dir), Path(target_dir)
    expected = {path: sha256 for row in _merger_rows(dirs[0] / manifest.MANIFEST)
                for path, sha256 in manifest.member_hashes(row, dirs).items()}
    there = _files_in(dirs)
    found = [f"{path} is missing" for path in expected if path not in there]
    found += [f"{path} is not in the manifest" for path in sorted(there - expected.keys())]
    return found + [f"{path} has changed" for path in manifest.changed_files(expected, jobs) if path in there]


def _check_source(path, sha256):
    if manifest.file_sha256(path) != sha256:
        raise UserError(f"expected the source {path} as it was when the manifest was written, but it has changed: "
                        "restore it")


def _regenerate_song(rows, sources, dirs):
    """Make the missing pairs of one song; returns the names of all files whose bytes are not the manifest's."""
    missing = [row for row in rows if not all(path.is_file() for path in manifest.member_hashes(row, dirs))]
    if missing:
        _check_source(sources.song(rows[0]), rows[0]["song_sha256"])
        song = Song(sources.song(rows[0]))
    for row in missing:
        members = []
        for side in manifest.SIDES:
            noise = sources.noise(row, side)
            if row[f"{side}_noise_sha256"]:
                _check_source(sources.noises / row[f"{side}_noise"], row[f"{side}_noise_sha256"])
            members.append(noise and ScaledNoise(noise, manifest.number_in(row, f"{side}_scale")))
        with uninterrupted():
            write_pair(song, members, manifest.number_in(row, "gain"), list(manifest.member_hashes(row, dirs)))
    return [path.name for row in rows for path in manifest.changed_files(manifest.member_hashes(row, dirs), jobs=1)]


def regenerate(manifest_path: str | Path, input_dir: str | Path, target_dir: str | Path, path_songs: str | None = None,
               path_noises: str | None = None, jobs: int = -1) -> int:
    """Make the audio of a manifest again, bit for bit, and return the number of pairs. Existing pairs are kept.

    path_songs, path_noises: folders of the sources; None for those that dataset.json beside the manifest names. Raises
    CallError when an output folder holds another dataset, UserError when a source is missing or has changed and when
    bytes differ.
    """
    manifest_path, dirs = Path(manifest_path), (Path(input_dir), Path(target_dir))
    check_folders(dict(zip(("--input-dir", "--target-dir"), dirs, strict=True)))
    rows, sources = _merger_rows(manifest_path), manifest.Sources.of(manifest_path.parent, path_songs, path_noises)
    with locked(*dirs):
        check_output(dirs)
        strangers = _files_in(dirs) - {path for row in rows for path in manifest.member_hashes(row, dirs)}
        strangers |= {path for path in (dirs[0] / manifest.MANIFEST, dirs[1] / manifest.MANIFEST)
                      if path.is_file() and path.read_bytes() != manifest_path.read_bytes()}
        if strangers:
            raise CallError(f"expected empty folders or those of the same manifest, but {min(strangers)} is of another "
                            "dataset: choose other folders")
        songs = [list(group) for _, group in groupby(rows, key=lambda row: row["song_number"])]
        with worker_processes(jobs) as parallel:
            results = parallel(joblib.delayed(_regenerate_song)(group, sources, dirs) for group in songs)
            results = tqdm(results, total=len(songs), unit="song", disable=None)
            different = sorted(name for names in results for name in names)
        for name in (manifest.MANIFEST, manifest.DATASET):
            if (manifest_path.parent / name).is_file() and manifest_path.parent.resolve() != dirs[0].resolve():
                shutil.copyfile(manifest_path.parent / name, dirs[0] / name)
    if different:
        raise UserError(f"expected the bytes of the manifest, but {len(different)} ({first_names(different)}) of "
                        f"{2 * len(rows)} files differ: compare the library versions in {manifest.DATASET} with yours")
    return len(rows)


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="check every file against the manifest")
    verify.add_argument("input_dir", help="folder of the INPUT files and the manifest")
    verify.add_argument("target_dir", help="folder of the TARGET files")
    again = commands.add_parser("regenerate", help="make the audio again")
    again.add_argument("manifest", help=f"a merger's {manifest.MANIFEST}, with its {manifest.DATASET} beside it")
    again.add_argument("--input-dir", required=True, help="output folder of the INPUT files")
    again.add_argument("--target-dir", required=True, help="output folder of the TARGET files")
    again.add_argument("--path-songs", help="present folder of the songs (default: the one in dataset.json)")
    again.add_argument("--path-noises", help="present folder of the noises (default: the one in dataset.json)")
    again.add_argument("--jobs", type=int, default=-1, help="number of worker processes, -1 for all cores")
    args = parser.parse_args()
    if args.command == "regenerate":
        n = regenerate(args.manifest, args.input_dir, args.target_dir, args.path_songs, args.path_noises, args.jobs)
        log.info("%d pairs made again, bit for bit", n)
        return
    found = problems(args.input_dir, args.target_dir)
    if found:
        raise UserError(f"expected the files of the manifest, but there are problems with {len(found)} "
                        f"({first_names(found)}): run the merger again, or regenerate what is missing")
    log.info("every file is as %s says", Path(args.input_dir) / manifest.MANIFEST)


if __name__ == "__main__":
    run(main)
