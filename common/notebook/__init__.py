"""Parts of notebooks: figures, players, recorded values, the page in the browser."""
