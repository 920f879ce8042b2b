"""How exactly a second copy is aligned and matched, on couples with known distortions.

    python -m benchmarks.two_copies --path-songs DIR --path-noises DIR

A couple is a song with two noises. Copy B also has another delay, speed, drift of the speed, level, equalisation (a
tilt in dB over four octaves), polarity, number of channels or coding. What the alignment did to the noisy copy is then
done to B's clean song. `misaligned` is the RMS error of the delay curve in samples at 44.1 kHz, and `song/error` the
power of the song over that of its difference to what comes out. Both leave out the first and last two seconds.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soxr
from scipy.ndimage import map_coordinates

from common.audio.reading import AudioReader, list_audio, read_audio
from common.audio.writing import write_audio
from common.cli import Parser, run
from common.data import copy_matching
from common.data.two_copies import LEAST_AGREEMENT, Couple, align, aligned
from common.errors import UserError

RATE, EDGE_SECONDS, SECONDS = 44100, 2, 45


@dataclass(frozen=True)
class Case:
    """Copy B's distortions, and the SNR of both copies. drift: change of the speed over a minute."""

    snr_db: tuple[float, float] = (10, 10)
    delay_seconds: float = 0.0
    speed_ppm: float = 0.0
    drift_ppm: float = 0.0
    tilt_db: float = 0.0
    gain_db: float = 0.0
    white: bool = False
    inverted: bool = False
    mono: bool = False
    clipped: bool = False
    suffix: str = ".wav"

    def delay(self, seconds):
        return (self.delay_seconds + 1e-6 * self.speed_ppm * seconds
                + 0.5e-6 / 60 * self.drift_ppm * np.square(seconds))


CASES = (
    Case((25, 25), 0.01), Case((25, 25), 3, 1000, tilt_db=6), Case((20, 20), -3, -1000, gain_db=-12),
    Case((20, 3), 0.5, white=True), Case((15, 15), 10, 300, 200), Case((15, 15), -10, -300, -200, 6, -12),
    Case((15, 10), 2, 10, white=True, inverted=True), Case((15, 15), 1, 100, mono=True),
    Case((15, 15), 1, 100, clipped=True), Case((15, 15), 1, 100, suffix=".mp3"), Case((10, 10), 0.3, 700),
    Case((10, 10), -7, 50, 200), Case((10, 10), 5, -500, tilt_db=-6, gain_db=12),
    Case((10, 10), 12, 1000, 200, 6, -12), Case((10, 10), 1, 0, white=True, tilt_db=6),
    Case((10, 10), -15, -20, inverted=True), Case((10, 10), 4, 250, mono=True),
    Case((10, 10), 4, 250, suffix=".mp3"), Case((5, 5), 2, 400), Case((5, 10), -2, -100, 200, 6),
    Case((5, 5), 0, 30, white=True), Case((0, 10), 6, 600), Case((0, 5), -6, 0, -200), Case((0, 0), 1, 100, white=True),
    Case((10, 10), 30, 100), Case((10, 10), -25, -100))


def tilted(audio, tilt_db):
    """A song with `tilt_db` more at 8 kHz than at 1 kHz, and as much less at 125 Hz; even beyond four octaves."""
    spectrum = np.fft.rfft(audio)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(audio.shape[1], 1 / RATE), 20) / 1000)
    return np.fft.irfft(spectrum * 10 ** (tilt_db * np.clip(octaves, -4, 4) / 4 / 20), audio.shape[1])


def copy_b(song, case):
    """B's song without noise."""
    times = np.arange(int(song.shape[1] + RATE * max(0, case.delay_seconds))) / RATE
    in_a = times - case.delay_seconds
    for _ in range(6):
        in_a = times - case.delay(in_a)
    fine = soxr.resample(tilted(song, case.tilt_db).T, RATE, 4 * RATE).T
    song = np.stack([map_coordinates(channel, [in_a * 4 * RATE], order=5) for channel in fine])
    song = song.mean(0, keepdims=True) if case.mono else song
    return song * 10 ** (case.gain_db / 20) * (-1 if case.inverted else 1)


def with_noise(rng, song, snr_db, noises):
    """The song with white noise, or with a looped recording if there are any."""
    noise = rng.standard_normal(song.shape)
    if noises:
        clip = read_audio(noises[rng.integers(len(noises))], RATE)[0][0].astype(np.float64)
        noise = np.resize(clip - clip.mean(), song.shape[1])[None].repeat(len(song), 0)
    scale = np.sqrt(np.square(song).mean() / max(np.square(noise).mean(), 1e-12) / 10 ** (snr_db / 10))
    return song + scale * noise


def measure(case: Case, song: np.ndarray, rng: np.random.Generator, noises: list[Path], folder: Path) -> dict:
    """Build, align and judge one couple; the figures are NaN where it is refused."""
    clean = copy_b(song, case)
    noises = [] if case.white else noises
    a, b = with_noise(rng, song, case.snr_db[0], noises), with_noise(rng, clean, case.snr_db[1], noises)
    full_scale = 0.9 / max(np.abs(x).max() for x in (a, b))
    paths = folder / "a.wav", folder / f"b{case.suffix}"
    write_audio(paths[0], (full_scale * a).astype(np.float32), RATE, "FLOAT")
    b = np.clip(b, *np.quantile(b, [0.005, 0.995])) if case.clipped else b
    write_audio(paths[1], (full_scale * b).astype(np.float32), RATE, None if case.suffix == ".mp3" else "FLOAT")
    try:
        couple = align(*paths)
    except UserError:
        return {"misaligned": np.nan, "song/error (dB)": np.nan}
    couple.taps = copy_matching.matching_filter(couple.statistics.of(couple.agreement >= LEAST_AGREEMENT))
    first, last = couple.span[0] + EDGE_SECONDS * RATE, couple.span[1] - EDGE_SECONDS * RATE
    times = np.linspace(first, last, 1000) / RATE
    off = couple.curve(times) - case.delay(times)
    write_audio(folder / "clean.wav", (full_scale * clean).astype(np.float32), RATE, "FLOAT")
    heard = Couple(paths[0], folder / "clean.wav", RATE, couple.channels, couple.curve, span=couple.span)
    heard = np.concatenate(list(copy_matching.filtered(aligned(heard), couple.taps)), axis=1)
    song = full_scale * (song if couple.channels == len(song) else song.mean(0, keepdims=True))
    song, heard = song[:, first:last], heard[:, first - couple.span[0] :][:, : last - first]
    if case.suffix == ".mp3":
        off = off - np.median(off)  # a codec's own delay is not the alignment's
        return {"misaligned": RATE * np.sqrt(np.mean(off**2)), "song/error (dB)": np.nan}
    return {"misaligned": RATE * np.sqrt(np.mean(off**2)),
            "song/error (dB)": 10 * np.log10(np.square(song).sum() / np.square(song - heard).sum())}


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--path-songs", required=True, help="folder of songs of at least 45 s")
    parser.add_argument("--path-noises", required=True, help="folder of noises")
    parser.add_argument("--cases", type=int, default=len(CASES), help="number of couples")
    args = parser.parse_args()
    songs = [path for path in list_audio(args.path_songs) if AudioReader(path).seconds >= SECONDS - 1]
    noises, rows = list_audio(args.path_noises), []
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES[: args.cases]):
            rng = np.random.default_rng(number)
            song = read_audio(songs[number % len(songs)], RATE, SECONDS)[0].astype(np.float64)
            if case.mono and len(song) == 1:
                song = np.concatenate([song, np.roll(0.5 * song, 400, axis=1)])
            shown = {name: value for name, value in vars(case).items()
                     if name == "snr_db" or value != getattr(Case, name)}
            rows.append({"couple": ", ".join(f"{name} {value}" for name, value in shown.items()),
                         **measure(case, song, rng, noises, Path(folder))})
            print(pd.DataFrame(rows[-1:]).to_csv(index=False, header=number == 0, float_format="%.3f"), end="")
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    run(main)
