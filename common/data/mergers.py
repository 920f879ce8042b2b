"""What the four merger scripts share, their flags and their run; and the sets of all splits in one call."""

import argparse
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from common.cli import Parser, add_settings, given
from common.data.dataset_builder import MergeSettings, build_dataset, choose_songs
from common.data.manifest import SIDES, read_dataset
from common.data.noises import WHITE_SHARE, NoiseSource, clips_for_split, folds_by_split
from common.path_checks import check_folders

log = logging.getLogger(__name__)


def merger_parser(description: str, noises: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the flags of a merger, without those on noise files unless `noises`."""
    parser = Parser(description)
    add = parser.add_argument
    # Absolute paths, since the workers of a cluster and the readers of dataset.json are elsewhere.
    add("--path-songs", required=True, type=os.path.abspath, help="folder of songs; its sub-folders train, validation "
        "and test are the splits, otherwise songs are divided by name")
    if noises:
        add("--path-noises", required=True, type=os.path.abspath, help="folder with fold1 ... fold10 of noise files")
    add("--iter-noise" if noises else "--iter-white-noise", dest="iter_noise", type=int, default=10,
        help="largest number of noise pairs per song")
    add("--input-dir", required=True, help="output folder of the INPUT files and the manifest")
    add("--target-dir", required=True, help="output folder of the TARGET files")
    added_here = ("merger", "path_songs", "path_noises", "iter_noise", "class_num", "use_cuda")
    add_settings(parser, MergeSettings, added_here if noises else (*added_here, "folds"))
    add("--use-cuda", action="store_true", help="mix on the GPU, if there is one")
    add("--jobs", type=int, default=-1, help="number of worker processes, -1 for all cores")
    add("--scheduler", metavar="ADDRESS", help="address of a Dask scheduler, as tcp://host:8786, on whose cluster the "
        "work is done; its workers must see the same folders under the same names")
    add("--strict", action="store_true", help="end the run at the first song or noise that cannot be used")
    return parser


def merge(merger: str, args: argparse.Namespace, white_share: float = 0.0) -> None:
    """Run one merger with its parsed flags; white_share: see NoiseSource."""
    if args.use_cuda:
        import torch  # takes seconds, and only this flag needs it

        args.use_cuda = torch.cuda.is_available()
        if not args.use_cuda:
            logging.info("--use-cuda: no CUDA device found, mixing on the CPU")
    settings = MergeSettings(**{"merger": merger, "path_noises": None} | given(args, MergeSettings))
    outputs = {"--input-dir": args.input_dir, "--target-dir": args.target_dir}
    check_folders(outputs, filter(None, (settings.path_songs, settings.path_noises)))
    songs = choose_songs(settings)
    clips = clips_for_split(settings.path_noises, settings.split, settings.folds) if settings.path_noises else ()
    source = NoiseSource(clips, settings.class_num, white_share)
    rows = build_dataset(settings, source, songs, tuple(outputs.values()), args.jobs, args.strict, args.scheduler)
    n_songs = len({row["song"] for row in rows})
    logging.info("%d pairs of %d songs in %s and %s (skipped songs: %d); skipped noises: %d", len(rows), n_songs,
                 *outputs.values(), len(songs) - n_songs, len(read_dataset(args.input_dir)["skipped_noises"]))


def merge_splits(path_songs: Path, path_noises: Path, output_dir: Path, sizes: Mapping[str, tuple[int, int]],
                 format: str = "wav", jobs: int = -1) -> None:
    """Mix pairs with real and white noises for train, validation and test: `output_dir`/<split>/input and /target.

    sizes: for each split the largest number of songs and the number of noise pairs per song. format: see MergeSettings.
    folds_by_split divides the noises, songs_for_split the songs. An interrupted run is completed. Raises the errors of
    these and of build_dataset.
    """
    songs, noises = (str(Path(path).absolute()) for path in (path_songs, path_noises))
    for split, folds in folds_by_split(noises).items():
        n_songs, n_noises = sizes[split]
        settings = MergeSettings("merger_mixed_white", songs, noises, n_noises, split=split, iter_songs=n_songs,
                                 folds=tuple(folds), format=format)
        source = NoiseSource(clips_for_split(noises, split, folds), white_share=WHITE_SHARE)
        rows = build_dataset(settings, source, choose_songs(settings), [output_dir / split / side for side in SIDES],
                             jobs)
        log.info("%s: %d pairs in %s", split, len(rows), output_dir / split)
