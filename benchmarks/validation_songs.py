"""Where weights gain: their SNR improvement on validation mixtures of a pool, by kind of song and for the worst songs.

    python -m benchmarks.validation_songs POOL WEIGHTS ... [--songs train] [--apart " - "] [--noise classes] [--n 240]

--songs train takes songs that the networks have learned from, with the noises of validation: a network that gains more
on them, for songs of one kind, knows them by heart.
--apart is a word in the names of the songs of one kind: " - " is in those of MUSDB18, "Artist - Title". All of the
noise estimate is removed (no confidence), so that networks are compared and not their caution. Every weights file
meets the same mixtures, without and with a noise print; a noise that is too short for a print has none in both.
"""

from pathlib import Path

import pandas as pd

from common.cli import Parser, count, run
from common.data.pool import Pool
from common.network.checkpoints import load_weights
from common.network.inference import choose_device
from common.training.mixture_validation import pool_validation
from common.training.mixtures import CLASSES, TRAIN, VALIDATION, MixtureSettings

COLUMNS = {False: "without_print_db", True: "with_print_db"}


def gains(weights, validation, device):
    """Return a row per mixture: its song and its SNR improvement in dB without and with a print; NaN without sound."""
    model = load_weights(weights, device)[0]
    return pd.DataFrame({"song": validation.song_names(), "weights": weights} | {
        column: pd.Series(validation.gains(model, slice(None), with_print), dtype=float)
        for with_print, column in COLUMNS.items()})


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("pool", type=Path, help="a pool, see python -m common.training pack")
    parser.add_argument("weights", nargs="+", help=".pth files, or names from pretrained_weights")
    parser.add_argument("--songs", choices=(VALIDATION, TRAIN), default=VALIDATION, help="split of the songs")
    parser.add_argument("--apart", default=" - ", help="word in the names of the songs to report apart")
    parser.add_argument("--noise", default=CLASSES, help="noises, as in python -m common.training run")
    parser.add_argument("--n", type=count, default=240, help="number of mixtures of 3.74 s")
    parser.add_argument("--worst", type=count, default=5, help="number of songs to name")
    args = parser.parse_args()
    device = choose_device()
    validation = pool_validation(Pool.load(args.pool, device), MixtureSettings(args.noise), args.n, args.songs)
    table = pd.concat([gains(weights, validation, device) for weights in args.weights], ignore_index=True)
    table["weights"] = pd.Categorical(table["weights"], list(dict.fromkeys(args.weights)))  # in the order of the call
    kind = table["song"].str.contains(args.apart, regex=False).map({True: f'"{args.apart}"', False: "others"})
    columns = list(COLUMNS.values())
    mean = table.groupby([kind.rename("songs"), "weights"], observed=True)[columns].agg(["count", "mean"])
    print(mean.round(2).to_string())
    first = table[table["weights"] == args.weights[-1]].groupby("song")[columns[0]].mean().nsmallest(args.worst).index
    songs = table[table["song"].isin(first)].groupby(["song", "weights"], observed=True)[columns].mean().unstack()
    print(f"\nthe songs that gain least with {args.weights[-1]}\n{songs.round(2).to_string()}")


if __name__ == "__main__":
    run(main)
