"""Quality against cost: networks of several widths after the same steps on the same mixtures.

    python -m benchmarks.widths POOL -o DIR [--width 4 8 16] [--clean-width 8] [--noise white] [--steps 150]

Every width is trained on --noise with noisy targets, and those of --clean-width also with clean targets on the same
draws (Noise2Clean). The quality is the SNR improvement on the same validation mixtures, the cost the time of denoising
in seconds per second of mono audio (medians; all widths take turns). A second call resumes where the first one stopped.
Writes widths.csv, widths.png and the trained weights.
"""

import statistics
from pathlib import Path

import pandas as pd
import torch

from benchmarks import figures
from benchmarks.timing import interleaved
from common.cli import Parser, count, run
from common.data.pool import Pool
from common.labels import MIXED, WHITE
from common.network.checkpoints import load_weights
from common.network.inference import choose_device, inference_form
from common.network.stft import SAMPLE_RATE
from common.training.loop import BEST, train
from common.training.mixture_validation import pool_validation
from common.training.mixtures import MixtureSettings, MixtureSource
from common.training.settings import Execution, TrainSettings

AUDIO_SECONDS = 10


def trained(width, clean_target, args, pool, device):
    """Train one network; returns its mean SNR improvement in dB."""
    target_noise = WHITE if args.noise == WHITE else MIXED
    mixture = MixtureSettings(args.noise, target_noise, clean_target=clean_target)
    settings = TrainSettings(width=width, epochs=1, steps_per_epoch=args.steps, warmup_steps=50)
    history = train(settings, MixtureSource(pool, mixture), pool_validation(pool, mixture, args.n_validation),
                    folder(args.output, width, clean_target), Execution(device))
    return history[-1]["validation_snr_improvement_db"]


def folder(output, width, clean_target=False):
    """Return the folder in which a network is trained."""
    return output / f"width{width}{'-clean' if clean_target else ''}"


def real_time_factors(widths, output, rounds, device):
    """Return the median seconds per second of mono audio of each width, in the form that denoising uses."""
    forms = {width: inference_form(load_weights(folder(output, width) / BEST)[0], device) for width in widths}
    audio = torch.randn(1, AUDIO_SECONDS * SAMPLE_RATE, device=device)
    with torch.inference_mode():
        times = interleaved({width: lambda form=form: form(audio) for width, form in forms.items()}, rounds, device)
    return [statistics.median(times[width]) / AUDIO_SECONDS for width in widths]


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("pool", type=Path, help="a pool, see python -m common.training pack")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for all output")
    parser.add_argument("--width", type=count, nargs="+", default=[4, 8, 16], help="widths to train")
    parser.add_argument("--clean-width", type=count, nargs="*", default=[8], help="widths to train on clean targets")
    parser.add_argument("--noise", default=WHITE, help="noises of the input, as in python -m common.training run")
    parser.add_argument("--steps", type=count, default=150, help="optimiser steps of each training")
    parser.add_argument("--n-validation", type=count, default=48, help="number of validation mixtures")
    parser.add_argument("--rounds", type=count, default=5, help="number of timed runs of each width")
    args = parser.parse_args()
    device = choose_device()
    pool, rows = Pool.load(args.pool, device), []
    for width in args.width:
        rows.append({"width": width, "noise2noise_db": trained(width, False, args, pool, device),
                     "noise2clean_db": trained(width, True, args, pool, device) if width in args.clean_width else None})
        path = folder(args.output, width) / BEST
        rows[-1]["parameters"] = sum(p.numel() for p in load_weights(path)[0].network.parameters())
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table["real_time_factor"] = real_time_factors(args.width, args.output, args.rounds, device)
    table.to_csv(args.output / "widths.csv", index=False)
    figures.quality_against_cost(table).savefig(args.output / "widths.png", dpi=80)
    print(f"{args.noise} noise, {args.steps} steps, {args.n_validation} validation mixtures, pool {pool.sha256()[:8]}, "
          f"{device}\n{table.to_string(index=False, float_format='%.3f')}")


if __name__ == "__main__":
    run(main)
