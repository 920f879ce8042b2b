"""How good an estimate is: metrics, baselines, scores with intervals, the frozen test set.

`scores` evaluates models, `python -m common.evaluation` builds the test set. Nothing here depends on training.
"""
