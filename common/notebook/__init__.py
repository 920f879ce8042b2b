"""What notebooks show and keep: figures, players, recorded values. Nothing here computes results."""
