"""A synthetic corpus, and one run that shows everything on it: `python -m common.demo`."""
