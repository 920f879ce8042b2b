"""How long a training takes, measured before it begins."""

import math
import time

from common.training.loop import Source, Validation, train_step
from common.training.processes import Processes
from common.training.run_state import Run
from common.training.settings import TrainSettings

# The first steps are slower than the others.
WARM_UP_STEPS, TIMED_STEPS = 2, 4
# One of so many validation examples is timed.
TIMED_SHARE = 4


def estimate(settings: TrainSettings, source: Source, validation: Validation, device: str = "cpu") -> str:
    """Return a sentence on the wall time of a run, from a few steps and a part of its validation with new weights."""
    run = Run(settings, Processes(device))
    for _ in range(WARM_UP_STEPS):
        train_step(run, source)
    step_seconds = _seconds(lambda: [train_step(run, source) for _ in range(TIMED_STEPS)], run) / TIMED_STEPS
    part = slice(0, None, TIMED_SHARE)
    validation_seconds = TIMED_SHARE * _seconds(lambda: validation.gains(run.average, part), run)
    validation_seconds *= 1 + (run.model.takes_print and validation.has_prints)
    n_steps = settings.epochs * settings.steps_per_epoch
    minutes = (n_steps * step_seconds + settings.epochs * validation_seconds) / 60
    return (f"The whole training takes about {math.ceil(minutes)} min on this machine: {n_steps} steps of "
            f"{step_seconds:.2f} s and {settings.epochs} validations of {validation_seconds:.1f} s, as just measured.")


def _seconds(work, run):
    """Return the seconds that a call takes, with what it leaves to the device."""
    float(run.epoch_loss)  # waits for the device
    started = time.monotonic()
    work()
    float(run.epoch_loss)
    return time.monotonic() - started
