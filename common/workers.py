"""Worker processes: those of this machine, or those of a Dask cluster."""

import asyncio
import contextlib
import os
import tempfile
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path

import joblib

from common.errors import CallError, UserError

WORKER_TIMEOUT_SECONDS = 60
# Held while a worker of this machine does what must not be left half done; None in every other process.
_whole = None


@contextlib.contextmanager
def pool(jobs: int = -1, scheduler: str | None = None) -> Iterator[tuple[joblib.Parallel, int]]:
    """A joblib.Parallel that yields results as they are done, and its number of workers.

    `jobs`: processes on this machine, -1 for all cores; `scheduler`: address of a Dask scheduler whose workers are
    used instead. Raises CallError when none answers there, UserError when a worker dies for good.
    """
    if not scheduler:
        # It says that a worker was replaced by a fresh one because it had grown: that is as it should be.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given to the executor")
        try:
            yield (joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", initializer=_follow,
                                   initargs=(os.getpid(),)), joblib.effective_n_jobs(jobs))
        except BrokenExecutor as error:
            raise UserError("expected every worker process to live, but one was killed, perhaps for want of memory: "
                            "run the same command again, with fewer --jobs") from error
        return
    from distributed import Client, KilledWorker  # takes a second, and only a cluster needs it

    try:
        client = Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise CallError(f"expected a Dask scheduler at {scheduler}, but there was no answer ({error}): start one with "
                        "dask scheduler, or leave --scheduler out") from error
    with client:
        _ship_code(client)
        try:
            with joblib.parallel_config("dask", client=client):
                yield joblib.Parallel(n_jobs=-1, return_as="generator_unordered"), joblib.effective_n_jobs(-1)
        except KilledWorker as error:
            raise UserError(f"expected the cluster's workers to live, but {error}: run the same command "
                            "again") from error


def _ship_code(client):
    """Give this package to the scheduler and its workers, which need its dependencies but not the repository."""
    package = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(Path(folder) / f"{package.name}.zip", "w") as archive:
            for path in package.rglob("*.py"):
                archive.write(path, path.relative_to(package.parent))
        client.upload_file(archive.filename)
    try:
        client.submit(os.getpid, pure=False).result(timeout=WORKER_TIMEOUT_SECONDS)
    except (TimeoutError, asyncio.TimeoutError) as error:  # two classes before Python 3.11
        raise CallError(f"expected the Dask scheduler to have workers, but none answered in {WORKER_TIMEOUT_SECONDS} "
                        "s: start some with dask worker") from error


def _follow(parent):
    """In a new worker: end with process `parent`, which joblib's workers else outlive by minutes when it is killed."""
    global _whole
    _whole = threading.Lock()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent):
    while os.getppid() == parent:
        time.sleep(0.2)
    _whole.acquire()  # never released: no other work begins
    os._exit(1)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Do something whole in a worker, which ends only after it when its parent is gone.

    Else it would leave something half done behind, in the folders of the next run.
    """
    with _whole or contextlib.nullcontext():
        yield
