"""What a song looks like: its waveform and spectrogram, of the whole or of a stretch of it."""

import io
from pathlib import Path

import numpy as np
from matplotlib.image import imsave

from common.audio.reading import AudioReader
from common.errors import AudioError
from common.notebook.plots import RANGE_DB, envelope, spectrogram_db

# Number of rows of a spectrogram's picture; each shows the loudest of several frequency bins.
ROWS = 256


class Overview:
    """Pictures of the mean of a song's channels, which waits in a file, so that the length of the song does not matter.

    Attributes: `sample_rate` in Hz, `channels`, `seconds`. Raises AudioError for a song that is empty or cannot be
    decoded, CallError if there is no such file.
    """

    def __init__(self, path: str | Path, folder: str | Path):
        waiting = Path(folder, "mono")
        with AudioReader(path) as reader, open(waiting, "wb") as file:
            for block in reader.blocks(reader.sample_rate):
                file.write(block.mean(axis=0).data)
        self.sample_rate, self.channels, self.seconds = reader.sample_rate, reader.channels, reader.seconds
        if not waiting.stat().st_size:
            raise AudioError(f"expected audio, but {path} holds no samples: replace or remove it")
        self._mono = np.memmap(waiting, np.float32, "r")
        self._top_db = spectrogram_db(self._mono).max()

    def stretch(self, start: float, end: float) -> np.ndarray:
        """The mean of the channels from `start` to `end` in seconds, (samples,), at least one sample."""
        first = min(round(start * self.sample_rate), len(self._mono) - 1)
        return self._mono[first : max(round(end * self.sample_rate), first + 1)]

    def view(self, start: float, end: float) -> tuple[np.ndarray, np.ndarray, bytes]:
        """Show the stretch from `start` to `end` in seconds.

        Returns the lowest and the highest samples, see plots.envelope, and the spectrogram as a PNG with low
        frequencies below. Its colours mean the same level in every stretch of the song.
        """
        mono = self.stretch(start, end)
        levels_db = spectrogram_db(mono)[1:]  # the number of bins is then a power of two
        picture = io.BytesIO()
        imsave(picture, levels_db.reshape(ROWS, -1, levels_db.shape[-1]).max(axis=1), origin="lower", cmap="magma",
               vmin=self._top_db - RANGE_DB, vmax=self._top_db, format="png")
        return *envelope(mono), picture.getvalue()
