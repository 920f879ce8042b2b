"""The Noise2Noise training loop: noisy inputs, noisy targets, weights after every epoch, restartable.

References: Lehtinen et al. 2018 (Noise2Noise); Loshchilov and Hutter 2019 (AdamW).
"""

import csv
import json
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

from common.checkpoints import load_safely, save_atomically, save_weights
from common.dataset import PairFile, Source
from common.dcunet import DCUNet20
from common.denoising import denoise
from common.errors import CallError, UserError
from common.evaluation import segments
from common.losses import LOSSES
from common.metrics import snr
from common.model import Denoiser, autocast
from common.stft import STFT

log = logging.getLogger(__name__)

LAST, BEST, HISTORY = "last.ckpt", "best.pth", "history.csv"
LOG_LINES_PER_EPOCH = 4


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides a run besides its data; saved with it, and a resumed run must agree.

    width: complex channels of the first layer. loss: a name in LOSSES. crop_frames: STFT frames per
    training crop (16k+3 need no padding). level_jitter_db: crops enter up to this much above or below
    their normalised level, since at inference the level is the whole song's. ema_decay: of the averaged
    weights, which are the ones that are validated and saved.
    """

    width: int = 32
    loss: str = "sdr"
    epochs: int = 10
    steps_per_epoch: int = 1000
    batch_size: int = 4
    crop_frames: int = 99
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    warmup_steps: int = 100
    clip_norm: float = 1.0
    ema_decay: float = 0.995
    level_jitter_db: float = 6.0
    seed: int = 0

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise CallError(f"expected a loss among {', '.join(LOSSES)}, got {self.loss!r}")
        if self.batch_size < 2:
            raise CallError(f"expected batch_size of at least 2, which batch norm needs, got {self.batch_size}")
        for name in ("epochs", "steps_per_epoch", "crop_frames", "warmup_steps"):
            if getattr(self, name) < 1:
                raise CallError(f"expected {name} of at least 1, got {getattr(self, name)}")


@dataclass
class _State:
    """What changes during a run."""

    model: Denoiser
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    step: int
    history: list[dict]
    epoch_loss: float = 0.0  # sum over the epoch's steps so far
    epoch_seconds: float = 0.0


def _learning_rate_factor(step, settings):
    """Linear warm-up, then a cosine to zero at the last step."""
    total = settings.epochs * settings.steps_per_epoch
    warmup = min(settings.warmup_steps, total // 2)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _new_state(settings, stft, device):
    torch.manual_seed(settings.seed)
    model = Denoiser(DCUNet20(settings.width), stft).to(device)

    def ema(averaged, current, n_averaged):
        # At the start the average must not remember the random initial weights for long.
        decay = min(settings.ema_decay, (1 + float(n_averaged)) / (10 + float(n_averaged)))
        return decay * averaged + (1 - decay) * current

    average = AveragedModel(model, avg_fn=ema, use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, betas=settings.betas,
                                  weight_decay=settings.weight_decay)
    return _State(model, average, optimizer, 0, [])


def _plain(settings):
    return json.loads(json.dumps(asdict(settings)))


def _resume(state, settings, path):
    """Load a checkpoint into `state`; raises UserError when it was made with other settings."""
    content = load_safely(path)
    changed = [f"{k} was {content['settings'].get(k)!r} and is {v!r}" for k, v in _plain(settings).items()
               if content["settings"].get(k) != v]
    if changed:
        raise UserError(f"expected the settings with which {path.parent} was begun, but {'; '.join(changed)}: use the "
                        "same ones or another folder for the weights")
    state.model.load_state_dict(content["model"])
    state.average.load_state_dict(content["average"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.step, state.history = content["step"], content["history"]
    state.epoch_loss, state.epoch_seconds = content["epoch_loss"], content["epoch_seconds"]
    log.info("resuming %s at step %d", path, state.step)


def _checkpoint(state, settings, path):
    save_atomically({"settings": _plain(settings), "model": state.model.state_dict(),
                     "average": state.average.state_dict(), "optimizer": state.optimizer.state_dict(),
                     "step": state.step, "history": state.history, "epoch_loss": state.epoch_loss,
                     "epoch_seconds": state.epoch_seconds}, path)


def _train_step(state, settings, source, device):
    """One optimiser step; the batch is drawn from (seed, step) alone. Returns the loss."""
    rng = np.random.default_rng([settings.seed, state.step])
    n_samples = (settings.crop_frames - 1) * state.model.stft.hop_length
    inputs, targets, names = source.batch(rng, settings.batch_size, n_samples)
    jitter = 10 ** (rng.uniform(-1, 1, (settings.batch_size, 1)) * settings.level_jitter_db / 20)
    noisy, target = torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)
    level = noisy.square().mean(-1, keepdim=True).sqrt() * torch.from_numpy(jitter.astype(np.float32)).to(device)
    for group in state.optimizer.param_groups:
        group["lr"] = settings.learning_rate * _learning_rate_factor(state.step, settings)
    state.model.train()
    with autocast(device):
        estimate = state.model(noisy, level)
    loss = LOSSES[settings.loss](estimate, target, noisy)
    if not torch.isfinite(loss):
        raise UserError(f"expected a finite loss, got {loss.item()} at step {state.step} with {', '.join(names)}: "
                        "check these files, or lower the learning rate")
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), settings.clip_norm)
    state.optimizer.step()
    state.average.update_parameters(state.model)
    state.step += 1
    return loss.item()


def validate(model: Denoiser, pairs: Sequence[PairFile], per_pair: int = 1) -> float:
    """Mean SNR improvement in dB over segments of validation pairs."""
    gains = []
    for s in segments(pairs, model.stft.sample_rate, per_pair):
        gains.append(snr(s.clean, denoise(model, s.noisy, s.sample_rate)) - snr(s.clean, s.noisy))
    if not gains:
        raise UserError("expected validation segments above -60 dBFS, but all are silent: check the validation set")
    return float(np.mean(gains))


def _finish_epoch(state, settings, validation, folder, info):
    """Validate, write the epoch's weights, mark the best, extend the history."""
    epoch = state.step // settings.steps_per_epoch
    model = state.average.module.eval()
    improvement = validate(model, validation)
    best = improvement > max((h["validation_snr_improvement_db"] for h in state.history), default=-math.inf)
    row = {"epoch": epoch, "steps": state.step, "train_loss": state.epoch_loss / settings.steps_per_epoch,
           "validation_snr_improvement_db": improvement,
           "learning_rate": state.optimizer.param_groups[0]["lr"], "seconds": state.epoch_seconds, "best": best}
    info = info | {"epoch": epoch, "steps": state.step, "validation_snr_improvement_db": improvement,
                   "settings": _plain(settings)}
    save_weights(model, folder / f"epoch_{epoch:03d}.pth", info)
    if best:
        save_weights(model, folder / BEST, info)
    state.history.append(row)
    state.epoch_loss = state.epoch_seconds = 0.0
    _write_history(folder / HISTORY, state.history)
    log.info("epoch %d/%d: loss %.3f, validation SNR improvement %+.2f dB%s", epoch, settings.epochs,
             row["train_loss"], improvement, " (best)" if best else "")


def _write_history(path, rows):
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def train(settings: TrainSettings, source: Source, validation: Sequence[PairFile], folder: str | Path,
          device: str = "cpu", info: dict | None = None, stft: STFT | None = None,
          checkpoint_seconds: float = 60.0) -> list[dict]:
    """Train, or go on where a run in `folder` stopped, and return the history (one row per epoch).

    `source` gives batches (PairSource or MixtureSource), `validation` pairs with clean targets choose the
    best epoch. Writes epoch_NNN.pth and best.pth (averaged weights), history.csv, and last.ckpt at least
    every `checkpoint_seconds`. Raises UserError for other settings than the folder's and for a
    non-finite loss, naming the files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = _new_state(settings, stft or STFT(), device)
    if (folder / LAST).is_file():
        _resume(state, settings, folder / LAST)
    elif any(folder.glob("epoch_*.pth")):
        raise CallError(f"expected an empty folder or an unfinished run, but {folder} holds weights without {LAST}: "
                        "choose another folder")
    last_saved, total = time.monotonic(), settings.epochs * settings.steps_per_epoch
    log_every = max(1, settings.steps_per_epoch // LOG_LINES_PER_EPOCH)
    while state.step < total:
        started = time.monotonic()
        loss = _train_step(state, settings, source, device)
        state.epoch_loss += loss
        state.epoch_seconds += time.monotonic() - started
        done = state.step % settings.steps_per_epoch
        if done and done % log_every == 0:
            log.info("epoch %d, step %d/%d: loss %.3f, %.2f s per step", state.step // settings.steps_per_epoch + 1,
                     done, settings.steps_per_epoch, state.epoch_loss / done, state.epoch_seconds / done)
        if done == 0:
            _finish_epoch(state, settings, validation, folder, info or {})
        if done == 0 or time.monotonic() - last_saved > checkpoint_seconds:
            _checkpoint(state, settings, folder / LAST)
            last_saved = time.monotonic()
    return state.history
