"""A training that shows itself in a notebook, in two outputs that are replaced rather than repeated."""

import math
import time
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import Image, Pretty, display

from common.notebook.plots import training_curves
from common.training.loop import IMPROVEMENT, best_epoch
from common.training.run_state import Run

# Least time between two updates of the line.
UPDATE_SECONDS = 1.0


class TrainingView:
    """A line of progress, and curves that grow with each epoch, for Execution.watch.

    picture: the PNG file of the curves, written after each epoch. Executed without anyone to watch, as by papermill, a
    notebook keeps the last line and the last curves.
    """

    def __init__(self, picture: str | Path):
        self._picture, self._n_epochs, self._updated = Path(picture), 0, -math.inf
        self._line, self._curves = (display(Pretty(""), display_id=True) for _ in range(2))

    def __call__(self, run: Run) -> None:
        """Show the state of a run."""
        if len(run.history) > self._n_epochs:
            self._n_epochs = len(run.history)
            figure = training_curves(run.history)
            figure.savefig(self._picture, dpi=100)
            plt.close(figure)
            self._curves.update(Image(self._picture))
        elif time.monotonic() - self._updated < UPDATE_SECONDS:
            return
        self._updated = time.monotonic()
        self._line.update(Pretty(progress_line(run)))


def progress_line(run: Run) -> str:
    """Say in one line how far a run is and, if it knows, how long it goes on and what its best epoch gives."""
    done, n_epochs = run.progress(), run.settings.epochs
    words = [f"epoch {min(len(run.history) + 1, n_epochs)} of {n_epochs}", f"step {run.step}",
             f"{run.seconds / 60:.1f} min gone"]
    if 0 < done < 1:
        words.append(f"about {run.seconds * (1 / done - 1) / 60:.1f} min left")
    if run.history:
        best = best_epoch(run.history)
        words.append(f"best epoch: {best['epoch']} with {best[IMPROVEMENT]:+.2f} dB")
    return ", ".join(words)
