"""The Noise2Noise training loop: noisy inputs, noisy targets, weights after every epoch, automatic resume.

The loop needs PyTorch, NumPy and the standard library only; a Source delivers its batches.
References: Lehtinen et al. 2018 (Noise2Noise); Loshchilov and Hutter 2019 (AdamW);
Jordan et al. 2024 (Muon).
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
from common.locks import locked
from common.network import tensor_stft
from common.network.checkpoints import code_commit, save_atomically, save_weights
from common.network.model import Denoiser, autocast
from common.network.noise_print import print_power
from common.seeds import stream
from common.small_files import write_csv
from common.training.losses import LOSSES
from common.training.processes import Processes
from common.training.run_state import LAST, Run, begin, network_to_begin_with
from common.training.settings import Execution, TrainSettings, learning_rate_factor, with_network

log = logging.getLogger(__name__)

BEST, HISTORY, TENSORBOARD = "best.pth", "history.csv", "tensorboard"
LOG_LINES_PER_EPOCH = 4
# Columns of the history: without and with a noise print.
IMPROVEMENT, IMPROVEMENT_WITH_PRINT = "validation_snr_improvement_db", "validation_with_print_db"


class Source(Protocol):
    """Training batches. (seed, step, row) alone decide the content of a row."""

    clean_target: bool  # the targets hold no noise: Noise2Clean

    def batch(self, seed: int, step: int, rows: range, n_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets, each (len(rows), n_samples) float32."""

    def prints(self, seed: int, step: int, rows: range, n_samples: int) -> torch.Tensor | None:
        """Return noise prints of the inputs, (len(rows), samples) float32, zeros for a row without one; or None."""

    def names(self, seed: int, step: int, rows: range, n_samples: int) -> list[str]:
        """Return a description of each row."""

    def settings(self) -> dict:
        """Return everything that decides the batches, as plain values."""


class Validation(Protocol):
    """Examples with clean targets, which decide which epoch is the best one."""

    has_prints: bool  # gains() can give the model noise prints

    def gains(self, model: Denoiser, part: slice, with_print: bool = False) -> list[float | None]:
        """Return the SNR improvement in dB of each example of `part`, None where song or noise is silent."""


def train(settings: TrainSettings, source: Source, validation: Validation, folder: str | Path,
          execution: Execution | None = None, info: dict | None = None) -> list[dict]:
    """Train a network, or resume the run in `folder`, and return the history (one row per epoch).

    Writes epoch_NNN.pth and best.pth (averaged weights, with the plain values `info`), history.csv, last.ckpt, and if
    wanted curves for TensorBoard. Launched as several processes, all train one model.

    Raises UserError for other settings than the folder's, for a damaged last.ckpt, for weights to start from that do
    not fit, and, with the names of the files, for a loss that is not finite. Raises CallError for a batch that the
    processes cannot share, for minutes with several processes, and while another run has the folder.
    """
    folder, execution = Path(folder), execution or Execution()
    processes = Processes(execution.device)
    if settings.minutes and processes.count > 1:
        raise CallError("expected a number of steps, not minutes, for several processes, whose clocks differ: set "
                        "steps_per_epoch")
    n_rows = len(processes.rows(settings.batch_size))
    with ExitStack() as held:
        processes.share(lambda: held.enter_context(locked(folder)))
        settings = with_network(settings, processes.share(lambda: network_to_begin_with(folder, settings)))
        decisive = asdict(settings) | {f"data.{name}": value for name, value in source.settings().items()}
        plain = json.loads(json.dumps(decisive, default=str))
        info = (info or {}) | {"method": "Noise2Clean" if source.clean_target else "Noise2Noise", "settings": plain,
                               "commit": code_commit()}
        run = begin(folder, settings, plain, processes)
        if processes.first and processes.count > 1:
            log.info("%d processes, %d rows of each batch in this one", processes.count, n_rows)
        if execution.compiled:
            run.model.network.compile()
        curves = None
        if execution.tensorboard and processes.first:
            from torch.utils.tensorboard import SummaryWriter  # some machines that train do not have it

            curves = held.enter_context(SummaryWriter(folder / TENSORBOARD, purge_step=run.step, flush_secs=10))
        _train(run, source, validation, folder, info, curves, execution)
        processes.wait()
    return run.history


def _train(run, source, validation, folder, info, curves, execution):
    """Make all steps that are left."""
    watch, say = (execution.watch, log.debug) if execution.watch else (lambda run: None, log.info)
    watch(run)
    processes, began, saved = run.processes, time.monotonic() - run.seconds, time.monotonic()
    log_every = max(1, run.settings.steps_per_epoch // LOG_LINES_PER_EPOCH)
    while run.progress() < 1:
        train_step(run, source)
        run.seconds = time.monotonic() - began
        ended, done = run.epochs_done() > len(run.history), run.step - run.epoch_start[0]
        logs, due = done % log_every == 0, time.monotonic() - saved > execution.checkpoint_seconds
        if ended or logs or (due and processes.count == 1):  # the clocks of several processes differ
            _stop_at_bad_loss(run, source)
        if logs and not ended:
            _report_progress(run, done, curves, say)
        if ended:
            row = _finish_epoch(run, validation, folder, info, say)
            if curves:
                curves.add_scalar("epoch loss", row["train_loss"], run.step)
                curves.add_scalar("validation SNR improvement (dB)", row[IMPROVEMENT], run.step)
                curves.flush()
            run.seconds = time.monotonic() - began
        if processes.first and (ended or due) and run.first_bad_step < 0:
            save_atomically({"settings": info["settings"]} | run.state(), folder / LAST)
            saved = time.monotonic()
        watch(run)


def train_step(run: Run, source: Source) -> None:
    """Make one optimiser step on this process's rows of the batch, without waiting for the device."""
    settings, device = run.settings, run.device
    rows = run.processes.rows(settings.batch_size)
    where = settings.seed, run.step, rows, run.crop_samples
    noisy, target = (x.to(device, non_blocking=True) for x in source.batch(*where))
    prints = source.prints(*where) if run.model.takes_print else None
    power = None if prints is None else print_power(
        tensor_stft.frames(run.model.stft, prints.to(device, non_blocking=True)))
    # At inference the level is the whole song's, so that crops come at levels other than their own.
    jitter = stream(settings.seed, "level jitter", run.step).uniform(-1, 1, (settings.batch_size, 1))[rows]
    jitter = torch.from_numpy(10 ** (jitter * settings.level_jitter_db / 20)).float().to(device, non_blocking=True)
    rate = settings.learning_rate * learning_rate_factor(run.step, run.progress(), settings.warmup_steps,
                                                         settings.schedule)
    for optimizer in run.optimizers:
        optimizer.zero_grad(set_to_none=True)
        for group in optimizer.param_groups:
            group["lr"] = rate
    run.callable.train()
    with autocast(device):
        estimate = run.callable(noisy, noisy.square().mean(-1, keepdim=True).sqrt() * jitter, power)
    loss = LOSSES[settings.loss](estimate, target, noisy)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), settings.clip_norm)
    for optimizer in run.optimizers:
        optimizer.step()
    _update_average(run)
    loss = run.processes.sum(loss.detach().double()) / run.processes.count
    run.epoch_loss += loss
    fine = loss.isfinite() | (run.first_bad_step >= 0)
    run.first_bad_step.copy_(torch.where(fine, run.first_bad_step, run.step))
    run.step += 1


@torch.no_grad()
def _update_average(run):
    # At the start the decay is lower, so that the random first weights are soon forgotten.
    decay = min(run.settings.ema_decay, (1 + run.step) / (10 + run.step))
    averaged, current = (list(m.state_dict().values()) for m in (run.average, run.model))
    moving = [i for i, value in enumerate(current) if value.is_floating_point()]
    torch._foreach_lerp_([averaged[i] for i in moving], [current[i] for i in moving], 1 - decay)


def _stop_at_bad_loss(run, source):
    """Stop all processes, with the names of the batch, if a loss was not finite. The host waits for the device here."""
    step = int(run.first_bad_step)
    if step >= 0:
        names = source.names(run.settings.seed, step, range(run.settings.batch_size), run.crop_samples)
        run.processes.stop(UserError(f"expected a finite loss, got another at step {step} with {', '.join(names)}: "
                                     "check these, or lower the learning rate"))


def _report_progress(run, done, curves, say):
    """Say the loss over the `done` steps of this epoch, and add it to the curves."""
    loss = float(run.epoch_loss) / done
    if curves:
        curves.add_scalar("loss", loss, run.step)
        curves.add_scalar("learning rate", run.optimizer.param_groups[0]["lr"], run.step)
    if run.processes.first:
        say("epoch %d/%d, step %d: loss %.3f, %.2f s per step", len(run.history) + 1, run.settings.epochs, done,
            loss, (run.seconds - run.epoch_start[1]) / done)


def _finish_epoch(run, validation, folder, info, say):
    """Validate, write the epoch's weights, mark the best ones, extend the history. Returns the new row."""
    epoch, processes = len(run.history) + 1, run.processes
    improvement, n, silent = _measure(run.average, validation, processes)
    gains = {IMPROVEMENT: improvement}
    if run.model.takes_print and validation.has_prints:
        gains[IMPROVEMENT_WITH_PRINT] = _measure(run.average, validation, processes, with_print=True)[0]
    measured = [gain for row in run.history if math.isfinite(gain := _mean_gain(row))]
    best = not measured or _mean_gain(gains) > max(measured)  # the last epoch while nothing could be measured
    steps = run.step - run.epoch_start[0]
    row = {"epoch": epoch, "steps": run.step, "train_loss": float(run.epoch_loss) / steps,
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
    words = {IMPROVEMENT: "without a noise print", IMPROVEMENT_WITH_PRINT: "with one"}
    say("epoch %d/%d: loss %.3f, validation SNR improvement %s%s, %.2f s per step", epoch, run.settings.epochs,
        row["train_loss"], ", ".join(f"{gain:+.2f} dB {words[name]}" for name, gain in gains.items()),
        " (best)" if best else "", row["seconds"] / steps)
    return row


def _mean_gain(row):
    """Return what the best epoch is chosen by: the mean of the improvements without and with a print."""
    gains = [row[name] for name in (IMPROVEMENT, IMPROVEMENT_WITH_PRINT) if name in row]
    return sum(gains) / len(gains)


def best_epoch(history: list[dict]) -> dict:
    """Return the row of a history whose weights are in best.pth."""
    return [row for row in history if row["best"]][-1]


def _measure(model, validation, processes, with_print=False):
    """Return the mean SNR improvement in dB, the number of examples, and how many of them lack song or noise."""
    gains = validation.gains(model, slice(processes.rank, None, processes.count), with_print)
    known = [gain for gain in gains if gain is not None]
    sums = torch.tensor([sum(known), len(known), len(gains)], dtype=torch.float64, device=processes.device)
    total, n, n_all = processes.sum(sums).tolist()
    return total / n if n else math.nan, int(n_all), int(n_all - n)


def validate(model: Denoiser, validation: Validation, with_print: bool = False) -> float:
    """Return the mean SNR improvement in dB over validation examples, with or without noise prints.

    Examples without song or noise are left out; without any others the result is NaN, with a warning.
    """
    mean, n, silent = _measure(model, validation, Processes(), with_print)
    if silent:
        log.info(LEFT_OUT, "validation", silent, n)
    if math.isnan(mean):
        log.warning("no validation example holds a song and a noise: nothing was measured")
    return mean
