"""The state of a training run on disk: when it is written, and what is found of it."""

import time
from pathlib import Path

from common.checkpoints import load_safely
from common.errors import CallError, UserError

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
