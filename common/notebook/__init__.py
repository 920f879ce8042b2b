"""Parts of notebooks: figures, players, recorded values."""
