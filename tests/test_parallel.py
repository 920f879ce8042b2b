"""Two processes on one machine train what one process trains."""

import csv
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch

from common.network.checkpoints import load_weights
from common.training.processes import Processes
from tests.conftest import ROOT

FLAGS = ["--width", "2", "--epochs", "2", "--steps-per-epoch", "4", "--batch-size", "4", "--warmup-steps", "2",
         "--n-validation", "3", "--device", "cpu",
         # A bias before a batch norm has rounding for a gradient, of which the optimiser makes steps of this size.
         "--learning-rate", "1e-3"]


def launch(pool, folder, processes, *flags):
    """Begin a training as a user would; returns the running process."""
    # For processors too: accelerate would take MPI for them, which not every machine has.
    head = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", processes, "--num_machines", 1,
            "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", 0] if processes > 1 else []
    command = [sys.executable, *head, "-m", "common.training", "run", pool, "-o", folder, *FLAGS, *flags]
    return subprocess.Popen([str(part) for part in command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "DENOISER_PRECISION": "float32"})


def history(folder):
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(pool_folder, tmp_path):
    """T5: same global batch, same batch norm, same validation."""
    runs = {n: launch(pool_folder, tmp_path / str(n), n) for n in (1, 2)}
    for n, process in runs.items():
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, f"{n} processes: {errors}"
        assert ("2 processes, 2 rows" in errors) == (n == 2)
    one, two = (history(tmp_path / str(n)) for n in (1, 2))
    for column, tolerance in (("train_loss", 1e-4), ("validation_snr_improvement_db", 0.02)):
        assert np.allclose(*([float(row[column]) for row in rows] for rows in (one, two)), atol=tolerance), column
    states = [load_weights(tmp_path / str(n) / "epoch_002.pth")[0].state_dict() for n in (1, 2)]
    for name, a in states[0].items():
        # Batch norm takes the bias away again: its gradient is rounding, which AdamW turns into steps of full size.
        if not name.endswith("conv.bias"):
            tolerance = 2e-2 if name.endswith("running_mean") else 5e-3  # this mean holds the bias
            assert torch.allclose(a.float(), states[1][name].float(), atol=tolerance), name


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


TWO = """import itertools, json, os, sys, time
from pathlib import Path

import numpy as np
import torch

from common.training import loop as training
from common.errors import UserError
from common.locks import locked
from common.seeds import stream
from common.training.settings import Execution, TrainSettings
from common.training.loop import train

torch.set_num_threads(1)
first, base, found = os.environ["RANK"] == "0", Path(sys.argv[1]), {}
SETTINGS = TrainSettings(width=1, epochs=2, steps_per_epoch=4, batch_size=4, warmup_steps=2, crop_frames=32)


class Killed(BaseException):
    pass


class Source:
    clean_target, spoilt, kill_at, data = False, None, None, 1

    def batch(self, seed, step, rows, n):
        if step == self.kill_at:
            raise Killed
        song, a, b = (torch.stack([torch.from_numpy(stream(seed, part, step, row).standard_normal(n)).float()
                                   for row in rows]) for part in ("song", "a", "b"))
        if self.spoilt == step and 3 in rows:
            b[-1] += torch.nan
        return song + a, song + b

    def names(self, seed, step, rows, n):
        return [f"row {row}" for row in rows]

    def prints(self, seed, step, rows, n):
        return None

    def settings(self):
        return {"data": self.data}


class Validation:
    has_prints = False

    def gains(self, model, part, with_print=False):
        return list(map(float, range(10)))[part]


def run(name, checkpoint_seconds=60, **changes):
    # The second process is on another machine, whose folders are its own.
    folder, source = base / ("here" if first else "there") / name, Source()
    for key, value in changes.items():
        setattr(source, key, value)
    try:
        history = train(SETTINGS, source, Validation(), folder, Execution("cpu", checkpoint_seconds=checkpoint_seconds))
        found[name] = [row["train_loss"] for row in history]
    except (UserError, SystemExit, Killed) as error:
        found[name] = f"{type(error).__name__}: {error}"
    return folder


run("whole")
folder = run("killed", checkpoint_seconds=0, kill_at=3)
run("killed")
run("spoilt", spoilt=1)
if first:
    (base / "here/damaged").mkdir()
    (base / "here/damaged/last.ckpt").write_bytes(b"PK")
run("damaged")
if first:
    with locked(base / "here/busy"):
        run("busy")
else:
    run("busy")
clock, ticking = time.monotonic, itertools.count()
training.time.monotonic = lambda: clock() + (0 if first else 1000 * next(ticking))  # clocks that do not agree at all
run("clocks")
found["files"] = sorted(str(p.relative_to(base)) for p in base.rglob("*.*") if p.is_file())
print("FOUND", json.dumps(found))
"""


def test_the_first_process_decides_for_both(tmp_path):
    """On another machine there is no last.ckpt, and another clock: what happens is what the first process says."""
    (tmp_path / "two.py").write_text(TWO)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen([sys.executable, tmp_path / "two.py", tmp_path], stdout=subprocess.PIPE, text=True,
                             stderr=subprocess.PIPE, env=env | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    out = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], out
    here, there = (json.loads(text.split("FOUND ", 1)[1]) for text, _ in out)
    assert np.allclose(here["whole"], [here["killed"], here["clocks"]], rtol=1e-12) and len(here["whole"]) == 2
    states = [load_weights(tmp_path / "here" / name / "epoch_002.pth")[0].state_dict() for name in ("whole", "killed")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert "UserError: expected a finite loss, got another at step 1 with row 0, row 1, row 2, row 3:" in here["spoilt"]
    assert "it is damaged or something else" in here["damaged"] and "another run is writing there" in here["busy"]
    assert [there[name] for name in ("spoilt", "damaged", "busy")] == [f"SystemExit: {n}" for n in (1, 1, 2)]
    assert not any(name.startswith("there") for name in here["files"])


def test_rows_are_shared_out(monkeypatch):
    one = Processes()
    assert one.first and one.rows(4) == range(4)
    one.count, one.rank = 2, 1
    assert one.rows(4) == range(2, 4)
    with pytest.raises(Exception, match="share evenly, got 5"):
        one.rows(5)
