"""Everything that decides a training run besides its data, and what follows from it alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from common.cli import setting
from common.errors import CallError
from common.network.dcunet import FOLDED, DCUNet20
from common.network.model import Denoiser
from common.network.stft import STFT
from common.training.losses import LOSSES

# The network where neither the settings nor the weights to begin with decide it; None stands for the plan's factors.
NETWORK = {"plan": FOLDED, "width": 16, "depth_factors": None, "compression": 0.5, "hop_length": 512}
# Learning rate after the warm-up, as a share of the highest one, for the share of the run that is done.
SCHEDULES = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
}


def _network_default(name):
    return f" (default: that of the weights to begin with, or {NETWORK[name]})"


@dataclass(frozen=True)
class TrainSettings:
    """Settings that decide the result of a run. They are saved with it, and a resumed run must have the same.

    A crop of 16k frames needs no padding (16k + 3 frames with the literature's plan). The averaged weights are the
    ones that are validated and saved. With `minutes` the schedule follows the wall time, validation included; `epochs`
    is then the number of validations, and the result depends on the machine's speed. `branch` continues from the
    weights, averages, optimisers' state and step of another run of the same network. What is None in plan, width,
    depth_factors, compression and hop_length is that of the weights to start from or of the run to branch from, or of
    NETWORK.
    """

    plan: str | None = setting(
        None, f"the network's table of layers: folded or literature{_network_default('plan')}", type=str)
    width: int | None = setting(None, f"complex channels of the first layer{_network_default('width')}", type=int)
    depth_factors: tuple[int, ...] | None = setting(
        None, "complex channels of the ten encoder layers, in multiples of the width (default: those of the "
        "weights to begin with, or the plan's)", type=int, nargs="+", metavar="FACTOR")
    compression: float | None = setting(
        None, f"exponent of the magnitudes that the network reads{_network_default('compression')}", type=float)
    hop_length: int | None = setting(
        None, f"samples between two STFT frames{_network_default('hop_length')}", type=int)
    loss: str = setting("sdr", "quantity to minimise: sdr, weighted_sdr or spectrum_l2")
    epochs: int = setting(10, "number of validations, each of which also writes a weights file")
    steps_per_epoch: int = setting(1000, "optimiser steps between two validations")
    minutes: float | None = setting(None, "train for this wall time in place of a number of steps")
    batch_size: int = setting(4, "crops in one step, over all processes")
    crop_frames: int = setting(96, "STFT frames of a training crop")
    learning_rate: float = setting(3e-3, "highest learning rate")
    weight_decay: float = setting(1e-4, "weight decay of both optimisers")
    betas: tuple[float, float] = setting(
        (0.9, 0.99), "decay of AdamW's two moving averages", metavar=("FIRST", "SECOND"))
    warmup_steps: int = setting(100, "steps over which the learning rate rises")
    schedule: str = setting("cosine", "learning rate after the warm-up: cosine, constant or linear")
    clip_norm: float = setting(1.0, "largest norm of the gradient")
    ema_decay: float = setting(0.995, "decay of the moving average of the weights")
    level_jitter_db: float = setting(6.0, "largest random change of the level at which the network sees a crop, in dB")
    seed: int = setting(0, "seed of the first weights and of the batches")
    start: str | Path | None = None  # weights to fine-tune, of this width or a narrower one
    branch: str | Path | None = None  # folder of a run to continue, as with a falling learning rate

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise CallError(f"expected a loss among {', '.join(LOSSES)}, got {self.loss!r}: choose one of them")
        if self.schedule not in SCHEDULES:
            raise CallError(f"expected a schedule among {', '.join(SCHEDULES)}, got {self.schedule!r}: choose "
                            "one of them")
        if self.batch_size < 2:
            raise CallError(f"expected batch_size of at least 2, which batch norm needs, got {self.batch_size}: "
                            "raise it")
        if self.compression is not None and not 0 < self.compression <= 1:
            raise CallError(f"expected a compression above 0 and at most 1, got {self.compression}: choose "
                            "for example 0.5")
        for name in ("epochs", "steps_per_epoch", "crop_frames", "warmup_steps"):
            if getattr(self, name) < 1:
                raise CallError(f"expected {name} of at least 1, got {getattr(self, name)}: raise it")
        if self.minutes is not None and self.minutes <= 0:
            raise CallError(f"expected minutes above 0, got {self.minutes}: choose a longer time")
        if self.seed < 0:
            raise CallError(f"expected a seed of at least 0, got {self.seed}: choose another number")
        if self.start is not None and self.branch is not None:
            raise CallError("expected weights to start from or a run to branch from, got both: leave one out")


@dataclass(frozen=True)
class Execution:
    """How a run is computed. Nothing here changes the result; compilation changes its rounding."""

    device: str = "cpu"
    compiled: bool = False  # the network runs through torch.compile
    tensorboard: bool = False  # curves are written for TensorBoard too
    checkpoint_seconds: float = 60.0  # longest time between two states on disk
    watch: Callable | None = None  # is given the Run before the first step and after each, in place of log lines


def with_network(settings: TrainSettings, known: dict) -> TrainSettings:
    """Return settings that decide the whole network: what they leave open is as in `known`, or else in NETWORK."""
    network = NETWORK | {name: known[name] for name in NETWORK if name in known}
    return replace(settings, **{name: value for name, value in network.items() if getattr(settings, name) is None})


def new_model(settings: TrainSettings) -> Denoiser:
    """Make the untrained model of a run."""
    settings = with_network(settings, {})
    network = DCUNet20(settings.width, settings.plan, settings.depth_factors, settings.compression)
    return Denoiser(network, STFT(hop_length=settings.hop_length))


def learning_rate_factor(step: int, progress: float, warmup_steps: int, schedule: str = "cosine") -> float:
    """Share of the highest learning rate: a linear warm-up over steps, times the schedule over the whole run."""
    return min(1.0, (step + 1) / warmup_steps) * SCHEDULES[schedule](progress)
