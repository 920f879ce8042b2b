"""What two noisy copies of a few recordings teach: fine-tuning on them, measured on other recordings of the collection.

    python -m benchmarks.two_copies_training --path-songs DIR --path-noises DIR -o OUT

A collection is a folder of songs with noises of one kind. Three songs have two copies each, with other delays, speeds,
levels and equalisation (benchmarks.two_copies); the others are single recordings. `mixed` is fine-tuned on these
pairs alone, aligned by common.data.two_copies, and again on copies that never were misaligned. The table shows the SNR
improvement of the single recordings. The last lines show the improvement of the couples' validation parts that is read
off their second copies.
"""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.two_copies import RATE, SECONDS, draw_noise
from common.audio.reading import AudioReader, list_audio, read_audio
from common.audio.writing import write_audio
from common.cli import Parser, run
from common.data.pairs import pairs_in
from common.data.two_copies import build
from common.demo.copies import Distortion, with_noise
from common.denoising.files import denoise
from common.evaluation import second_copy
from common.evaluation.metrics import snr
from common.labels import MIXED
from common.network.checkpoints import load_weights
from common.training.loop import BEST, train
from common.training.pair_batches import pair_sources
from common.training.settings import TrainSettings

FULL_SCALE = 0.3
# Of each couple: the SNR of both copies, and the distortion of the second.
COUPLES = (((10, 10), Distortion(3, 400, 100, 3, -6)), ((8, 12), Distortion(-2, -250, -100, -3, 4)),
           ((12, 8), Distortion(5, 60, 200, 6, -12)))


def write_couples(songs, noises, folder, distorted):
    """Write copies A and B of the first songs, with noises of their own; returns the couples' files."""
    couples, rng = [], np.random.default_rng(0)
    for number, (path, (snr_db, distortion)) in enumerate(zip(songs, COUPLES, strict=True)):
        song = read_audio(path, RATE, SECONDS)[0].astype(np.float64)
        files = [folder / f"{side}{number}.wav" for side in "ab"]
        for file, clean, level_db in zip(files, (song, distortion(song) if distorted else song), snr_db, strict=True):
            audio = with_noise(clean, draw_noise(rng, clean.shape, noises), level_db)
            write_audio(file, (FULL_SCALE * audio / np.abs(audio).max()).astype(np.float32), RATE, "FLOAT")
        couples.append(tuple(files))
    return couples


def fine_tune(data: Path, folder: Path, steps: int):
    """Fine-tune `mixed` on the set in `data`; the epoch is chosen by the improvement against second copies."""
    settings = TrainSettings(epochs=4, steps_per_epoch=steps // 4, learning_rate=5e-4, warmup_steps=20, start=MIXED)
    source, validation = pair_sources(data / "train", data / "validation")
    history = train(settings, source, validation, folder)
    return load_weights(folder / BEST)[0], history


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--path-songs", required=True, help="folder of songs of at least 45 s")
    parser.add_argument("--path-noises", required=True, help="folder of noises of one kind; every second one is kept "
                        "for the single recordings")
    parser.add_argument("--name", default="", help="part of the names of the noises to use, such as -0- for a class")
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps")
    parser.add_argument("--songs", type=int, default=8, help="number of single recordings")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for sets and weights, made anew")
    args = parser.parse_args()
    songs = [path for path in list_audio(args.path_songs) if AudioReader(path).seconds >= SECONDS - 1]
    noises = [path for path in list_audio(args.path_noises) if args.name in path.name]
    shutil.rmtree(args.output, ignore_errors=True)
    models = {MIXED: load_weights(MIXED)[0]}
    for name, distorted in (("two copies, aligned", True), ("two copies, perfect", False)):
        folder = args.output / ("aligned" if distorted else "perfect")
        (folder / "copies").mkdir(parents=True)
        build(write_couples(songs[:len(COUPLES)], noises[::2], folder / "copies", distorted), folder / "set")
        models[name], history = fine_tune(folder / "set", folder / "weights", args.steps)
        print(name, [round(row["validation_snr_improvement_db"], 2) for row in history])
    rows, rng = [], np.random.default_rng(1)
    for path in songs[len(COUPLES) :][: args.songs]:
        song = read_audio(path, RATE, SECONDS)[0].astype(np.float64)
        song *= FULL_SCALE / np.abs(song).max()
        noisy = with_noise(song, draw_noise(rng, song.shape, noises[1::2]), 10).astype(np.float32)
        rows.append({"recording": path.stem} | {name: snr(song, denoise(model, noisy, RATE)) - snr(song, noisy)
                                                for name, model in models.items()})
    print(pd.DataFrame(rows).round(2).to_string(index=False))
    print("mean", {name: round(float(np.mean([row[name] for row in rows])), 2) for name in models})
    held_out = pairs_in(args.output / "aligned" / "set" / "validation")
    for name, model in models.items():
        sums = second_copy.measure(model, held_out)
        low, high = second_copy.interval_db(sums)
        print(f"{name}: against second copies {second_copy.improvement_db(sums):+.2f} dB [{low:+.2f}, {high:+.2f}]")


if __name__ == "__main__":
    run(main)
