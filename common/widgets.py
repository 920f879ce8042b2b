"""Listening in a notebook: several versions of one excerpt, at one gain."""

import io

import ipywidgets
import numpy as np
import soundfile as sf

from common.audio import to_pcm

# Longer excerpts make a notebook heavy: they are embedded in it.
EXCERPT_SECONDS = 10.0


def excerpts(versions: dict[str, np.ndarray], sample_rate: int, start_seconds: float,
             seconds: float = EXCERPT_SECONDS) -> dict[str, np.ndarray]:
    """The same stretch of every version, (channels, samples), all scaled by one gain so that none clips."""
    start = int(start_seconds * sample_rate)
    cut = {name: np.atleast_2d(x)[:2, start : start + int(seconds * sample_rate)] for name, x in versions.items()}
    peak = max(float(np.abs(x).max()) for x in versions.values())
    return {name: x / max(peak, 1.0) for name, x in cut.items()}


def wav_bytes(audio: np.ndarray, sample_rate: int) -> bytes:
    """A 16-bit WAV file in memory of (channels, samples), at the level that it has."""
    buffer = io.BytesIO()
    sf.write(buffer, to_pcm(audio, 16)[0].T, sample_rate, "PCM_16", format="WAV")
    return buffer.getvalue()


def listening_panel(versions: dict[str, np.ndarray], sample_rate: int) -> ipywidgets.Widget:
    """A panel that plays one of several versions, (channels, samples), of the same audio.

    The slider chooses where the excerpt starts; all versions keep their levels relative to each other
    (`IPython.display.Audio` would else bring each to full scale, which hides what a denoiser did).
    """
    length = max(np.atleast_2d(x).shape[-1] for x in versions.values()) / sample_rate
    which = ipywidgets.ToggleButtons(options=list(versions), description="version")
    start = ipywidgets.FloatSlider(0, min=0, max=max(0.0, length - EXCERPT_SECONDS), step=1, description="start (s)",
                                   continuous_update=False)
    player = ipywidgets.Audio(format="wav", autoplay=False, loop=False)

    def play(_=None):
        player.value = wav_bytes(excerpts(versions, sample_rate, start.value)[which.value], sample_rate)

    which.observe(play, "value")
    start.observe(play, "value")
    play()
    return ipywidgets.VBox([which, start, player])
