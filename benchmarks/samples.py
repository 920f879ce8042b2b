"""Samples: three songs of the generated corpus with noise, denoised with the pretrained weights.

    python -m benchmarks.samples [-o docs/samples] [--corpus demo/corpus]

Writes for each song the noisy, denoised and clean excerpt as WAV files (mono) and a picture of the three, and prints
the SNR before and after. Songs and noises are of the test split, and the networks were trained without synthetic songs.
"""

from pathlib import Path

import numpy as np

from common.audio.reading import list_audio, read_audio
from common.audio.writing import write_audio
from common.cli import Parser, run
from common.demo.corpus import make_corpus
from common.demo.synth import SAMPLE_RATE
from common.denoising.files import denoise
from common.evaluation.metrics import snr
from common.labels import CLASS_NAMES, WHITE, weights_name
from common.network.checkpoints import load_weights
from common.network.inference import inference_form
from common.notebook import plots

# Number of the song in the test split, noise (which decides the weights), SNR in dB.
SAMPLES = ((0, WHITE, 8.0), (1, "drilling", 5.0), (2, "street_music", 5.0))
START_SECONDS, SECONDS, TEST_FOLD = 6, 3, 10


def noise_of(name, corpus, n_samples):
    """Return white noise, or the corpus's looped test clip of a class, (1, n_samples)."""
    if name == WHITE:
        return np.random.default_rng(0).standard_normal((1, n_samples))
    clip = next((corpus / f"fold{TEST_FOLD}").glob(f"*-{CLASS_NAMES.index(name)}-*.wav"))
    return np.resize(read_audio(clip)[0].mean(0), (1, n_samples))


def main():
    """Run the command line."""
    parser = Parser(__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/samples"), help="folder to write to")
    parser.add_argument("--corpus", type=Path, default=Path("demo/corpus"), help="folder of the corpus, made if needed")
    args = parser.parse_args()
    songs, noises = make_corpus(args.corpus)
    args.output.mkdir(parents=True, exist_ok=True)
    for number, noise_name, snr_db in SAMPLES:
        weights = weights_name(noise_name)
        path = list_audio(songs / "test")[number]
        first = START_SECONDS * SAMPLE_RATE
        clean = read_audio(path)[0].mean(0, keepdims=True)[:, first : first + SECONDS * SAMPLE_RATE]
        noise = noise_of(noise_name, noises, clean.shape[1])
        noise *= np.sqrt(np.square(clean).mean() / np.square(noise).mean()) * 10 ** (-snr_db / 20)
        gain = 0.9 / np.abs(clean + noise).max()  # nothing clips
        audio = {"noisy": (gain * (clean + noise)).astype(np.float32), "clean": (gain * clean).astype(np.float32)}
        model = inference_form(load_weights(weights)[0], "cpu", "float32")
        audio["denoised"] = denoise(model, audio["noisy"], SAMPLE_RATE)
        after = snr(audio["clean"], audio["denoised"])
        name = f"{number + 1}_{noise_name}"
        for kind in ("noisy", "denoised", "clean"):
            write_audio(args.output / f"{name}_{kind}.wav", audio[kind], SAMPLE_RATE)
        title = f"{path.name.split('.')[0]} with {noise_name}, weights {weights}: {snr_db:.1f} dB to {after:.1f} dB"
        figure = plots.audio_figure({kind: audio[kind] for kind in ("noisy", "denoised", "clean")}, SAMPLE_RATE, title)
        figure.savefig(args.output / f"{name}.png", dpi=60)
        print(title)


if __name__ == "__main__":
    run(main)
