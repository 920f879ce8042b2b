"""What every command line shares: one sentence for a user's mistake, and flags that are checked."""

import argparse
import io
import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import field, fields

from common.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Run a script's main function; a UserError becomes one line on stderr and the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
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


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of descriptions and examples, and says defaults where there are any."""

    def _get_help_string(self, action):
        hidden = action.default is None or isinstance(action.default, bool | list)
        return action.help if hidden else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """The one kind of parser. Abbreviated flags are refused, so that a later flag cannot change what a script means."""

    def __init__(self, description: str | None = None, **kwargs):
        super().__init__(description=description, allow_abbrev=False, formatter_class=_Help, **kwargs)


def setting(default, text: str, **flag):
    """A dataclass field with its help text; `flag` holds further arguments of add_argument, as metavar."""
    return field(default=default, metadata={"help": text, **flag})


def add_settings(parser: argparse.ArgumentParser, settings_class: type, leave_out: Iterable[str] = ()) -> None:
    """Add a flag for every setting() of a dataclass. Flags that are not given are absent from the parsed values."""
    for item in fields(settings_class):
        if item.name in leave_out:
            continue
        options = dict(item.metadata)
        if isinstance(item.default, bool):
            options["action"] = "store_true"
        elif "tuple" in str(item.type):
            shown = " ".join(f"{value:g}" for value in item.default or ())
            options = {"type": float, "nargs": 2, "metavar": ("LOW", "HIGH")} | options
            options["help"] += f" (default: {shown})" if shown else ""
        else:
            options["type"] = float if item.default is None else type(item.default)
            options["help"] += "" if item.default is None else f" (default: {item.default})"
        parser.add_argument(f"--{item.name.replace('_', '-')}", default=argparse.SUPPRESS, **options)


def given(args: argparse.Namespace, settings_class: type) -> dict:
    """The settings of a dataclass that the command line sets, with tuples for lists."""
    values = {item.name: getattr(args, item.name) for item in fields(settings_class) if hasattr(args, item.name)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def count(text: str) -> int:
    """A flag's whole number of at least 1; argparse names this function when it is not a number."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a count of at least 1, got {value}: leave the flag out or raise it")
    return value
