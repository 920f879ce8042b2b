"""Worker processes: on this machine, or those of a Dask cluster."""

import asyncio
import contextlib
import os
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path

import joblib

from common.errors import CallError, UserError

WORKER_TIMEOUT_SECONDS = 60
# A lock in each worker process of this machine, see uninterrupted(); None in all other processes.
_unfinished_work = None


@contextlib.contextmanager
def worker_processes(jobs: int = -1, scheduler: str | None = None) -> Iterator[joblib.Parallel]:
    """Yield a joblib.Parallel that returns the results one by one, in the order of the tasks.

    jobs: number of processes on this machine, -1 for one per core. scheduler: address of a Dask scheduler whose
    workers are used instead. Raises CallError for no jobs and when no scheduler answers, UserError when a worker is
    killed.
    """
    if jobs == 0:
        raise CallError("expected --jobs other than 0: give a number of processes, or -1 for all cores")
    if not scheduler:
        # joblib replaces a worker whose memory has grown, and warns of it: that is as it should be.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given to the executor")
        try:
            # joblib keeps its workers for the next call, unless these arguments are others.
            yield joblib.Parallel(jobs, return_as="generator", initializer=_begin, initargs=(os.getpid(), os.getcwd()))
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
                yield joblib.Parallel(n_jobs=-1, return_as="generator")
        except KilledWorker as error:
            raise UserError(f"expected the cluster's workers to live, but {error}: run the same command "
                            "again") from error


def _ship_code(client):
    """Send this package to the workers of a cluster, which have its dependencies but not the repository."""
    package = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        client.upload_file(shutil.make_archive(f"{folder}/{package.name}", "zip", package.parent, package.name))
    try:
        client.submit(os.getpid, pure=False).result(timeout=WORKER_TIMEOUT_SECONDS)
    except (TimeoutError, asyncio.TimeoutError) as error:  # two classes before Python 3.11
        raise CallError(f"expected the Dask scheduler to have workers, but none answered in {WORKER_TIMEOUT_SECONDS} "
                        "s: start some with dask worker") from error


def _begin(parent, folder):
    """Make a new worker process work in `folder` and end with process `parent`.

    Otherwise joblib's workers stay in the folder where the first of them began, and outlive their parent by minutes.
    """
    global _unfinished_work
    os.chdir(folder)
    _unfinished_work = threading.Lock()

    def wait():
        while os.getppid() == parent:
            time.sleep(0.2)
        _unfinished_work.acquire()  # never released, so that no further work begins
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def uninterrupted() -> contextlib.AbstractContextManager:
    """Return a context in which a worker process finishes its work even when its parent is killed.

    Without it the worker would leave half-written files in the output folders of the next run.
    """
    return _unfinished_work or contextlib.nullcontext()
