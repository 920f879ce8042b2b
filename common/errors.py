"""The two kinds of mistake that end a run with one sentence instead of a traceback."""


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
