"""The curve of a network that learned in several runs, each from the best weights of the one before.

    python -m benchmarks.training_curve RUN [RUN ...] [--first-step 0] [-o docs/results/training_curve.png]

Draws the validation SNR improvement over all optimiser steps, and writes the same figures as a CSV file beside the
picture. A CSV file that was written before may stand for a run, where its folder is gone.
"""

from pathlib import Path

import pandas as pd

from benchmarks.figures import learning_curve
from common.cli import Parser, run

KEPT = ("steps", "validation_snr_improvement_db", "validation_with_print_db", "learning_rate", "best")


def read_run(path: Path, first_step: int, number: int) -> pd.DataFrame:
    """The validations of a run: its number, and all optimiser steps so far from `first_step` on."""
    table = pd.read_csv(path / "history.csv")[list(KEPT)]
    return table.assign(run=number, steps=table.steps + first_step)


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, or a CSV file of this one")
    parser.add_argument("--first-step", type=int, default=0, help="optimiser steps before the first run")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/results/training_curve.png"),
                        help="picture to write")
    args = parser.parse_args()
    tables, step = [], args.first_step
    for path in args.runs:
        if path.suffix == ".csv":
            tables.append(pd.read_csv(path))
        else:
            number = 1 + (int(tables[-1].run.max()) if tables else 0)
            tables.append(read_run(path, step, number))
        step = int(tables[-1][tables[-1].best].steps.iloc[-1])
    table = pd.concat(tables, ignore_index=True)
    learning_curve(table).savefig(args.output, dpi=80)
    table.to_csv(args.output.with_suffix(".csv"), index=False, float_format="%.4g", lineterminator="\n")
    print(table.to_string(index=False))


if __name__ == "__main__":
    run(main)
