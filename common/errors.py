"""The mistakes that end a run with one sentence instead of a traceback, and one file of many, which must not end it."""

import contextlib
import errno
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

# What libraries raise when they parse damaged data, beside errors of their own. Caught around their calls alone.
PARSER_ERRORS = (ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError,
                 RuntimeError, TypeError, ValueError, struct.error, zlib.error)
# No fault of the file that was being read: no room, too many open files.
_OF_THE_SYSTEM = {errno.ENOSPC, errno.EMFILE, errno.ENFILE, getattr(errno, "EDQUOT", errno.ENOSPC)}


def printable(text: str) -> str:
    """Text as it is, but for what no output can encode: file names that are not UTF-8 show their odd bytes escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class UserError(Exception):
    """A run that cannot succeed with what it was given (exit code 1).

    The message is one sentence: what was expected, what came and what to do.
    """

    exit_code = 1

    def __str__(self):
        return printable(super().__str__())

    def _render_traceback_(self):
        # IPython asks an exception for this in place of a traceback.
        return [f"{type(self).__name__}: {self}"]


class CallError(UserError):
    """A call whose arguments are wrong, found before any work was done (exit code 2)."""

    exit_code = 2


class UnusableError(UserError):
    """One file among others that cannot be used: to be left out, counted and named."""


@contextlib.contextmanager
def one_of_many(path: str | Path) -> Iterator[None]:
    """Use one file among others: any exception while it is used becomes an UnusableError.

    Decoders raise any exception, a MemoryError too where a damaged file claims an absurd size, and one file must never
    end a batch. A full disk is no fault of the file and passes.
    """
    try:
        yield
    except UserError as error:
        raise UnusableError(str(error)) from error
    except Exception as error:  # of any kind: the next file may be fine
        if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
            raise
        raise UnusableError(f"expected an audio file that can be used, but {path} cannot ({type(error).__name__}: "
                            f"{error}): replace or remove it") from error
