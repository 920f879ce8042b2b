"""Random filters of training: low-pass filters as of lossy codecs, and equalisers that make more songs of a few.

They multiply the spectrum of a crop, which they take as one period of a sound: they have no delay.
"""

import math
from dataclasses import astuple, dataclass

import numpy as np
import torch

from common.network.stft import SAMPLE_RATE

# Ranges of the low-pass filters, as lossy codecs and sample rate converters have them: the width of the transition band
# as a share of the highest frequency, and the gain above it in dB.
TRANSITION, STOP_BAND_DB = (0.005, 0.1), (-120.0, -60.0)
# An equaliser's lowest band and the number of its bands, an octave apart: the highest is at 16 kHz.
LOWEST_BAND_HZ, BANDS = 31.25, 10
# Largest standard deviation of an equaliser's gains: beyond it hardly more than one band of a song is left.
MOST_EQUALISER_DB = 20


@dataclass(frozen=True)
class LowPass:
    """The gain falls from 1 to `floor` over the last `width_hz` below `end_hz`."""

    end_hz: float
    width_hz: float
    floor: float


@dataclass(frozen=True)
class Equaliser:
    """Gains in dB at LOWEST_BAND_HZ and at each octave above it, and between them along half a cosine."""

    gains_db: tuple[float, ...]


def draw_low_pass(rng: np.random.Generator, end_hz: tuple[float, float]) -> LowPass:
    """Draw a low-pass filter that ends in a range of frequencies."""
    end_hz = rng.uniform(*end_hz)
    return LowPass(end_hz, end_hz * rng.uniform(*TRANSITION), 10 ** (rng.uniform(*STOP_BAND_DB) / 20))


def draw_equaliser(rng: np.random.Generator, deviation_db: float) -> Equaliser:
    """Draw the gain of each band from a normal distribution with this standard deviation."""
    return Equaliser(tuple(rng.normal(0, deviation_db, BANDS)))


def low_passed(audio: torch.Tensor, filters: list[LowPass | None]) -> torch.Tensor:
    """Filter the rows of (rows, samples) in place, each with its filter or None, and return them."""
    return _filtered(audio, filters, _low_pass_gain)


def equalised(audio: torch.Tensor, equalisers: list[Equaliser | None]) -> torch.Tensor:
    """Filter the rows of (rows, samples) in place, each with its equaliser or None, and return them.

    A row keeps its level.
    """
    if not any(equalisers):
        return audio
    before = audio.square().mean(-1, keepdim=True)
    return at_power(_filtered(audio, equalisers, _equaliser_gain), before)


def at_power(audio: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """Scale the rows of (rows, samples), in place, to a mean power (rows, 1); silence stays silent."""
    now = audio.square().mean(-1, keepdim=True)
    return audio.mul_(torch.where(now > 0, (power / now).sqrt(), 1))


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move drawn numbers to the device without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _filtered(audio, filters, gain):
    """gain: a function of the settings of the filters, (filters, settings), and of frequencies in Hz."""
    rows = [i for i, found in enumerate(filters) if found]
    if rows:
        n_samples, device = audio.shape[1], audio.device
        settings = torch.from_numpy(np.array([np.hstack(astuple(filters[i])) for i in rows], np.float32))
        frequency = torch.fft.rfftfreq(n_samples, 1 / SAMPLE_RATE, device=device)
        where = to_device(torch.tensor(rows), device)
        spectrum = torch.fft.rfft(audio[where]) * gain(to_device(settings, device), frequency)
        audio.index_copy_(0, where, torch.fft.irfft(spectrum, n_samples))
    return audio


def _low_pass_gain(settings, frequency):
    end_hz, width_hz, floor = settings.T[..., None]
    kept = ((end_hz - frequency) / width_hz).clamp_(0, 1)
    return floor + (1 - floor) * (0.5 - 0.5 * torch.cos(math.pi * kept))


def _equaliser_gain(gains_db, frequency):
    octave = (frequency / LOWEST_BAND_HZ).log2().clamp(0, BANDS - 1)
    band = octave.long().clamp(max=BANDS - 2)
    share = 0.5 - 0.5 * torch.cos(math.pi * (octave - band))
    return 10 ** (torch.lerp(gains_db[:, band], gains_db[:, band + 1], share) / 20)
