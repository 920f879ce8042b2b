"""Speed of training steps, compared with a textbook implementation on the same mixtures.

    python -m benchmarks.training [--plan folded] [--width 16] [--batch-size 4] [--rounds 5] [--device cuda] [--compile]
        [--profile]

The textbook uses four real convolutions for a complex one and PyTorch's default AdamW, and reads its loss at every
step. Ours is the loop of common.training with its source of mixtures. Both take turns. Prints median seconds per step,
crops of 1.1 s per second, the share of the device's matrix-product peak that forward and backward pass reach (three
times the forward pass's complex products, with four real ones each), and the share of mixing in a step. `--profile`
shows the costliest operations.
"""

import statistics

import numpy as np
import torch
from torch import nn

from benchmarks.inference import network_flop
from benchmarks.textbook import textbook_copy, textbook_planes
from benchmarks.timing import interleaved, matrix_peak, seconds_of
from common.cli import Parser, count, run
from common.data.pool import CLIP_PEAK, SONG, Clip, Pool
from common.network import tensor_stft
from common.network.dcunet import FOLDED, PLANS
from common.network.noise_print import print_power
from common.network.stft import SAMPLE_RATE
from common.training.loop import train_step
from common.training.losses import sdr_loss
from common.training.mixtures import MixtureSettings, MixtureSource
from common.training.processes import Processes
from common.training.run_state import Run
from common.training.settings import TrainSettings, new_model


class _Planes(nn.Module):
    """The textbook's copy of a network, with this project's planes in and out."""

    def __init__(self, ours):
        super().__init__()
        self.network, self.plan, self.compression = textbook_copy(ours), ours.plan, float(ours.compression)

    def forward(self, planes):
        return self.network(textbook_planes(planes))[:, 0].permute(0, 3, 1, 2)


def noise_pool(device: str, minutes: float = 2.0) -> Pool:
    """Make a pool of random sound: one song, and two noises of each of two labels."""
    rng, clips, n = np.random.default_rng(0), [], round(minutes * 60 * SAMPLE_RATE / 5)
    samples = (rng.standard_normal(5 * n) * 0.2 * CLIP_PEAK).clip(-CLIP_PEAK, CLIP_PEAK).astype(np.int16)
    for k, label in enumerate((SONG, "dog_bark", "dog_bark", "siren", "siren")):
        clips.append(Clip(f"clip{k}", "train", label, str(k), 1, k * n, n, 0.2))
    return Pool(clips, torch.from_numpy(samples).to(device))


def textbook_step(settings, source, device):
    """Return a function that makes one step of a textbook's loop. The crop's size must fit its network."""
    torch.manual_seed(0)
    model = new_model(settings)
    model.network = _Planes(model.network)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate)
    n_samples, steps = (settings.crop_frames - 1) * model.stft.hop_length, iter(range(1 << 30))

    def step():
        where = 0, next(steps), range(settings.batch_size), n_samples
        noisy, target = source.batch(*where)
        power = print_power(tensor_stft.frames(model.stft, source.prints(*where))) if model.takes_print else None
        loss = sdr_loss(model(noisy, print_power=power), target, noisy)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()
    return step


def our_step(settings, source, processes, compiled):
    """Return a function that makes one step of common.training."""
    state = Run(settings, processes)
    if compiled:
        state.model.network.compile()
    return lambda: train_step(state, source)


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--plan", choices=PLANS, default=FOLDED, help="the network's table of layers")
    parser.add_argument("--width", type=count, nargs="+", default=[16], help="widths of the network")
    parser.add_argument("--batch-size", type=count, default=4, help="crops in one step")
    parser.add_argument("--rounds", type=count, default=5, help="number of steps of each loop")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device to compute on")
    parser.add_argument("--compile", action="store_true", help="also measure ours through torch.compile")
    parser.add_argument("--profile", action="store_true", help="also show the costliest operations")
    args = parser.parse_args()
    device, peak = args.device, matrix_peak(args.device)
    source = MixtureSource(noise_pool(device), MixtureSettings("white,classes", "classes"))
    processes = Processes(device)
    print(f"{device}, {torch.get_num_threads()} threads, matrix-product peak {peak / 1e9:.0f} GFLOP/s, batch of "
          f"{args.batch_size} crops of 1.1 s, plan {args.plan}")
    print(f"{'width':>5} {'loop':<14} {'s/step':>8} {'crops/s':>8} {'x textbook':>11} {'% of peak':>10} "
          f"{'mixing %':>9}")
    for width in args.width:
        settings = TrainSettings(args.plan, width, batch_size=args.batch_size,
                                 crop_frames=PLANS[args.plan].valid_length(96))
        loops = {"textbook": textbook_step(settings, source, device),
                 "ours": our_step(settings, source, processes, False)}
        if args.compile:
            loops["ours, compiled"] = our_step(settings, source, processes, True)
        times = interleaved(loops, args.rounds, device)
        mixing = statistics.median(seconds_of(lambda s=settings, k=k: source.batch(
            0, k, range(s.batch_size), 95 * 512), device) for k in range(10))
        model = new_model(settings)
        flop = 3 * args.batch_size * network_flop(model.network, model.stft.n_bins, settings.crop_frames)
        for name, found in times.items():
            median = statistics.median(found)
            ratio = statistics.median(b / o for b, o in zip(times["textbook"], found, strict=True))
            print(f"{width:5d} {name:<14} {median:8.3f} {args.batch_size / median:8.2f} {ratio:11.2f} "
                  f"{100 * flop / median / peak:10.0f} {100 * mixing / median:9.1f}", flush=True)
        if args.profile:
            with torch.profiler.profile() as profiled:
                loops["ours"]()
            key = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
            print(profiled.key_averages().table(sort_by=key, row_limit=10, max_name_column_width=40))


if __name__ == "__main__":
    run(main)
