"""The state of a training run: what it holds, and how a run begins or resumes."""

import copy
import logging
from pathlib import Path

import torch

from common.errors import CallError, UserError
from common.network.checkpoints import load_safely, load_weights
from common.training.muon import ComplexMuon
from common.training.network_widening import widen
from common.training.processes import Processes
from common.training.settings import TrainSettings, new_model, with_network

log = logging.getLogger(__name__)

LAST = "last.ckpt"
# Attributes of a Run in a checkpoint: with a state_dict, and as they are.
MODULES = "model", "average", "kernel_optimizer", "optimizer"
COUNTERS = "step", "first_step", "seconds", "history"


class Run:
    """A run's model, averaged weights, optimisers and counters. start: the network's first state_dict, or None.

    Muon trains the kernels between the first and the last layer, AdamW all other parameters.
    """

    def __init__(self, settings: TrainSettings, processes: Processes, start: dict | None = None):
        torch.manual_seed(settings.seed)
        self.settings, self.processes, self.device = settings, processes, processes.device
        self.model = new_model(settings)
        if start is not None:
            self.model.network.load_state_dict(start)
        self.model.to(self.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        pairs = self.model.network.hidden_kernels()
        hidden = {id(kernel) for pair in pairs for kernel in pair}
        rate, decay = settings.learning_rate, settings.weight_decay
        self.kernel_optimizer = ComplexMuon(pairs, rate, weight_decay=decay)
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if id(p) not in hidden], rate,
                                           betas=settings.betas, weight_decay=decay, fused=True)
        self.callable = processes.wrap(self.model)
        self.step, self.first_step, self.seconds, self.history = 0, 0, 0.0, []
        self.epoch_start = (0, 0.0)  # step and seconds
        # These are equal in all processes. They stay on the device, since reading them makes the host wait for it.
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.first_bad_step = torch.full((), -1, device=self.device)

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """Both optimisers; they have the same learning rate."""
        return self.kernel_optimizer, self.optimizer

    @property
    def crop_samples(self) -> int:
        """Samples of a training crop."""
        return (self.settings.crop_frames - 1) * self.model.stft.hop_length

    def progress(self) -> float:
        """Return the share of the run that is done, 0 to 1."""
        if self.settings.minutes:
            return min(1.0, self.seconds / (60 * self.settings.minutes))
        return (self.step - self.first_step) / (self.settings.epochs * self.settings.steps_per_epoch)

    def epochs_done(self) -> int:
        """Return the number of epochs that are done."""
        if self.settings.minutes:
            return int(self.progress() * self.settings.epochs)
        return (self.step - self.first_step) // self.settings.steps_per_epoch

    def state(self) -> dict:
        """Return the content of a checkpoint, without the settings."""
        return {**{name: getattr(self, name).state_dict() for name in MODULES},
                **{name: getattr(self, name) for name in COUNTERS},
                "epoch_start": list(self.epoch_start), "epoch_loss": float(self.epoch_loss)}

    def load(self, content: dict) -> None:
        """Continue from the content of a checkpoint."""
        for name in MODULES:
            getattr(self, name).load_state_dict(content[name])
        for name in COUNTERS:
            setattr(self, name, content[name])
        self.epoch_start = tuple(content["epoch_start"])
        self.epoch_loss.fill_(content["epoch_loss"])


def network_to_begin_with(folder: Path, settings: TrainSettings) -> dict:
    """Return the settings of the network that a run in `folder` resumes or begins with; {} for a new one.

    Raises UserError for a damaged state, for damaged weights, and for another network than that of the run to branch
    from, CallError where they are missing.
    """
    if (folder / LAST).is_file():
        return _load_state(folder / LAST)["settings"]
    if settings.branch is not None:
        return _branched_settings(settings)
    if settings.start is None:
        return {}
    return _form(load_weights(settings.start)[0])


def _form(model):
    """Return the settings of a model's network, its compression to the digits that weights in 16 bits keep."""
    return model.network.settings() | {"compression": round(float(model.network.compression), 3),
                                       "hop_length": model.stft.hop_length}


def _branched_settings(settings):
    """Return the settings of the run to branch from. Its weights say their compression; older runs noted another."""
    content = _load_state(Path(settings.branch) / LAST)
    found = content["settings"]
    if "network.compression" in content["model"]:
        found = found | {"compression": float(content["model"]["network.compression"])}
    own, wanted = (_form(new_model(with_network(x, found))) for x in (TrainSettings(), settings))
    for name in own:
        if own[name] != wanted[name]:
            raise _unfit(name, wanted[name], settings.branch, own[name])
    return found | own


def begin(folder: Path, settings: TrainSettings, plain: dict, processes: Processes) -> Run:
    """Begin or resume the run in `folder`, in all processes with what the first one finds there.

    plain: settings and data as plain values, in which the processes, and a run that is resumed, must agree. Raises
    UserError where they do not, for a damaged state and for weights that cannot be the start.
    """
    def find():
        """Return the settings, and the path and content of a state to continue from or the network's first state."""
        content = _find_state(folder, plain)
        if content is not None:
            return plain, folder / LAST, content, None
        if settings.branch is not None:
            path = Path(settings.branch) / LAST
            return plain, path, _as_first(_load_state(path)), None
        return plain, None, None, None if settings.start is None else _first_weights(settings)

    theirs, path, content, start = processes.share(find)
    if theirs != plain:
        different = [name for name in dict.fromkeys((*plain, *theirs)) if plain.get(name) != theirs.get(name)]
        raise UserError(f"expected settings and data as in the first process, but process {processes.rank} has another "
                        f"{', '.join(different)}: give all of them the same")
    run = Run(settings, processes, start)
    if content is not None:
        try:
            run.load(content)
        except (KeyError, TypeError, ValueError, RuntimeError):
            processes.stop(_damaged(path))
        if processes.first and path == folder / LAST:
            log.info("resuming %s at step %d", path, run.step)
    return run


def _find_state(folder, plain):
    """Return the state of the run in a folder, or None; weights without a state, and other settings, are errors."""
    if not (folder / LAST).is_file():
        if any(folder.glob("epoch_*.pth")):
            raise CallError(f"expected an empty folder or an unfinished run, but {folder} holds weights without "
                            f"{LAST}: choose another folder")
        return None
    content = _load_state(folder / LAST)
    before = content["settings"]
    changed = [f"{k} was {before.get(k)!r} and is {plain.get(k)!r}" for k in dict.fromkeys((*plain, *before))
               if before.get(k) != plain.get(k)]
    if changed:
        raise UserError(f"expected the settings with which {folder} was begun, but {'; '.join(changed)}: use the "
                        "same ones or another folder for the weights")
    return content


def _load_state(path):
    """Load a checkpoint; raises UserError when it is damaged or something else, CallError when there is none."""
    try:
        content = load_safely(path)
    except CallError:
        raise
    except UserError as error:
        raise _damaged(path) from error
    if not all(isinstance(content.get(name), dict) for name in ("settings", "model")):
        raise _damaged(path)
    return content


def _damaged(path):
    """Return the error for a state that cannot be used, with what is left of the run."""
    epochs = sorted(path.parent.glob("epoch_*.pth"))
    advice = f"train on from {epochs[-1]} with --start, into another folder" if epochs else "remove it to begin anew"
    return UserError(f"expected the whole state of a run in {path}, but it is damaged or something else: put a copy in "
                     f"its place, or {advice}")


def _as_first(content):
    """Return a checkpoint of another run as the beginning of a new run."""
    step = content.get("step")
    return content | {"first_step": step, "seconds": 0.0, "history": [], "epoch_start": (step, 0.0), "epoch_loss": 0.0}


def _first_weights(settings):
    """Return the state_dict of the weights to start from, widened if they are narrower than the new network."""
    new = new_model(settings)
    found = load_weights(settings.start)[0]
    for name, own, wanted in (("plan", found.network.plan_name, new.network.plan_name), ("STFT", found.stft, new.stft),
                              ("compression", *(_form(x)["compression"] for x in (found, new)))):
        if own != wanted:
            raise _unfit(name, wanted, settings.start, own)
    return widen(found.network, settings.width, settings.depth_factors).state_dict()


def _unfit(name, wanted, path, own):
    """Return the error for weights or a run at `path` with which settings cannot begin."""
    return UserError(f"expected weights of {name} {wanted} to begin with, but {path} has {own}: set the same or choose "
                     "other weights")
