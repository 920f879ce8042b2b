"""How often a stretch of noise alone is found in a recording, and the cost of a wrong one.

    python -m benchmarks.noise_prints --path-songs DIR --path-noises DIR --n 600

Recordings are made from songs and noises at 0 to 25 dB. One half has 0.7 to 3 s of noise alone at the start, at the end
or in a pause, sometimes after digital silence. The other half has none: songs with or without noise, whole, with a
quiet or faded start, or with a faded end. The stretch that is found is the print of a plain Wiener gain (no network);
`ceiling_db` is the gain with a print of the whole noise. Harm is a loss of more than HARM_LOSS_DB, or, without noise,
an output below HARM_DB against the song.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from common.audio.reading import list_audio, read_audio
from common.cli import Parser, run
from common.denoising.print_finding import find_noise
from common.network.noise_print import print_power, wiener_gain
from common.network.stft import STFT

HARM_DB, HARM_LOSS_DB = 25.0, 0.5
WHITE_SHARE = 0.2
WITH, WITHOUT = ("start", "end", "pause", "after silence"), ("whole", "faded in", "faded out", "quiet start")
RATE = STFT().sample_rate


def _draw(rng, files):
    """Read a random file that is not silent, mono."""
    while True:
        audio = read_audio(files[rng.integers(len(files))], RATE)[0].mean(0)
        if np.sqrt(np.mean(audio**2)) > 1e-3:
            return audio


def _noise(rng, files, n):
    """Return `n` samples of unit power: white noise, or a looped recording."""
    if rng.random() < WHITE_SHARE:
        return rng.standard_normal(n, dtype=np.float32)
    noise = np.resize(_draw(rng, files), n)
    return (noise - noise.mean()) / noise.std()


def recording(rng: np.random.Generator, songs: list[Path], noises: list[Path]) -> dict:
    """Make a recording: `kind`, `song` and `noise` (samples,), `alone` (first and end sample of the noise alone)."""
    song = _draw(rng, songs)
    song = song[rng.integers(max(1, len(song) - RATE * 6)) :][: int(RATE * rng.uniform(6, 25))].copy()
    kind = rng.choice(WITH if rng.random() < 0.5 else WITHOUT)
    alone, scale = (0, 0), np.sqrt(np.mean(song**2)) * 10 ** (-rng.uniform(0, 25) / 20)
    n = min(len(song) // 2, int(RATE * rng.uniform(0.7, 3)))
    if kind in WITH:
        at = {"end": len(song), "pause": int(len(song) * rng.uniform(0.2, 0.8))}.get(kind, 0)
        song, alone = np.insert(song, at, np.zeros(n)), (at, at + n)
    if kind == "faded in":
        song[:n] *= np.linspace(0, 1, n) ** 2
    if kind == "faded out":
        song[-n:] *= np.linspace(1, 0, n) ** 2
    if kind == "quiet start":
        song[:n] *= 10 ** (-rng.uniform(8, 25) / 20)
    noisy = kind in WITH or rng.random() < 0.5
    noise = scale * _noise(rng, noises, len(song)) * noisy
    if kind == "after silence":
        silence = np.zeros(int(RATE * rng.uniform(0.3, 2)), np.float32)
        song, noise = np.append(silence, song), np.append(silence, noise)
        alone = alone[0] + len(silence), alone[1] + len(silence)
    return {"kind": kind if noisy else f"{kind}, no noise", "song": song.astype(np.float32),
            "noise": noise.astype(np.float32), "alone": alone}


def _snr_db(song, estimate):
    return 10 * np.log10(np.square(song, dtype=float).sum() / (np.square(estimate - song, dtype=float).sum() + 1e-9))


def _wiener(noisy, noise_print):
    spectrum = STFT().forward(noisy[None])
    power = print_power(STFT().frames(noise_print[None]))
    return STFT().inverse(spectrum * wiener_gain(spectrum, power), len(noisy))[0]


def score(made: dict) -> dict:
    """Return what is found in a recording, and the SNR change in dB with that print and with one of all the noise."""
    song, noise, noisy = made["song"], made["noise"], made["song"] + made["noise"]
    before, has_noise = _snr_db(song, noisy), noise.any()
    row = {"kind": made["kind"], "found": False, "gain_db": 0.0, "harm": False,
           "ceiling_db": _snr_db(song, _wiener(noisy, noise)) - before if has_noise else 0.0}
    if found := find_noise([noisy[None]], STFT()):
        first, last = (round(t * RATE) for t in found)
        after = _snr_db(song, _wiener(noisy, noisy[first:last]))
        overlap = max(0, min(last, made["alone"][1]) - max(first, made["alone"][0]))
        row |= {"found": True, "seconds": found[1] - found[0], "alone": overlap / (last - first),
                "gain_db": after - before if has_noise else 0.0,
                "harm": after - before < -HARM_LOSS_DB if has_noise else after < HARM_DB}
    return row


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    for flag in ("--path-songs", "--path-noises"):
        parser.add_argument(flag, required=True, nargs="+", help="folders of audio files")
    parser.add_argument("--n", type=int, default=600, help="number of recordings")
    parser.add_argument("--seed", type=int, default=0, help="seed of the recordings")
    args = parser.parse_args()
    files = [[file for folder in folders for file in list_audio(folder)]
             for folders in (args.path_songs, args.path_noises)]
    rows = pd.DataFrame(score(recording(np.random.default_rng([args.seed, k]), *files)) for k in range(args.n))
    means = rows.groupby("kind").mean()[["found", "alone", "seconds", "gain_db", "ceiling_db"]]
    print(means.assign(n=rows.groupby("kind").size(), harm=rows.groupby("kind").harm.sum()).round(2).to_string())


if __name__ == "__main__":
    run(main)
