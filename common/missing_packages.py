"""One sentence for a package that is not installed: the smallest installation has only what denoising needs.

Scripts import packages before any function of theirs runs, so that only the hook for uncaught exceptions sees all.
"""

import sys


def explain(kind: type[BaseException], error: BaseException, traceback) -> None:
    """Show an uncaught exception; in one line if it says that a package of others is not installed."""
    package = (getattr(error, "name", None) or "common").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package != "common":
        print(f"error: expected the package {package}, but it is not installed: pip install -r requirements.txt "
              "installs all", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)
