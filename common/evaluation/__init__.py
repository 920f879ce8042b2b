"""Quality of estimates: metrics, baselines, scores with intervals, and the frozen test set."""
