"""The same work on a Dask cluster: a real scheduler and two worker processes on this machine."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import workers
from common.errors import CallError
from tests.conftest import ROOT

DASK = Path(sys.executable).parent / "dask"


def _bytes(*folders):
    return {(f.name, p.name): p.read_bytes() for f in folders for p in f.iterdir()}


@pytest.fixture
def cluster(tmp_path):
    """The address of a scheduler and its two worker processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with contextlib.ExitStack() as stack:
        def start(*args):
            # Not in the repository: the code comes to the workers with the work.
            process = subprocess.Popen([str(DASK), *args], cwd=tmp_path, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        start("scheduler", "--host", "127.0.0.1", "--port", address.split(":")[-1], "--no-dashboard")
        yield address, [start("worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard",
                              "--local-directory", str(tmp_path / f"dask{n}")) for n in range(2)]


def _command(corpus, out, *extra):
    return [str(part) for part in (
        sys.executable, "merger_mixed_white.py", "--path-songs", corpus[0], "--path-noises", corpus[1],
        "--iter-songs", 6, "--iter-noise", 5, "--input-dir", out / "input", "--target-dir", out / "target", *extra)]


@pytest.mark.slow
def test_a_cluster_makes_the_same_bytes_though_a_worker_is_killed(corpus, merged, cluster, tmp_path):
    input_dir, target_dir, _ = merged("merger_mixed_white.py", "train", 6, 5)
    address, processes = cluster
    process = subprocess.Popen(_command(corpus, tmp_path, "--scheduler", address), cwd=ROOT, stderr=subprocess.PIPE,
                               text=True)
    deadline = time.monotonic() + 90
    while len(list((tmp_path / "target").glob("TARGET-*"))) < 4:  # of 30
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.05)
    processes[0].send_signal(signal.SIGKILL)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0 and "30 pairs of 6 songs" in errors, errors
    assert processes[1].poll() is None
    assert _bytes(tmp_path / "input", tmp_path / "target") == _bytes(input_dir, target_dir)


@pytest.mark.slow
def test_a_scheduler_without_workers_is_one_sentence(cluster, monkeypatch):
    address, processes = cluster
    for process in processes:
        process.kill()
        process.wait()
    monkeypatch.setattr(workers, "WORKER_TIMEOUT_SECONDS", 2)
    with pytest.raises(CallError, match="none answered in 2 s"), workers.worker_processes(scheduler=address):
        pass


def test_an_absent_scheduler_is_one_sentence(corpus, call, tmp_path):
    done = call(*_command(corpus, tmp_path, "--scheduler", "tcp://127.0.0.1:1")[1:], code=2)
    assert done.stderr.splitlines()[-1].startswith("error: expected a Dask scheduler at tcp://127.0.0.1:1")
    assert "Traceback" not in done.stderr
