"""What the four merger scripts share: their flags and their run."""

import argparse
import logging
import os

from common.cli import Parser, add_settings, given
from common.data.dataset_builder import MergeSettings, build_dataset, choose_songs
from common.data.manifest import read_dataset
from common.data.noises import NoiseSource, clips_for_split
from common.outputs import check_folders


def merger_parser(description: str, noises: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the flags of a merger, without those on noise files unless `noises`."""
    parser = Parser(description)
    add = parser.add_argument
    add("--path-songs", required=True, help="folder of songs; its sub-folders train, validation and test are the "
        "splits, otherwise songs are divided by name")
    if noises:
        add("--path-noises", required=True, help="folder with fold1 ... fold10 of noise files")
    add("--iter-noise" if noises else "--iter-white-noise", dest="iter_noise", type=int, default=10,
        help="largest number of noise pairs per song")
    add("--input-dir", required=True, help="output folder of the INPUT files and the manifest")
    add("--target-dir", required=True, help="output folder of the TARGET files")
    written_here = ("merger", "path_songs", "path_noises", "iter_noise", "class_num", "use_cuda")
    add_settings(parser, MergeSettings, written_here if noises else (*written_here, "folds"))
    add("--use-cuda", action="store_true", help="mix on the GPU, if there is one")
    add("--jobs", type=int, default=-1, help="number of worker processes, -1 for all cores")
    add("--scheduler", metavar="ADDRESS", help="address of a Dask scheduler, as tcp://host:8786, on whose cluster the "
        "work is done; its workers must see the same folders under the same names")
    add("--strict", action="store_true", help="end the run at the first song or noise that cannot be used")
    return parser


def _use_cuda(wanted):
    if not wanted:
        return False
    import torch  # takes seconds, and only this flag needs it

    if not torch.cuda.is_available():
        logging.info("--use-cuda: no CUDA device found, mixing on the CPU")
        return False
    return True


def merge(merger: str, args: argparse.Namespace, white_share: float = 0.0) -> None:
    """Run one merger with its parsed flags; white_share: see NoiseSource."""
    # Absolute paths, since the workers of a cluster and the readers of dataset.json are elsewhere.
    path_songs, path_noises = (path and os.path.abspath(path) for path in (
        args.path_songs, getattr(args, "path_noises", None)))
    outputs = {"--input-dir": args.input_dir, "--target-dir": args.target_dir}
    check_folders(outputs, filter(None, (args.path_songs, path_noises)))
    settings = MergeSettings(**given(args, MergeSettings) | {
        "merger": merger, "path_songs": path_songs, "path_noises": path_noises, "use_cuda": _use_cuda(args.use_cuda)})
    songs = choose_songs(settings)
    clips = clips_for_split(path_noises, settings.split, settings.folds) if path_noises else ()
    source = NoiseSource(clips, settings.class_num, white_share)
    rows = build_dataset(settings, source, songs, tuple(outputs.values()), args.jobs, args.strict, args.scheduler)
    n_songs = len({row["song"] for row in rows})
    logging.info("%d pairs of %d songs in %s and %s (skipped songs: %d); skipped noises: %d", len(rows), n_songs,
                 *outputs.values(), len(songs) - n_songs, len(read_dataset(args.input_dir)["skipped_noises"]))
