"""What every command line shares: one sentence for a user's mistake, and flags that are checked."""

import argparse
import io
import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import field, fields

from common.errors import CallError, UserError


def run(main: Callable[[], None]) -> None:
    """Run a script's main function; a UserError becomes one line on stderr and the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that the terminal cannot show
    try:
        main()
    except UserError as error:
        sys.exit(_fail(str(error), error.exit_code))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted; finished files are complete, and the same command continues", 130))
    except MemoryError:
        sys.exit(_fail("expected enough memory, but it ran out: close other programs, or give fewer files at once", 1))
    except OSError as error:
        sys.exit(_fail(f"expected to read and write freely, but the system refused ({error}): check space and "
                       "permissions", 1))


def _fail(message, code):
    print(f"error: {message}", file=sys.stderr)
    return code


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of descriptions and examples, and appends defaults to the help texts."""

    def _get_help_string(self, action):
        hidden = action.default is None or isinstance(action.default, bool | list)
        return action.help if hidden else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """The parser of all commands. It refuses abbreviated flags: a new flag must not change the meaning of a script."""

    def __init__(self, description: str | None = None, **kwargs):
        super().__init__(description=description, allow_abbrev=False, formatter_class=_Help, **kwargs)


def setting(default, text: str, **flag):
    """Make a dataclass field with its help text. flag: further arguments of add_argument, such as metavar."""
    return field(default=default, metadata={"help": text, **flag})


def add_settings(parser: argparse.ArgumentParser, settings_class: type, leave_out: Iterable[str] = (),
                 default: str | None = None) -> None:
    """Add a flag for every setting() of a dataclass. Flags that are not given are absent from the parsed values.

    default: what the help says of all defaults, in place of those of the dataclass.
    """
    for item in fields(settings_class):
        if item.name in leave_out:
            continue
        options = dict(item.metadata)
        if isinstance(item.default, bool):
            options["action"] = "store_true"
        elif "tuple" in str(item.type):
            shown = " ".join(f"{value:g}" for value in item.default or ())
            options = {"type": float, "nargs": 2, "metavar": ("LOW", "HIGH")} | options
            options["help"] += f" (default: {default or shown})" if default or shown else ""
        else:
            options = {"type": float if item.default is None else type(item.default)} | options
            options["help"] += "" if item.default is None else f" (default: {default or item.default})"
        parser.add_argument(f"--{item.name.replace('_', '-')}", default=argparse.SUPPRESS, **options)


def given(args: argparse.Namespace, settings_class: type) -> dict:
    """Return the settings of a dataclass that the command line sets, with tuples for lists."""
    values = {item.name: getattr(args, item.name) for item in fields(settings_class) if hasattr(args, item.name)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def check_range(name: str, given: tuple[float, float], least: float, most: float) -> None:
    """Raise CallError unless a range (low, high) lies within `least` and `most`; NaN lies nowhere."""
    low, high = given
    if not least <= low <= high <= most:
        raise CallError(f"expected {name} LOW HIGH with {least:g} <= LOW <= HIGH <= {most:g}, got {low:g} {high:g}: "
                        "correct the range")


def natural(text: str) -> int:
    """Read a whole number of at least 0. argparse shows this function's name for text that is no number."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {value}: raise it")
    return value


def count(text: str) -> int:
    """Read a whole number of at least 1. argparse shows this function's name for text that is no number."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a count of at least 1, got {value}: leave the flag out or raise it")
    return value
