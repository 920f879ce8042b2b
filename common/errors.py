"""Errors that end a run with one sentence instead of a traceback, and the guard for one bad file of many."""

import contextlib
import errno
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

# Errors that libraries raise for damaged data, besides their own types. Catch these only around calls of libraries.
PARSER_ERRORS = (ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError,
                 RuntimeError, TypeError, ValueError, struct.error, zlib.error)
# Errors of the system, not of the file that is read: a full disk, too many open files.
_SYSTEM_ERRORS = {errno.ENOSPC, errno.EMFILE, errno.ENFILE, getattr(errno, "EDQUOT", errno.ENOSPC)}


def printable(text: str) -> str:
    """Escape the bytes of file names that are not UTF-8, which no output can encode."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class UserError(Exception):
    """A run that cannot succeed with its inputs (exit code 1).

    The message is one sentence: what was expected, what came and what to do.
    """

    exit_code = 1

    def __str__(self):
        return printable(super().__str__())

    def _render_traceback_(self):
        # IPython shows this in place of a traceback.
        return [f"{type(self).__name__}: {self}"]


class CallError(UserError):
    """A call with wrong arguments, found before any work was done (exit code 2)."""

    exit_code = 2


class AudioError(UserError):
    """An audio file that cannot be read or written."""


class UnusableError(UserError):
    """One file of many that cannot be used. The run leaves it out, counts it and names it."""


@contextlib.contextmanager
def one_of_many(path: str | Path) -> Iterator[None]:
    """Turn any exception inside the `with` block into an UnusableError of the file, except errors of the system.

    One file must never end a batch, and decoders raise exceptions of any type: even MemoryError, when a damaged header
    claims an absurd size.
    """
    try:
        yield
    except UserError as error:
        raise UnusableError(str(error)) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _SYSTEM_ERRORS:
            raise
        raise UnusableError(f"expected an audio file that can be used, but {path} cannot ({type(error).__name__}: "
                            f"{error}): replace or remove it") from error
