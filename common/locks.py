"""Folders for one run alone: two that write into one would delete each other's unfinished files."""

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import CallError

LOCK = ".lock"


@contextlib.contextmanager
def locked(*folders: str | Path) -> Iterator[None]:
    """Keep other runs out of folders, which are made; a run that is killed lets go of them.

    The lock is a file LOCK in the folder, which a killed run leaves and which then means nothing. Raises CallError when
    another run has a folder.
    """
    with ExitStack() as stack:
        for folder in map(Path, folders):
            stack.enter_context(_locked(folder))
        yield


@contextlib.contextmanager
def _locked(folder):
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise CallError(f"expected {folder} for this run alone, but another run is writing there: wait until it has "
                        "ended, stop it, or choose another folder") from error
    try:
        yield
    finally:
        # Before the release, since afterwards the file may be the lock of another run. Windows removes no open file.
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()
        lock.release()
