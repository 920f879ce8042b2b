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

# Longer excerpts make a notebook heavy: they are embedded in it.
EXCERPT_SECONDS = 10.0
PLAYER = Path(__file__).with_name("player.html")


def excerpts(versions: dict[str, np.ndarray], sample_rate: int, start_seconds: float,
             seconds: float = EXCERPT_SECONDS) -> dict[str, np.ndarray]:
    """The same stretch of every version, (channels, samples), all scaled by one gain so that none clips."""
    start = int(start_seconds * sample_rate)
    cut = {name: np.atleast_2d(x)[:2, start : start + int(seconds * sample_rate)] for name, x in versions.items()}
    peak = max(float(np.abs(x).max()) for x in versions.values())
    return {name: x / max(peak, 1.0) for name, x in cut.items()}


def flac_bytes(audio: np.ndarray, sample_rate: int) -> bytes:
    """A 16-bit FLAC file in memory of (channels, samples), at the level that it has."""
    buffer = io.BytesIO()
    sf.write(buffer, to_pcm(audio, 16)[0].T, sample_rate, "PCM_16", format="FLAC")
    return buffer.getvalue()


def player_html(versions: dict[str, np.ndarray], sample_rate: int) -> str:
    """A page that plays versions of one excerpt, (channels, samples) each, and needs nothing else.

    All versions run at once and one is heard, so that a switch keeps the position; none is normalised.
    """
    sounds = [{"name": name, "flac": base64.b64encode(flac_bytes(np.atleast_2d(x), sample_rate)).decode()}
              for name, x in versions.items()]
    return PLAYER.read_text(encoding="utf-8").replace("SOUNDS", json.dumps(sounds))


def listening_panel(versions: dict[str, np.ndarray], sample_rate: int) -> ipywidgets.Widget:
    """A player for an excerpt of several versions, (channels, samples), of the same audio.

    The slider chooses where the excerpt starts; all versions keep their levels relative to each other
    (`IPython.display.Audio` would else bring each to full scale, which hides what a denoiser did).
    """
    length = max(np.atleast_2d(x).shape[-1] for x in versions.values()) / sample_rate
    start = ipywidgets.FloatSlider(0, min=0, max=max(0.0, length - EXCERPT_SECONDS), step=1, description="start (s)",
                                   continuous_update=False)
    player = ipywidgets.HTML()

    def show(_=None):
        page = player_html(excerpts(versions, sample_rate, start.value), sample_rate)
        # A frame of its own: a notebook runs no script of a widget's text.
        player.value = (f'<iframe srcdoc="{html.escape(page)}" width="800" height="190" frameborder="0" '
                        'allow="autoplay"></iframe>')

    start.observe(show, "value")
    show()
    return ipywidgets.VBox([start, player])
