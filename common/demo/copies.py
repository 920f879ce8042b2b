"""Two noisy copies of one generated performance, and the distortions that make a second copy of any song."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from scipy.ndimage import map_coordinates

from common.audio.writing import write_audio
from common.demo import synth
from common.demo.synth import SAMPLE_RATE
from common.seeds import stream

OVERSAMPLING = 4


@dataclass(frozen=True)
class Distortion:
    """What a second copy does to a song: what happens at t in the song happens at t + delay(t) in the copy.

    drift_ppm: change of the speed over a minute. tilt_db: gain at 16 kHz against 1 kHz, and loss at 62 Hz.
    """

    delay_seconds: float = 0.0
    speed_ppm: float = 0.0
    drift_ppm: float = 0.0
    tilt_db: float = 0.0
    gain_db: float = 0.0

    def delay(self, seconds: np.ndarray) -> np.ndarray:
        """The delay in seconds at times in the song."""
        return self.delay_seconds + 1e-6 * (self.speed_ppm * seconds + self.drift_ppm / 120 * np.square(seconds))

    def __call__(self, song: np.ndarray) -> np.ndarray:
        """Distort (channels, samples) at SAMPLE_RATE; float64."""
        times = np.arange(int(song.shape[1] + SAMPLE_RATE * max(0, self.delay_seconds))) / SAMPLE_RATE
        there = times - self.delay_seconds
        for _ in range(6):  # times in the song of the copy's samples: a fixed point, for the delay changes slowly
            there = times - self.delay(there)
        spectrum = np.fft.rfft(song.astype(np.float64))
        octaves = np.log2(np.maximum(np.fft.rfftfreq(song.shape[1], 1 / SAMPLE_RATE), 20) / 1000)
        tilted = np.fft.irfft(spectrum * 10 ** (self.tilt_db * np.clip(octaves, -4, 4) / 80), song.shape[1])
        fine = soxr.resample(tilted.T, SAMPLE_RATE, OVERSAMPLING * SAMPLE_RATE).T
        at = there * SAMPLE_RATE * OVERSAMPLING
        return 10 ** (self.gain_db / 20) * np.stack([map_coordinates(channel, [at], order=5) for channel in fine])


def with_noise(song: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add a noise (channels, samples), repeated or cut to the song's length, at an SNR in dB."""
    noise = np.resize(noise.astype(np.float64), song.shape)
    return song + noise * np.sqrt(np.square(song).mean() / np.square(noise).mean() / 10 ** (snr_db / 10))


def make_copies(folder: str | Path, seconds: float = 50.0) -> tuple[Path, Path]:
    """Write two copies of a generated song, with noises like those of air conditioners; files that are there stay."""
    files = tuple(Path(folder) / f"tape_{side}.flac" for side in "ab")
    song = sum(synth.song(11, seconds).values()).mean(0, keepdims=True)
    for seed, file in enumerate(files):
        if not file.is_file():
            copy = Distortion(1.5, 300, 100, -3, -4)(song) if seed else song
            noise = np.concatenate([synth.noise(0, 40 + seed, 30.0), synth.noise(0, 50 + seed, 30.0)], axis=1)
            noise = noise + 0.05 * stream(seed, "hiss").standard_normal(noise.shape)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_audio(file, (0.5 * with_noise(copy, noise, 8.0)).astype(np.float32), SAMPLE_RATE, "PCM_16")
    return files
