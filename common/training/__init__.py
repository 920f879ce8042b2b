"""Noise2Noise training: batches, losses, the loop, and weights to publish.

`loop` trains with batches from `pair_batches` or `mixtures`; `python -m common.training` is its command line.
"""
