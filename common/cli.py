"""What every command line shares: one sentence for a user's mistake, and flags that are checked."""

import argparse
import logging
import sys
from collections.abc import Callable

from common.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Run a script's main function; a UserError becomes one line on stderr and the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show
    try:
        main()
    except UserError as error:
        sys.exit(_fail(str(error), error.exit_code))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted; what is finished is whole, the same command goes on from there", 130))
    except MemoryError:
        sys.exit(_fail("expected enough memory, but it ran out: close other programs, or give less at once", 1))
    except OSError as error:
        sys.exit(_fail(f"expected to read and write freely, but the system refused ({error}): check space and "
                       "permissions", 1))


def _fail(message, code):
    print(f"error: {message}", file=sys.stderr)
    return code


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says defaults where there are any."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Abbreviated flags are refused, so that a later flag cannot change what a script means."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=_Help, **kwargs)


def count(text: str) -> int:
    """A flag's whole number of at least 1; argparse names this function when it is not a number."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a count of at least 1, got {value}: leave the flag out or raise it")
    return value
