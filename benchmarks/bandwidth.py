"""What published weights gain where a recording has no top band, as after a lossy codec or at a lower sample rate.

    python -m benchmarks.bandwidth --path-songs DIR

White noise is added to excerpts of songs at 8 dB, and both are cut at a frequency. The table shows the mean SNR
improvement in dB. The noise print is 1.5 s of the same noise.
"""

import numpy as np
import pandas as pd

from common.audio.reading import list_audio, read_audio
from common.cli import Parser, run
from common.denoising.files import denoise
from common.evaluation.metrics import snr
from common.labels import MIXED, WHITE
from common.network.loading import load_noise_model
from common.network.noise_print import TEST_PRINT_SECONDS, print_power

RATE, SNR_DB, SECONDS = 44100, 8.0, 12
BANDS_HZ = (22050, 20000, 16000)


def cut(audio: np.ndarray, highest_hz: float) -> np.ndarray:
    """Remove all above a frequency from (channels, samples)."""
    spectrum = np.fft.rfft(audio)
    spectrum[:, np.fft.rfftfreq(audio.shape[1], 1 / RATE) > highest_hz] = 0
    return np.fft.irfft(spectrum, audio.shape[1]).astype(np.float32)


def gains(models: dict, song: np.ndarray, noise: np.ndarray) -> dict[str, float]:
    """The improvement in dB of each model, and of MIXED with a noise print."""
    noisy, mixed = song + noise, models[MIXED]
    power = print_power(mixed.stft.frames(noise[:, : round(TEST_PRINT_SECONDS * RATE)]))
    estimates = {name: denoise(model, noisy, RATE) for name, model in models.items()}
    estimates[f"{MIXED} with a print"] = denoise(mixed, noisy, RATE, print_power=power)
    return {name: snr(song, estimate) - snr(song, noisy) for name, estimate in estimates.items()}


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--path-songs", required=True, help="folder of songs with music up to 20 kHz")
    parser.add_argument("--songs", type=int, default=10, help="number of songs, evenly spread over the folder")
    args = parser.parse_args()
    models, found, rows = {name: load_noise_model(name) for name in (WHITE, MIXED)}, list_audio(args.path_songs), []
    for number in np.unique(np.linspace(0, len(found) - 1, args.songs).astype(int)):
        song = read_audio(found[number], RATE, SECONDS)[0][:1]
        noise = np.random.default_rng(number).standard_normal(song.shape)
        noise *= np.sqrt(np.square(song).mean() / 10 ** (SNR_DB / 10))
        rows += [{"band_end_hz": band} | gains(models, cut(song, band), cut(noise, band)) for band in BANDS_HZ]
    table = pd.DataFrame(rows).groupby("band_end_hz").mean()
    print(f"{len(rows) // len(BANDS_HZ)} songs, white noise at {SNR_DB:g} dB, mean SNR improvement in dB\n"
          f"{table.round(2).to_string()}")


if __name__ == "__main__":
    run(main)
