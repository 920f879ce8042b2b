"""Everything that decides a training run besides its data, and what follows from it alone."""

import math
from dataclasses import dataclass

from common.errors import CallError
from common.network.dcunet import FOLDED, DCUNet20
from common.network.model import Denoiser
from common.network.stft import STFT
from common.training.losses import LOSSES

# The learning rate after the warm-up, as a share of the highest, over the share of the run that is done.
SCHEDULES = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
}


@dataclass(frozen=True)
class TrainSettings:
    """Saved with a run; a resumed run must have the same.

    plan, width, depth_factors: of the DCUNet20. hop_length: of its STFT, in samples. loss: a name in LOSSES.
    crop_frames: STFT frames of a training crop (16k need no padding, 16k+3 with the literature's plan). batch_size:
    over all processes. schedule: a name in SCHEDULES. level_jitter_db: crops enter up to this much above or below their
    normalised level, since at inference the level is the whole song's. ema_decay: of the averaged weights, which are
    the ones that are validated and saved. minutes: a budget of wall time, validation included, in place of
    steps_per_epoch; the schedule follows it, `epochs` says how often is validated, and the run is then as repeatable as
    the machine's speed.
    """

    plan: str = FOLDED
    width: int = 16
    depth_factors: tuple[int, ...] | None = None
    hop_length: int = 512
    loss: str = "sdr"
    epochs: int = 10
    steps_per_epoch: int = 1000
    minutes: float | None = None
    batch_size: int = 4
    crop_frames: int = 96
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    warmup_steps: int = 100
    schedule: str = "cosine"
    clip_norm: float = 1.0
    ema_decay: float = 0.995
    level_jitter_db: float = 6.0
    seed: int = 0

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise CallError(f"expected a loss among {', '.join(LOSSES)}, got {self.loss!r}")
        if self.schedule not in SCHEDULES:
            raise CallError(f"expected a schedule among {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if self.batch_size < 2:
            raise CallError(f"expected batch_size of at least 2, which batch norm needs, got {self.batch_size}")
        for name in ("epochs", "steps_per_epoch", "crop_frames", "warmup_steps"):
            if getattr(self, name) < 1:
                raise CallError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.minutes is not None and self.minutes <= 0:
            raise CallError(f"expected minutes above 0, got {self.minutes}")
        if self.seed < 0:
            raise CallError(f"expected a seed of at least 0, got {self.seed}")


def new_model(settings: TrainSettings) -> Denoiser:
    """The untrained model of a run."""
    network = DCUNet20(settings.width, settings.plan, settings.depth_factors)
    return Denoiser(network, STFT(hop_length=settings.hop_length))


def learning_rate_factor(step: int, progress: float, warmup_steps: int, schedule: str = "cosine") -> float:
    """Linear warm-up over steps, times the schedule over the whole run."""
    return min(1.0, (step + 1) / warmup_steps) * SCHEDULES[schedule](progress)
