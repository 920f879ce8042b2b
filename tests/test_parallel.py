"""Two processes on one machine train what one process trains."""

import csv
import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch

from common.checkpoints import load_weights
from common.parallel import Processes
from tests.conftest import ROOT

FLAGS = ["--width", "2", "--epochs", "2", "--steps-per-epoch", "4", "--batch-size", "4", "--warmup-steps", "2",
         "--n-validation", "3", "--device", "cpu"]


# The rounding of bfloat16 would hide what several processes may change.
FLOAT32 = """import common.model
from common.cli import run
from common.training_cli import main

common.model.computes_bfloat16_fast = lambda device: False
run(main)
"""


def launch(pool, folder, processes, *flags, program=("-m", "common.training")):
    """Begin a training as a user would, or by another program; returns the running process."""
    # For processors too: accelerate would take MPI for them, which not every machine has.
    head = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", processes, "--num_machines", 1,
            "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", 0] if processes > 1 else []
    command = [sys.executable, *head, *program, "run", pool, "-o", folder, *FLAGS, *flags]
    return subprocess.Popen([str(part) for part in command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})


def history(folder):
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(pool_folder, tmp_path):
    """T5: same global batch, same batch norm, same validation."""
    (tmp_path / "float32.py").write_text(FLOAT32)
    runs = {n: launch(pool_folder, tmp_path / str(n), n, program=[tmp_path / "float32.py"]) for n in (1, 2)}
    for n, process in runs.items():
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, f"{n} processes: {errors}"
        assert ("2 processes, 2 rows" in errors) == (n == 2)
    one, two = (history(tmp_path / str(n)) for n in (1, 2))
    for column, tolerance in (("train_loss", 1e-4), ("validation_snr_improvement_db", 0.02)):
        assert np.allclose(*([float(row[column]) for row in rows] for rows in (one, two)), atol=tolerance), column
    states = [load_weights(tmp_path / str(n) / "epoch_002.pth")[0].state_dict() for n in (1, 2)]
    for name, a in states[0].items():
        assert torch.allclose(a.float(), states[1][name].float(), atol=5e-3), name


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_run_which_then_resumes(pool_folder, tmp_path):
    process = launch(pool_folder, tmp_path / "w", 2, "--steps-per-epoch", 15)
    deadline = time.monotonic() + 200
    while not (tmp_path / "w" / "epoch_001.pth").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
    workers = [p for p in psutil.Process(process.pid).children(recursive=True)
               if not p.children() and "common.training" in str(p.cmdline())]
    assert len(workers) == 2
    workers[1].kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "one of them is gone" in errors or "Signal 9 (SIGKILL) received" in errors
    process = launch(pool_folder, tmp_path / "w", 2, "--steps-per-epoch", 15)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and "resuming" in errors
    assert [row["steps"] for row in history(tmp_path / "w")] == ["15", "30"]


def test_rows_are_shared_out(monkeypatch):
    one = Processes()
    assert one.first and one.rows(4) == range(4)
    one.count, one.rank = 2, 1
    assert one.rows(4) == range(2, 4)
    with pytest.raises(Exception, match="share evenly, got 5"):
        one.rows(5)
