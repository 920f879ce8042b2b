"""Do the best segments train better than random ones? Same network, same budget, several seeds.

    python -m benchmarks.segment_choice --path-songs DIR --path-noises DIR --folds 1,2 --validation-folds 3 --out DIR

Merges training and validation pairs, scores all training segments, and trains a mini network on `n_segments` of
them: random ones (others for every seed), or those with most decorrelation, diversity or both. The result is the SNR
improvement in dB on the validation songs. A second call resumes where the first one stopped.
"""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from common.cli import Parser, run
from common.data.manifest import number_in, read_manifest
from common.data.pairs import pairs_in
from common.data.segment_sets import save_segments
from common.data.segments import Cut, candidates, choose, summary
from common.training.loop import train
from common.training.pair_batches import PairSource, PairValidation
from common.training.settings import TrainSettings

# Diversity weight of a choice; None for a random choice.
ARMS = {"random": None, "decorrelation": 0.0, "both": 0.5, "diversity": 1.0}


def merge(split, args, folds, n_songs, n_noises, out):
    """Call merger_mixed_white.py for one split."""
    subprocess.run([sys.executable, "merger_mixed_white.py", "--path-songs", args.path_songs, "--path-noises",
                    args.path_noises, "--folds", folds, "--iter-songs", str(n_songs), "--iter-noise", str(n_noises),
                    "--split", split, "--input-dir", str(out / "input"), "--target-dir", str(out / "target")],
                   check=True)


def choice(arm, found, n_segments, seed):
    """Choose the segments of one arm."""
    if ARMS[arm] is None:
        return [found[i] for i in np.random.default_rng(seed).permutation(len(found))[:n_segments]]
    return choose(found, n_segments, ARMS[arm])


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    for flag, text in (("--path-songs", "folder of songs"), ("--path-noises", "folder of noises, in folds"),
                       ("--folds", "noise folds for training"), ("--validation-folds", "noise folds for validation")):
        parser.add_argument(flag, required=True, help=text)
    parser.add_argument("--out", type=Path, required=True, help="folder for all output")
    for flag, default, text in (("--songs", 60, "songs to merge"), ("--noises-per-song", 4, "pairs of each song"),
                                ("--n-segments", 400, "segments to choose"), ("--steps", 150, "optimiser steps"),
                                ("--width", 4, "width of the network"), ("--seeds", 3, "trainings of each choice")):
        parser.add_argument(flag, type=int, default=default, help=f"number of {text}" if flag != "--width" else text)
    args = parser.parse_args()
    logging.getLogger("common.training").setLevel(logging.WARNING)
    merge("train", args, args.folds, args.songs, args.noises_per_song, args.out / "train")
    merge("validation", args, args.validation_folds, 30, 4, args.out / "validation")
    found, rows = candidates(pairs_in(args.out / "train"), Cut(None, 0, 0)), []
    for seed in range(args.seeds):
        for arm in ARMS:
            chosen, folder = choice(arm, found, args.n_segments, seed), args.out / f"{arm}-{seed}"
            if not folder.is_dir():
                save_segments(found, chosen, folder)
            settings = TrainSettings(width=args.width, epochs=1, steps_per_epoch=args.steps, learning_rate=3e-3,
                                     seed=seed)
            history = train(settings, PairSource(pairs_in(folder)), PairValidation(pairs_in(args.out / "validation")),
                            args.out / f"weights-{arm}-{seed}")
            figures = summary(found, chosen)
            snrs = [number_in(row, "input_snr_db") for row in read_manifest(folder / "input")]
            rows.append({"arm": arm, "seed": seed, "improvement_db": history[-1]["validation_snr_improvement_db"],
                         "decorrelation": figures["mean_decorrelation_chosen"],
                         "diversity": figures["diversity_chosen"], "input_snr_db": np.mean(snrs)})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(args.out / "results.csv", index=False)
    print(f"\n{len(found)} candidates, {args.n_segments} chosen, width {args.width}, {args.steps} steps, "
          f"{args.seeds} seeds\n")
    wide = table.pivot(index="seed", columns="arm", values="improvement_db")
    for arm in ARMS:
        part, against = table[table.arm == arm], wide[arm] - wide["random"]
        print(f"{arm:<14} improvement {part.improvement_db.mean():+.2f} dB (std {part.improvement_db.std():.2f}), "
              f"against random {against.mean():+.2f} (std {against.std():.2f}); decorrelation "
              f"{part.decorrelation.mean():.3f}, diversity {part.diversity.mean():.4f}, input SNR "
              f"{part.input_snr_db.mean():.1f} dB")


if __name__ == "__main__":
    run(main)
