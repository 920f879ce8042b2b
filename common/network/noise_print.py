"""A noise print: a moment in which the noise is heard alone, and what it tells the network.

The mean power of the print in each bin gives a Wiener gain, max(0.1, 1 - N / |X|^2), which leaves of a spectrum X what
stands out of that noise. The spectrum with this gain is the network's second input. Without a print N is 0 and the
second input is the spectrum itself.

References: Lim and Oppenheim 1979 (Wiener filter).
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter

import numpy as np
import torch

from common.network.stft import STFT

# The least gain of a bin.
GAIN_FLOOR = 0.1
EPSILON = 1e-12
# A shorter print than this tells too little of a noise.
LEAST_PRINT_SECONDS = 0.25
# Length of the prints with which networks are validated and evaluated.
TEST_PRINT_SECONDS = 1.5


def print_power(noise_print: torch.Tensor, stft: STFT) -> torch.Tensor:
    """Mean power in each bin of prints (batch, samples) at the transform's rate, (batch, bins).

    A print needs at least n_fft samples. A silent one gives 0, which stands for no print.
    """
    return stft.frames(noise_print).abs().square().mean(-1)


def wiener_gain(spectrum: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """The gain of a spectrum (batch, bins, frames) by a print's power (batch, bins), (batch, bins, frames)."""
    return (1 - power.unsqueeze(-1) / (spectrum.abs().square() + EPSILON)).clamp(min=GAIN_FLOOR)


def frame_powers(blocks: Iterable[np.ndarray], stft: STFT, group: int = 1) -> Iterator[torch.Tensor]:
    """Power in each bin of all frames that lie wholly inside a stream of (channels, samples) blocks, in order.

    Yields (channels, bins, frames), frames in multiples of `group`; what is left at the end is left out.
    """
    held = None
    for block in blocks:
        held = block if held is None else np.concatenate([held, block], axis=-1)
        frames = (held.shape[-1] - stft.n_fft) // stft.hop_length + 1
        if (frames := frames - frames % group) > 0:
            whole = held[:, : stft.n_fft + (frames - 1) * stft.hop_length]
            yield stft.frames(torch.from_numpy(np.ascontiguousarray(whole, np.float32))).abs().square()
            held = held[:, frames * stft.hop_length :]


def streamed_power(pieces: Iterable[tuple[int, np.ndarray]], stft: STFT) -> np.ndarray:
    """print_power of a print that comes in pieces: (channels, bins) float64, None if no frame is filled.

    pieces: pairs of a number and of samples (channels, samples) at the transform's rate. Pieces of one number belong
    together and follow each other; no frame holds samples of two numbers.
    """
    total, n_frames = 0.0, 0
    for _, stretch in groupby(pieces, key=itemgetter(0)):
        for powers in frame_powers((samples for _, samples in stretch), stft):
            total, n_frames = total + powers.double().sum(-1), n_frames + powers.shape[-1]
    return (total / n_frames).numpy() if n_frames else None


def print_rms(power: np.ndarray, stft: STFT) -> np.ndarray:
    """RMS of the prints whose mean power in each bin this is, (channels, bins) -> (channels,)."""
    two_sided = 2 * power.sum(-1) - power[..., 0] - power[..., -1]
    return np.sqrt(two_sided / float(stft.window().square().sum()))
