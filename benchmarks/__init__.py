"""Measurements: each module is a command that prints what it measured."""

import common  # noqa: F401  its sentence for a missing package
