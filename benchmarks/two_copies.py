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

from common.audio.reading import AudioReader, list_audio, read_audio
from common.audio.writing import write_audio
from common.cli import Parser, run
from common.data import copy_matching
from common.data.couple import LEAST_AGREEMENT, Couple, align, aligned
from common.demo.copies import Distortion, with_noise
from common.errors import CallError, UserError

RATE, EDGE_SECONDS, SECONDS = 44100, 2, 45


@dataclass(frozen=True)
class Case:
    """The SNR of both copies, and what copy B has besides its distortion; suffix: of its file."""

    snr_db: tuple[float, float]
    distortion: Distortion
    white: bool = False
    inverted: bool = False
    mono: bool = False
    clipped: bool = False
    suffix: str = ".wav"

    def __str__(self):
        words = [f"SNR {self.snr_db[0]} and {self.snr_db[1]} dB"]
        words += [f"{name} {value:g}" for name, value in vars(self.distortion).items() if value]
        words += [name for name in ("white", "inverted", "mono", "clipped") if getattr(self, name)]
        return ", ".join([*words, self.suffix[1:]])


CASES = (
    Case((25, 25), Distortion(0.01)), Case((25, 25), Distortion(3, 1000, tilt_db=6)),
    Case((20, 20), Distortion(-3, -1000, gain_db=-12)), Case((20, 3), Distortion(0.5), white=True),
    Case((15, 15), Distortion(10, 300, 200)), Case((15, 15), Distortion(-10, -300, -200, 6, -12)),
    Case((15, 10), Distortion(2, 10), white=True, inverted=True), Case((15, 15), Distortion(1, 100), mono=True),
    Case((15, 15), Distortion(1, 100), clipped=True), Case((15, 15), Distortion(1, 100), suffix=".mp3"),
    Case((10, 10), Distortion(0.3, 700)), Case((10, 10), Distortion(-7, 50, 200)),
    Case((10, 10), Distortion(5, -500, tilt_db=-6, gain_db=12)), Case((10, 10), Distortion(12, 1000, 200, 6, -12)),
    Case((10, 10), Distortion(1, 0, tilt_db=6), white=True), Case((10, 10), Distortion(-15, -20), inverted=True),
    Case((10, 10), Distortion(4, 250), mono=True), Case((10, 10), Distortion(4, 250), suffix=".mp3"),
    Case((5, 5), Distortion(2, 400)), Case((5, 10), Distortion(-2, -100, 200, 6)),
    Case((5, 5), Distortion(0, 30), white=True), Case((0, 10), Distortion(6, 600)),
    Case((0, 5), Distortion(-6, 0, -200)), Case((0, 0), Distortion(1, 100), white=True),
    Case((10, 10), Distortion(30, 100)), Case((10, 10), Distortion(-25, -100)),
)


def draw_noise(rng: np.random.Generator, shape: tuple[int, int], noises: list[Path]) -> np.ndarray:
    """White noise (channels, samples), or a recording from `noises` in all channels."""
    if not noises:
        return rng.standard_normal(shape)
    clip = read_audio(noises[rng.integers(len(noises))], RATE)[0][0]
    return np.resize(clip - clip.mean(), shape[1])[None].repeat(shape[0], 0)


def measure(case: Case, song: np.ndarray, rng: np.random.Generator, noises: list[Path], folder: Path) -> dict:
    """Build, align and judge one couple; the figures are NaN where it is refused."""
    clean = case.distortion(song)
    clean = (clean.mean(0, keepdims=True) if case.mono else clean) * (-1 if case.inverted else 1)
    a, b = (with_noise(x, draw_noise(rng, x.shape, [] if case.white else noises), snr_db)
            for x, snr_db in zip((song, clean), case.snr_db, strict=True))
    full_scale = 0.9 / max(np.abs(x).max() for x in (a, b))
    paths = folder / "a.wav", folder / f"b{case.suffix}"
    write_audio(paths[0], (full_scale * a).astype(np.float32), RATE, "FLOAT")
    b = np.clip(b, *np.quantile(b, [0.005, 0.995])) if case.clipped else b
    write_audio(paths[1], (full_scale * b).astype(np.float32), RATE, None if case.suffix == ".mp3" else "FLOAT")
    try:
        couple = align(*paths)
    except UserError:
        return {"misaligned": np.nan, "song/error (dB)": np.nan}
    taps = copy_matching.matching_filter(couple.statistics.of(couple.agreement >= LEAST_AGREEMENT))
    first, last = couple.span[0] + EDGE_SECONDS * RATE, couple.span[1] - EDGE_SECONDS * RATE
    times = np.linspace(first, last, 1000) / RATE
    off = couple.curve(times) - case.distortion.delay(times)
    write_audio(folder / "clean.wav", (full_scale * clean).astype(np.float32), RATE, "FLOAT")
    heard = Couple(paths[0], folder / "clean.wav", RATE, couple.channels, couple.curve, span=couple.span)
    heard = np.concatenate(list(copy_matching.filtered(aligned(heard), taps)), axis=1)
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
    if not songs:
        raise CallError(f"expected songs of {SECONDS} s at least in {args.path_songs}, but there is none: choose "
                        "another folder")
    noises, rows = list_audio(args.path_noises), []
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES[: args.cases]):
            rng = np.random.default_rng(number)
            song = read_audio(songs[number % len(songs)], RATE, SECONDS)[0].astype(np.float64)
            if case.mono and len(song) == 1:
                song = np.concatenate([song, np.roll(0.5 * song, 400, axis=1)])
            rows.append({"couple": str(case), **measure(case, song, rng, noises, Path(folder))})
            print(pd.DataFrame(rows[-1:]).to_csv(index=False, header=number == 0, float_format="%.3f"), end="")
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    run(main)
