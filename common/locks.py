"""Locks that keep a folder for one run: two runs in one folder would delete each other's unfinished files."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import CallError

LOCK = ".lock"


@contextmanager
def locked(*folders: str | Path) -> Iterator[None]:
    """Make folders and keep other runs out of them.

    A killed run leaves the file LOCK in its folder, but no lock. Raises CallError if another run has a folder.
    """
    with ExitStack() as locks:
        for folder in map(Path, folders):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / LOCK)
            try:
                lock.acquire(blocking=False)
            except Timeout as error:
                raise CallError(f"expected {folder} for this run alone, but another run is writing there: wait until "
                                "it has ended, stop it, or choose another folder") from error
            locks.callback(_release, lock)
        yield


def _release(lock):
    # Remove the file first: after the release it may be the lock of another run. Windows removes no open file.
    with suppress(OSError):
        Path(lock.lock_file).unlink()
    lock.release()
