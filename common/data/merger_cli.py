"""The command line that the four mergers share."""

import argparse
import logging
import os
from collections.abc import Callable

from common.cli import Parser, count
from common.data.manifest import read_dataset
from common.data.merging import FORMATS, MergeSettings, build_dataset, choose_songs
from common.data.noises import SPLITS, NoiseSource, clips_for_split
from common.errors import CallError
from common.outputs import check_folders


def folds(text: str) -> list[int]:
    """Fold numbers separated by commas."""
    return sorted({int(part) for part in text.split(",")})


def _check_folds(chosen):
    if chosen and not set(chosen) <= set(range(1, 11)):
        raise CallError(f"expected --folds between 1 and 10, got {chosen}: name folders fold1 to fold10")


def merger_parser(description: str, noises: bool = True) -> argparse.ArgumentParser:
    """The flags of a merger; without `noises`, those of the white-noise merger."""
    parser = Parser(description)
    add = parser.add_argument
    add("--path-songs", required=True, help="folder of songs; sub-folders train/validation/test are taken at their "
        "word, else songs are divided by name")
    if noises:
        add("--path-noises", required=True, help="folder with fold1 ... fold10 of noise files")
    add("--iter-songs", type=count, default=100, help="max number of songs")
    add("--iter-noise" if noises else "--iter-white-noise", dest="iter_noise", type=count, default=10,
        help="max number of noise pairs per song")
    add("--use-cuda", action="store_true", help="mix on the GPU if there is one")
    add("--input-dir", required=True, help="output folder of the INPUT files and the manifest")
    add("--target-dir", required=True, help="output folder of the TARGET files")
    add("--split", choices=SPLITS, default="train", help="train: the target is the song with another noise; "
        "validation and test: the target is the clean song")
    add("--seed", type=int, default=0, help="another seed gives other songs, noises and levels")
    if noises:
        add("--folds", type=folds, help="noise folds to draw from, as 1,2,3 (default: 1-8 for train, 9 for "
            "validation, 10 for test)")
    add("--snr-db", type=float, nargs=2, metavar=("LOW", "HIGH"), help="range of target SNRs in dB (default: by the "
        "song's dynamics, 2..27, 4..30 or 0..25)")
    add("--clean-target", action="store_true", help="the same INPUT files with clean TARGETs in training too, to "
        "compare Noise2Noise with Noise2Clean")
    add("--format", choices=FORMATS, default="wav", help="16-bit files of this kind; flac is smaller and slower")
    add("--jobs", type=int, default=-1, help="worker processes, -1 for all cores")
    add("--scheduler", metavar="ADDRESS", help="work on the Dask cluster with this scheduler, as tcp://host:8786; its "
        "workers must see the same folders under the same names")
    add("--strict", action="store_true", help="a song or a noise that cannot be used ends the run")
    return parser


def _use_cuda(wanted):
    if not wanted:
        return False
    import torch  # takes seconds, and only this flag needs it

    if not torch.cuda.is_available():
        logging.info("--use-cuda: no CUDA device found, mixing on the CPU")
        return False
    return True


def merge(merger: str, args: argparse.Namespace, source: Callable[[list], NoiseSource],
          class_num: int | None = None) -> None:
    """Run one merger: `source` makes the noise source from the split's clips (none for white noise)."""
    _check_folds(getattr(args, "folds", None))
    if args.snr_db and args.snr_db[0] > args.snr_db[1]:
        low, high = args.snr_db
        raise CallError(f"expected --snr-db LOW HIGH with LOW <= HIGH, got {low} {high}: swap them")
    if args.seed < 0 or args.jobs == 0:
        raise CallError(f"expected --seed >= 0 and --jobs other than 0, got {args.seed} and {args.jobs}")
    # Absolute: a cluster's workers run elsewhere, and dataset.json is read elsewhere.
    path_songs, path_noises = (path and os.path.abspath(path) for path in (
        args.path_songs, getattr(args, "path_noises", None)))
    sources = [args.path_songs, *([args.path_noises] if path_noises else [])]
    check_folders({"--input-dir": args.input_dir, "--target-dir": args.target_dir}, sources)
    settings = MergeSettings(
        merger=merger, split=args.split, path_songs=path_songs, path_noises=path_noises,
        iter_songs=args.iter_songs, iter_noise=args.iter_noise, seed=args.seed,
        folds=getattr(args, "folds", None), snr_db=args.snr_db, class_num=class_num,
        use_cuda=_use_cuda(args.use_cuda), clean_target=args.clean_target, format=args.format)
    songs = choose_songs(settings)
    clips = clips_for_split(path_noises, args.split, settings.folds) if path_noises else []
    rows = build_dataset(settings, source(clips), songs, args.input_dir, args.target_dir, args.jobs, args.strict,
                         args.scheduler)
    n_songs = len({row["song"] for row in rows})
    logging.info("%d pairs of %d songs in %s and %s (skipped songs: %d); skipped noises: %d", len(rows), n_songs,
                 args.input_dir, args.target_dir, len(songs) - n_songs,
                 len(read_dataset(args.input_dir)["skipped_noises"]))
