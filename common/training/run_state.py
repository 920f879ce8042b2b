"""The state of a training run: what it holds, when it is written to disk, and how a run begins from what is there."""

import copy
import logging
import time
from pathlib import Path

import torch

from common.errors import CallError, UserError
from common.network.checkpoints import load_safely, load_weights
from common.training.parallel import Processes
from common.training.settings import TrainSettings, new_model
from common.training.widening import widen

log = logging.getLogger(__name__)

LAST = "last.ckpt"


class Looks:
    """When losses are looked at, and the state is saved every so many seconds.

    The first process decides by its clock, and says how many steps to go on before the next look: if the others asked
    at every step, all would wait for each other, and for the device, at every step.
    """

    def __init__(self, seconds: float, step: int):
        self.seconds, self.next = seconds, step + 1
        self.saved, self.last = time.monotonic(), (step, time.monotonic())

    def decide(self, step: int) -> tuple[bool, float]:
        """Whether to save now, and the steps to the next look: half of what the pace leaves."""
        now, (before, then) = time.monotonic(), self.last
        self.last = step, now
        left = self.seconds - (now - self.saved)
        pace = (now - then) / max(1, step - before)
        return left < 0, min(1e9, max(1, left / 2 // max(pace, 1e-6)))


def found_in(folder: Path, settings: dict) -> dict | None:
    """The state of the run in a folder, None where none was begun.

    Raises UserError when it is damaged or of other settings, CallError for weights without a state.
    """
    if not (folder / LAST).is_file():
        if any(folder.glob("epoch_*.pth")):
            raise CallError(f"expected an empty folder or an unfinished run, but {folder} holds weights without "
                            f"{LAST}: choose another folder")
        return None
    content = whole(folder / LAST)
    before = content["settings"]
    changed = [f"{k} was {before.get(k)!r} and is {settings.get(k)!r}" for k in dict.fromkeys((*settings, *before))
               if before.get(k) != settings.get(k)]
    if changed:
        raise UserError(f"expected the settings with which {folder} was begun, but {'; '.join(changed)}: use the "
                        "same ones or another folder for the weights")
    return content


def whole(path: Path) -> dict:
    """A run's state; raises UserError when the file is damaged or something else, CallError when there is none."""
    try:
        content = load_safely(path)
    except CallError:
        raise
    except UserError as error:
        raise damaged(path) from error
    if not isinstance(content.get("settings"), dict):
        raise damaged(path)
    return content


def damaged(path: Path) -> UserError:
    """The error for a state that cannot be used, which says what is left of the run."""
    epochs = sorted(path.parent.glob("epoch_*.pth"))
    advice = f"train on from {epochs[-1]} with --start, into another folder" if epochs else "remove it to begin anew"
    return UserError(f"expected the whole state of a run in {path}, but it is damaged or something else: put a copy in "
                     f"its place, or {advice}")


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
        """Begin a new run from the state() of another one: its weights, averages, optimiser and step."""
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


def _begun(start, new):
    """The model of weights to begin with; raises UserError when its form is not that of the `new` model."""
    model = load_weights(start)[0]
    for name, found, wanted in (("plan", model.network.plan_name, new.network.plan_name),
                                ("STFT", model.stft, new.stft)):
        if found != wanted:
            raise UserError(f"expected weights of {name} {wanted} to begin with, but {start} has {found}: set the same "
                            "or choose other weights")
    return model


def begin(folder: Path, settings: TrainSettings, plain: dict, processes: Processes, start: str | Path | None,
          branch: str | Path | None) -> Run:
    """The run in `folder`, new or resumed: what the first process finds there, in all of them.

    plain: settings and data as plain values, in which the processes, and a run that is resumed, must agree. start,
    branch: see common.training.train.
    """
    def find():
        """What the run begins with: its own state, that of the run it leaves, or a network's."""
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
