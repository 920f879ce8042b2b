"""The Noise2Noise training loop: noisy inputs, noisy targets, weights after every epoch, restartable.

Needs nothing but PyTorch, NumPy and the standard library; batches come from a source, whatever that reads.
References: Lehtinen et al. 2018 (Noise2Noise); Loshchilov and Hutter 2019 (AdamW).
"""

import json
import logging
import math
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch

from common.data.silence import LEFT_OUT
from common.errors import CallError, UserError
from common.files import write_csv
from common.locks import locked
from common.network.checkpoints import code_commit, save_atomically, save_weights
from common.network.model import Denoiser, autocast
from common.network.noise_print import print_power
from common.seeds import stream
from common.training.losses import LOSSES
from common.training.parallel import Processes
from common.training.run_state import LAST, Looks, Run, begin
from common.training.settings import TrainSettings, learning_rate_factor

log = logging.getLogger(__name__)

BEST, HISTORY, TENSORBOARD = "best.pth", "history.csv", "tensorboard"
LOG_LINES_PER_EPOCH = 4
# Columns of the history: without and with a noise print.
IMPROVEMENT, IMPROVEMENT_WITH_PRINT = "validation_snr_improvement_db", "validation_with_print_db"


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
        run = begin(folder, settings, plain, processes, start, branch)
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
