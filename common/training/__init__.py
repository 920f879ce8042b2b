"""Noise2Noise training: batches, losses, the loop, and what makes trained weights fit to publish.

`loop` trains, with batches from `pair_batches` or `mixtures`; `python -m common.training` does everything from a shell.
"""
