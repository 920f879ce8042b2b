"""Listening in a notebook: several versions of one excerpt, at one gain and at one position."""

import base64
import html
import io
import json
from pathlib import Path

import ipywidgets
import numpy as np
import soundfile as sf

from common.audio.writing import to_pcm

# Length of an excerpt. Excerpts are embedded in the notebook and make it large.
EXCERPT_SECONDS = 10.0
PLAYER = Path(__file__).with_name("player.html")


def excerpts(versions: dict[str, np.ndarray], sample_rate: int, start_seconds: float,
             seconds: float = EXCERPT_SECONDS) -> dict[str, np.ndarray]:
    """Cut the same stretch from every version, (channels, samples), and scale all by one gain so that none clips."""
    start = int(start_seconds * sample_rate)
    cut = {name: np.atleast_2d(x)[:2, start : start + int(seconds * sample_rate)] for name, x in versions.items()}
    peak = max(float(np.abs(x).max()) for x in versions.values())
    return {name: x / max(peak, 1.0) for name, x in cut.items()}


def player_html(versions: dict[str, np.ndarray], sample_rate: int) -> str:
    """Make a self-contained page that plays versions of one excerpt, (channels, samples) each.

    All versions play at once and all but one are mute, so that a switch keeps the position. None is normalised.
    """
    sounds = []
    for name, audio in versions.items():
        flac = io.BytesIO()
        sf.write(flac, to_pcm(np.atleast_2d(audio), 16)[0].T, sample_rate, "PCM_16", format="FLAC")
        sounds.append({"name": name, "flac": base64.b64encode(flac.getvalue()).decode()})
    return PLAYER.read_text(encoding="utf-8").replace("SOUNDS", json.dumps(sounds))


def listening_panel(versions: dict[str, np.ndarray], sample_rate: int) -> ipywidgets.Widget:
    """Make a player for an excerpt of several versions, (channels, samples), of the same audio.

    A slider sets the start of the excerpt. The versions keep their relative levels; `IPython.display.Audio` would
    normalise each, which hides the effect of a denoiser.
    """
    length = max(np.atleast_2d(x).shape[-1] for x in versions.values()) / sample_rate
    start = ipywidgets.FloatSlider(0, min=0, max=max(0.0, length - EXCERPT_SECONDS), step=1, description="start (s)",
                                   continuous_update=False)
    player = ipywidgets.HTML()

    def show(_=None):
        page = player_html(excerpts(versions, sample_rate, start.value), sample_rate)
        # The page is in a frame, since notebooks do not run scripts in a widget's text.
        player.value = (f'<iframe srcdoc="{html.escape(page)}" width="800" height="190" frameborder="0" '
                        'allow="autoplay"></iframe>')

    start.observe(show, "value")
    show()
    return ipywidgets.VBox([start, player])
