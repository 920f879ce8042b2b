"""Listening in a notebook: several versions of one excerpt, at one gain."""

import ipywidgets
import numpy as np
from IPython.display import Audio, display

# Longer excerpts make a notebook heavy: they are embedded in it.
EXCERPT_SECONDS = 10.0


def excerpts(versions: dict[str, np.ndarray], sample_rate: int, start_seconds: float,
             seconds: float = EXCERPT_SECONDS) -> dict[str, np.ndarray]:
    """The same stretch of every version, (channels, samples), all scaled by one gain so that none clips."""
    start = int(start_seconds * sample_rate)
    cut = {name: np.atleast_2d(x)[:2, start : start + int(seconds * sample_rate)] for name, x in versions.items()}
    peak = max(float(np.abs(x).max()) for x in versions.values())
    return {name: x / max(peak, 1.0) for name, x in cut.items()}


def listening_panel(versions: dict[str, np.ndarray], sample_rate: int) -> ipywidgets.Widget:
    """A panel that plays one of several versions, (channels, samples), of the same audio.

    The slider chooses where the excerpt starts; all versions keep their levels relative to each other
    (`IPython.display.Audio` would else bring each to full scale, which hides what a denoiser did).
    """
    length = max(np.atleast_2d(x).shape[-1] for x in versions.values()) / sample_rate
    which = ipywidgets.ToggleButtons(options=list(versions), description="version")
    start = ipywidgets.FloatSlider(0, min=0, max=max(0.0, length - EXCERPT_SECONDS), step=1, description="start (s)",
                                   continuous_update=False)
    player = ipywidgets.Output()

    def play(_=None):
        audio = excerpts(versions, sample_rate, start.value)[which.value]
        player.clear_output(wait=True)
        with player:
            display(Audio(audio, rate=sample_rate, normalize=False))

    which.observe(play, "value")
    start.observe(play, "value")
    play()
    return ipywidgets.VBox([which, start, player])
