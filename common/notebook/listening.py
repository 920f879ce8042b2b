"""Listening in a notebook: versions of one song at one position and one gain, in a page that the notebook keeps.

The page needs no kernel, no widget and no network. It decodes only the blocks around its position, since ten minutes
of three decoded versions are 700 MB.
"""

import base64
import functools
import html
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure

from common.audio.encoders import OPUS_RATE, encode_opus
from common.audio.reading import resample
from common.audio.signals import MIN_SIGNAL_RMS
from common.notebook.plots import COLOURS, OTHER_COLOUR, envelope

PLAYER = Path(__file__).with_name("player.html")
# A block is decoded alone. Its margins on both sides let blocks fade into each other; Opus settles in them.
BLOCK_SECONDS, MARGIN_SECONDS = 10, 0.05
# The size of all sounds in a page, and the bits per second of stereo that result from it.
PAGE_BYTES, MIN_BIT_RATE, MAX_BIT_RATE = 18_000_000, 48_000, 256_000
# The largest sample in a page. Compression may add some per cent to it.
TOP = 0.9
ENVELOPE_POINTS = 800


def _bit_rate(channels, seconds):
    """Choose the bits per second of one version from the length of all versions together."""
    fitting = PAGE_BYTES * 6 / seconds  # base64 holds 6 bits in a byte
    return int(np.clip(fitting, MIN_BIT_RATE, MAX_BIT_RATE) * channels / 2)


def _blocks(audio, bit_rate):
    """Encode (channels, samples) at OPUS_RATE in blocks with margins; return them as text."""
    block, margin = BLOCK_SECONDS * OPUS_RATE, round(MARGIN_SECONDS * OPUS_RATE)
    padded = np.pad(audio, ((0, 0), (margin, margin)))
    parts = [padded[:, start : start + block + 2 * margin] for start in range(0, audio.shape[1], block)]
    with ThreadPoolExecutor() as threads:
        encoded = threads.map(functools.partial(encode_opus, bit_rate=bit_rate), parts)
        return [base64.b64encode(data).decode() for data in encoded]


def _matched_gains(levels, peaks):
    """Return the gains that bring all RMS levels to the first one, lowered together where a peak would exceed TOP.

    A silent version keeps its level, and so do all if the first one is silent.
    """
    gains = np.where(np.minimum(levels, levels[0]) > MIN_SIGNAL_RMS, levels[0] / np.maximum(levels, MIN_SIGNAL_RMS), 1)
    return gains / max(1, (gains * peaks).max() / TOP)


def player_html(versions: dict[str, np.ndarray], sample_rate: int) -> str:
    """Make a self-contained page that plays versions of one song, (channels, samples) or (samples,) each.

    The sounds are Opus of 256 kbit/s, or less where all versions last longer than 7 minutes together, so that ten
    minutes of three versions stay below 20 MB; 48 kbit/s is the least. One gain for all keeps the loudest sample below
    TOP. More than two channels are mixed to one. A shorter version ends in silence.
    """
    sounds = {name: np.atleast_2d(audio) for name, audio in versions.items()}
    sounds = {name: x if len(x) <= 2 else x.mean(axis=0, keepdims=True) for name, x in sounds.items()}
    n_samples = max(x.shape[1] for x in sounds.values())
    peaks = np.array([np.abs(x).max(initial=0) for x in sounds.values()])
    gain = 1 / max(1, float(peaks.max()) / TOP)
    levels = gain * np.array([np.linalg.norm(x) / np.sqrt(max(1, x.size)) for x in sounds.values()])
    matched = _matched_gains(levels, gain * peaks)
    seconds = n_samples / sample_rate
    made = []
    for (name, x), level, matched_gain in zip(sounds.items(), levels, matched, strict=True):
        x = gain * np.pad(x, ((0, 0), (0, n_samples - x.shape[1]))).astype(np.float32, copy=False)
        made.append({
            "name": name, "colour": COLOURS.get(name, OTHER_COLOUR), "matchedGain": matched_gain,
            "levelDb": 20 * np.log10(level / levels[0]) if min(level, levels[0]) > MIN_SIGNAL_RMS else None,
            "envelope": [side.astype(float).round(4).tolist() for side in envelope(x.mean(axis=0), ENVELOPE_POINTS)],
            "blocks": _blocks(resample(x, sample_rate, OPUS_RATE), _bit_rate(len(x), seconds * len(sounds)))})
    song = {"seconds": seconds, "blockSeconds": BLOCK_SECONDS, "marginSeconds": MARGIN_SECONDS, "sampleRate": OPUS_RATE,
            "versions": made}
    return PLAYER.read_text(encoding="utf-8").replace("SONG", json.dumps(song).replace("<", r"\u003c"))


def listening_panel(versions: dict[str, np.ndarray], sample_rate: int, title: str = "",
                    picture: Figure | None = None) -> HTML:
    """Make a player for versions of one song, see player_html, below an optional title and picture.

    The versions keep their relative levels; `IPython.display.Audio` would normalise each, which hides the effect of a
    denoiser. The picture is closed, so that the notebook does not show it a second time.
    """
    parts = [f"<h4>{html.escape(title)}</h4>"] if title else []
    if picture is not None:
        png = io.BytesIO()
        picture.savefig(png, format="png", dpi=100)
        plt.close(picture)
        parts.append(f'<img alt="{html.escape(title)}" style="max-width: 100%" '
                     f'src="data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}">')
    # Notebooks run scripts only in a frame. JupyterLab shows the text in place of it in a notebook that is not trusted.
    parts.append(f'<iframe title="player: {html.escape(title or ", ".join(versions))}" allow="autoplay" width="100%" '
                 f'height="240" style="border: 0" srcdoc="{html.escape(player_html(versions, sample_rate))}">'
                 "To see the player, choose Trust Notebook in the command palette.</iframe>")
    return HTML(f'<div style="max-width: 1100px">{"".join(parts)}</div>')
