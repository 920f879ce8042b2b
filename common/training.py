"""The Noise2Noise training loop: noisy inputs, noisy targets, weights after every epoch, restartable.

Needs nothing but PyTorch, NumPy and the standard library; batches come from a source, whatever that reads.
References: Lehtinen et al. 2018 (Noise2Noise); Loshchilov and Hutter 2019 (AdamW).
"""

import copy
import json
import logging
import math
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch

from common.checkpoints import code_commit, load_weights, save_atomically, save_weights
from common.dcunet import FOLDED, DCUNet20
from common.errors import CallError, UserError
from common.files import write_csv
from common.locks import locked
from common.losses import LOSSES
from common.model import Denoiser, autocast
from common.noise_print import print_power
from common.parallel import Processes
from common.run_state import LAST, Looks, damaged, found_in, whole
from common.seeds import stream
from common.silence import LEFT_OUT
from common.stft import STFT
from common.widening import widen

log = logging.getLogger(__name__)

BEST, HISTORY, TENSORBOARD = "best.pth", "history.csv", "tensorboard"
LOG_LINES_PER_EPOCH = 4
# Columns of the history: without and with a noise print.
IMPROVEMENT, IMPROVEMENT_WITH_PRINT = "validation_snr_improvement_db", "validation_with_print_db"

# The learning rate after the warm-up, as a share of the highest, over the share of the run that is done.
SCHEDULES = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
}


class Source(Protocol):
    """Where training batches come from; what a row holds is decided by (seed, step, row) alone."""

    def batch(self, seed: int, step: int, rows: range, n_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, each (len(rows), n_samples) float32."""

    def names(self, seed: int, step: int, rows: range, n_samples: int) -> list[str]:
        """What each row was made of."""

    def prints(self, seed: int, step: int, rows: range, n_samples: int) -> torch.Tensor | None:
        """Noise prints of the inputs, (len(rows), samples) float32, zeros for a row without one; None for no print."""

    def settings(self) -> dict:
        """What decides the batches, as plain values."""

    @property
    def clean_target(self) -> bool:
        """Whether the targets hold no noise: Noise2Clean."""


class Validation(Protocol):
    """What chooses the best epoch."""

    has_prints: bool

    def gains(self, model: Denoiser, part: slice, with_print: bool = False) -> list[float | None]:
        """SNR improvements in dB over that part of the validation examples, with noise prints if it has_prints.

        None where song or noise is silent.
        """


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides a run besides its data; saved with it, and a resumed run must agree.

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


class Run:
    """What changes during a run of `settings` (TrainSettings), and what they say about it.

    processes: who trains; start: a network's state to begin with, or None.
    """

    def __init__(self, settings, processes, start):
        torch.manual_seed(settings.seed)
        self.settings, self.device = settings, processes.device
        self.model = new_model(settings)
        if start is not None:
            self.model.network.load_state_dict(start)
        self.model.to(self.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), settings.learning_rate, betas=settings.betas,
                                           weight_decay=settings.weight_decay, fused=True)
        self.callable = processes.wrap(self.model)
        self.step, self.first_step, self.seconds, self.history = 0, 0, 0.0, []
        self.epoch_start = (0, 0.0)  # step and seconds
        # Sums stay where they are made: reading them would make the host wait for the device at every step.
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.first_bad_step = torch.full((), -1, device=self.device)

    def progress(self):
        """The share of the run that is done, 0 to 1."""
        if self.settings.minutes:
            return min(1.0, self.seconds / (60 * self.settings.minutes))
        return (self.step - self.first_step) / (self.settings.epochs * self.settings.steps_per_epoch)

    def epochs_done(self):
        """How many epochs the progress makes."""
        if self.settings.minutes:
            return int(self.progress() * self.settings.epochs)
        return (self.step - self.first_step) // self.settings.steps_per_epoch

    def state(self):
        """What a checkpoint holds besides the settings."""
        return {"model": self.model.state_dict(), "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(), "step": self.step, "first_step": self.first_step,
                "seconds": self.seconds,
                "history": self.history, "epoch_start": list(self.epoch_start), "epoch_loss": float(self.epoch_loss)}

    def branch(self, content):
        """Begin a run of its own where the run stood whose state() this is, its optimiser included."""
        self.model.load_state_dict(content["model"])
        self.average.load_state_dict(content["average"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step = self.first_step = content["step"]
        self.epoch_start = (self.step, 0.0)

    def load(self, content):
        """Go on from what state() gave."""
        self.branch(content)
        self.first_step, self.seconds, self.history = (content[k] for k in ("first_step", "seconds", "history"))
        self.epoch_start = tuple(content["epoch_start"])
        self.epoch_loss.fill_(content["epoch_loss"])


def new_model(settings: TrainSettings) -> Denoiser:
    """The untrained model of a run."""
    network = DCUNet20(settings.width, settings.plan, settings.depth_factors)
    return Denoiser(network, STFT(hop_length=settings.hop_length))


def _begun(start, new):
    """The model of weights to begin with; raises UserError when its form is not that of the `new` model."""
    model = load_weights(start)[0]
    for name, found, wanted in (("plan", model.network.plan_name, new.network.plan_name),
                                ("STFT", model.stft, new.stft)):
        if found != wanted:
            raise UserError(f"expected weights of {name} {wanted} to begin with, but {start} has {found}: set the same "
                            "or choose other weights")
    return model


def learning_rate_factor(step: int, progress: float, warmup_steps: int, schedule: str = "cosine") -> float:
    """Linear warm-up over steps, times the schedule over the whole run."""
    return min(1.0, (step + 1) / warmup_steps) * SCHEDULES[schedule](progress)


def _plain(settings, source, start, branch):
    everything = asdict(settings) | {"start": start and str(start), "branch": branch and str(branch)}
    everything |= {f"data.{name}": value for name, value in source.settings().items()}
    return json.loads(json.dumps(everything))


def train_step(run: Run, source: Source, processes: Processes) -> None:
    """One optimiser step on this process's rows of the batch; nothing here waits for the device."""
    settings, device = run.settings, run.device
    rows = processes.rows(settings.batch_size)
    where = settings.seed, run.step, rows, _crop_samples(run)
    noisy, target = (x.to(device, non_blocking=True) for x in source.batch(*where))
    prints = source.prints(*where) if run.model.takes_print else None
    power = None if prints is None else print_power(prints.to(device, non_blocking=True), run.model.stft)
    jitter = stream(settings.seed, "level jitter", run.step).uniform(-1, 1, (settings.batch_size, 1))[rows]
    jitter = torch.from_numpy(10 ** (jitter * settings.level_jitter_db / 20)).float().to(device, non_blocking=True)
    for group in run.optimizer.param_groups:
        group["lr"] = settings.learning_rate * learning_rate_factor(run.step, run.progress(), settings.warmup_steps,
                                                                    settings.schedule)
    run.callable.train()
    with autocast(device):
        estimate = run.callable(noisy, noisy.square().mean(-1, keepdim=True).sqrt() * jitter, power)
    loss = LOSSES[settings.loss](estimate, target, noisy)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), settings.clip_norm)
    run.optimizer.step()
    _average(run)
    loss = loss.detach()
    run.epoch_loss += loss
    fine = loss.isfinite() | (run.first_bad_step >= 0)
    run.first_bad_step.copy_(torch.where(fine, run.first_bad_step, run.step))
    run.step += 1


def _crop_samples(run):
    return (run.settings.crop_frames - 1) * run.model.stft.hop_length


@torch.no_grad()
def _average(run):
    # At the start the average must not remember the random initial weights for long.
    decay = min(run.settings.ema_decay, (1 + run.step) / (10 + run.step))
    averaged, current = (list(m.state_dict().values()) for m in (run.average, run.model))
    moving = [i for i, value in enumerate(current) if value.is_floating_point()]
    torch._foreach_lerp_([averaged[i] for i in moving], [current[i] for i in moving], 1 - decay)


def _look(run, source, processes, looks):
    """Whether it is time to save; raises UserError, naming what was in the batch, at a loss that was not finite."""
    found = torch.zeros(processes.count + 3, dtype=torch.float64, device=run.device)
    found[processes.rank], found[-1] = run.first_bad_step + 1, run.epoch_loss / processes.count
    if processes.first:
        found[-3:-1] = torch.tensor(looks.decide(run.step))
    *bad, save, wait, loss = processes.sum(found).tolist()
    looks.next = run.step + int(wait)
    run.epoch_loss.fill_(loss)  # of all, for one checkpoint is that of all
    if any(bad):  # gradients are common: the others follow a step later
        step, size = int(min(n for n in bad if n)) - 1, run.settings.batch_size
        names = [name for rank, n in enumerate(bad) if n == step + 1
                 for name in source.names(run.settings.seed, step, processes.rows(size, rank), _crop_samples(run))]
        processes.stop(UserError(f"expected a finite loss, got another at step {step} with {', '.join(names)}: check "
                                 "these, or lower the learning rate"))
    return bool(save)


def _measure(model, validation, processes, with_print=False):
    """Mean SNR improvement in dB, how many examples there are, and how many of them hold no song or no noise."""
    part = slice(processes.rank, None, processes.count)
    gains = validation.gains(model, part, with_print=True) if with_print else validation.gains(model, part)
    heard = [gain for gain in gains if gain is not None]
    sums = torch.tensor([sum(heard), len(heard), len(gains)], dtype=torch.float64, device=processes.device)
    total, n, n_all = processes.sum(sums).tolist()
    return total / n if n else math.nan, int(n_all), int(n_all - n)


def validate(model: Denoiser, validation: Validation, processes: Processes | None = None,
             with_print: bool = False) -> float:
    """Mean SNR improvement in dB over validation examples, shared out over the processes.

    with_print: the model is given noise prints. Examples without song or noise are left out; NaN, and a warning, when
    there are no others.
    """
    mean, n, silent = _measure(model, validation, processes or Processes(), with_print)
    if silent:
        log.info(LEFT_OUT, "validation", silent, n)
    if math.isnan(mean):
        log.warning("no validation example holds a song and a noise: nothing was measured")
    return mean


def best_epoch(history: list[dict]) -> dict:
    """The row of a history whose weights are in best.pth."""
    return [row for row in history if row["best"]][-1]


def _finish_epoch(run, validation, folder, info, processes):
    """Validate; write the epoch's weights, mark the best, extend the history. Returns the new row."""
    epoch, settings = len(run.history) + 1, run.settings
    improvement, n, silent = _measure(run.average, validation, processes)
    gains = {IMPROVEMENT: improvement}
    if run.model.takes_print and validation.has_prints:
        gains[IMPROVEMENT_WITH_PRINT] = _measure(run.average, validation, processes, with_print=True)[0]
    losses = processes.sum(run.epoch_loss) / processes.count
    measured = [gain for row in run.history if math.isfinite(gain := _mean_gain(row))]
    best = not measured or _mean_gain(gains) > max(measured)  # while nothing could be measured, the last
    steps = run.step - run.epoch_start[0]
    row = {"epoch": epoch, "steps": run.step, "train_loss": float(losses) / steps,
           **gains, "learning_rate": run.optimizer.param_groups[0]["lr"],
           "seconds": run.seconds - run.epoch_start[1], "best": best}
    run.history.append(row)
    run.epoch_loss.zero_()
    run.epoch_start = (run.step, run.seconds)
    if not processes.first:
        return row
    if silent and epoch == 1:
        log.info(LEFT_OUT, "validation", silent, n)
    if best and not math.isfinite(_mean_gain(gains)):
        log.warning("no validation improvement is finite: the last epoch counts as the best one")
    info = info | {"epoch": epoch, "steps": run.step, **gains}
    save_weights(run.average, folder / f"epoch_{epoch:03d}.pth", info)
    if best:
        save_weights(run.average, folder / BEST, info)
    write_csv(folder / HISTORY, run.history)
    told = ", ".join(f"{gains[name]:+.2f} dB {words}" for name, words in
                     ((IMPROVEMENT, "blind"), (IMPROVEMENT_WITH_PRINT, "with a noise print")) if name in gains)
    log.info("epoch %d/%d: loss %.3f, validation SNR improvement %s%s, %.2f s per step", epoch, settings.epochs,
             row["train_loss"], told, " (best)" if best else "", row["seconds"] / steps)
    return row


def _mean_gain(row):
    """What chooses the best epoch: the mean of the improvements without and with a print."""
    gains = [row[name] for name in (IMPROVEMENT, IMPROVEMENT_WITH_PRINT) if name in row]
    return sum(gains) / len(gains)


def _tensorboard(folder, step):
    """A function that writes named curves for TensorBoard, from `step` on, or one that does nothing."""
    if folder is None:
        return lambda step, values: None
    from torch.utils.tensorboard import SummaryWriter  # not every machine that trains has it

    writer = SummaryWriter(folder, purge_step=step)

    def write(step, values):
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()
    return write


def _begin(folder, settings, plain, processes, start, branch):
    """The run in `folder`, new or resumed: what the first process finds there, in all of them."""
    def find():
        content, branched, state = found_in(folder, plain), None, None
        if content is None and branch is not None:
            branched = whole(Path(branch) / LAST)
        elif content is None and start is not None:
            begun = _begun(start, new_model(settings)).network
            state = widen(begun, settings.width, settings.depth_factors).state_dict()
        return plain, content, branched, state

    theirs, content, branched, state = processes.share(find)
    if theirs != plain:
        different = [name for name in dict.fromkeys((*plain, *theirs)) if plain.get(name) != theirs.get(name)]
        raise UserError(f"expected settings and data as in the first process, but process {processes.rank} has another "
                        f"{', '.join(different)}: give all of them the same")
    run = Run(settings, processes, state)
    try:
        if content is not None:
            run.load(content)
        elif branched is not None:
            run.branch(branched)
    except (KeyError, TypeError, ValueError, RuntimeError):
        processes.stop(damaged(folder / LAST if content is not None else Path(branch) / LAST))
    if content is not None and processes.first:
        log.info("resuming %s at step %d", folder / LAST, run.step)
    return run


def train(settings: TrainSettings, source: Source, validation: Validation, folder: str | Path, device: str = "cpu",
          info: dict | None = None, start: str | Path | None = None, branch: str | Path | None = None,
          tensorboard: bool = False, compiled: bool = False, checkpoint_seconds: float = 60.0) -> list[dict]:
    """Train, or go on where a run in `folder` stopped, and return the history (one row per epoch).

    Writes epoch_NNN.pth and best.pth (averaged weights), history.csv, and last.ckpt at least every
    `checkpoint_seconds`; with `tensorboard` also curves. start: weights to begin with (fine-tuning), of this width or a
    narrower one. branch: the folder of a run of the same network, from whose last checkpoint to begin, as with a
    falling learning rate after a constant one. compiled: through torch.compile. Launched as several processes, all
    train one model. Raises UserError for other settings than the folder's, for a damaged last.ckpt, for wider weights
    to begin with, and for a non-finite loss, naming the files; CallError for a batch that the processes cannot share,
    and while another run has the folder.
    """
    folder, processes = Path(folder), Processes(device)
    if settings.minutes and processes.count > 1:
        raise CallError("expected a number of steps, not minutes, for several processes, whose clocks differ: set "
                        "steps_per_epoch")
    processes.rows(settings.batch_size)
    plain = _plain(settings, source, start, branch)
    info = (info or {}) | {"method": "Noise2Clean" if source.clean_target else "Noise2Noise", "settings": plain,
                           "commit": code_commit()}
    with ExitStack() as held:
        processes.share(lambda: held.enter_context(locked(folder)))
        run = _begin(folder, settings, plain, processes, start, branch)
        if processes.first and processes.count > 1:
            log.info("%d processes, %d rows of each batch in this one", processes.count, len(processes.rows(
                settings.batch_size)))
        if compiled:
            run.model.network.compile()
        curves = _tensorboard(folder / TENSORBOARD if tensorboard and processes.first else None, run.step)
        _train(run, source, validation, folder, info, processes, curves, checkpoint_seconds)
        processes.wait()
    return run.history


def _train(run, source, validation, folder, info, processes, curves, checkpoint_seconds):
    """All steps that are left."""
    settings, began = run.settings, time.monotonic() - run.seconds
    looks, log_every = Looks(checkpoint_seconds, run.step), max(1, settings.steps_per_epoch // LOG_LINES_PER_EPOCH)
    while run.progress() < 1:
        train_step(run, source, processes)
        run.seconds = time.monotonic() - began
        ended, done = run.epochs_done() > len(run.history), run.step - run.epoch_start[0]
        save, told = ended, done % log_every == 0
        if ended or told or run.step >= looks.next:
            save |= _look(run, source, processes, looks)
        if told and not ended:
            loss = float(run.epoch_loss) / done
            curves(run.step, {"loss": loss, "learning rate": run.optimizer.param_groups[0]["lr"]})
            if processes.first:
                log.info("epoch %d/%d, step %d: loss %.3f, %.2f s per step", len(run.history) + 1, settings.epochs,
                         done, loss, (run.seconds - run.epoch_start[1]) / done)
        if ended:
            row = _finish_epoch(run, validation, folder, info, processes)
            curves(run.step, {"epoch loss": row["train_loss"], "validation SNR improvement (dB)": row[IMPROVEMENT]})
            run.seconds = time.monotonic() - began
        if save and processes.first:
            save_atomically({"settings": info["settings"]} | run.state(), folder / LAST)
            looks.saved = time.monotonic()


if __name__ == "__main__":
    from common.cli import run as run_command
    from common.training_cli import main

    run_command(main)
