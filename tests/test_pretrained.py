"""The weights files that are shipped: what they say of themselves, and that they denoise."""

import numpy as np
import pytest
import torch

from common import synth
from common.auto import LABELS, choose, listen, load_classifier
from common.calibration import AFFORDED_DB
from common.checkpoints import PRETRAINED, load_weights
from common.confidence import WINDOW_SAMPLES
from common.denoising import denoise
from common.inference import inference_form
from common.labels import CLASS_NAMES, MIXED, WHITE, weights_name
from common.metrics import snr

FILES = sorted(PRETRAINED.glob("*.pth"))
CARD = (PRETRAINED / "README.md").read_text(encoding="utf-8")


def test_every_noise_has_its_weights():
    assert [path.stem for path in FILES] == sorted(weights_name(noise) for noise in (WHITE, MIXED, *CLASS_NAMES))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_says_what_it_is(path):
    content = torch.load(path, weights_only=True)
    info, settings = content["info"], content["info"]["settings"]
    assert {t.dtype for t in content["state"].values() if t.is_floating_point()} == {torch.float16}
    assert path.stat().st_size < 2.5 * sum(t.numel() for t in content["state"].values())  # nothing else of any size
    assert weights_name(info["noise"]) == path.stem and info["method"] == "Noise2Noise"
    assert settings["data.clean_target"] is False
    assert len(settings["data.pool_sha256"]) == 64 and len(info["commit"]) >= 7 and "CC BY-NC" in info["licence"]
    row = next(line for line in CARD.splitlines() if line.startswith(f"| `{path.name}` |"))
    assert row.split(" | ")[1] == str(content["network"]["width"])
    assert f"| {info['validation_snr_improvement_db']:+.2f} dB (" in row


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_denoises_a_song_of_another_kind_than_it_was_trained_on(path):
    song = sum(synth.song(7, 3).values())[:1]
    noise = np.random.default_rng(0).standard_normal(song.shape) if path.stem in (WHITE, MIXED) else \
        np.resize(synth.noise(int(path.stem.removeprefix("class")), 7, 3.0), song.shape)
    noisy = song + noise * np.sqrt(np.square(song).mean() / np.square(noise).mean()) * 10 ** (-5 / 20)
    denoised = denoise(inference_form(load_weights(path)[0], "cpu"), noisy.astype(np.float32), synth.SAMPLE_RATE)
    assert snr(song, noisy) == pytest.approx(5, abs=0.01)
    # A synthetic noise of a class is another one than those that its weights know.
    assert snr(song, denoised) > (12 if path.stem in (WHITE, MIXED) else 5)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_files_confidence_is_the_one_that_was_chosen(path):
    model, info = load_weights(path)
    found = info["confidence"]
    assert model.confidence is not None and found["improvement_db"] == info["validation_snr_improvement_db"]
    chosen = next(row for row in found["trade_off"] if row["shift"] == found["shift"])
    assert chosen["improvement_db"] >= max(row["improvement_db"] for row in found["trade_off"]) - AFFORDED_DB
    assert chosen["improved_percent"] >= found["plain_improved_percent"]


def test_the_universal_weights_know_noises_apart():
    """White noise at least, in a song of another kind than they were taught on."""
    model, classifier = load_weights(MIXED)[0], load_classifier()
    song = torch.from_numpy(sum(synth.song(7, 4).values())[:1, :WINDOW_SAMPLES]).float()
    noise = torch.randn(song.shape, generator=torch.Generator().manual_seed(0)) * song.square().mean().sqrt()
    probabilities = classifier.probabilities(listen(model, song + 10 ** (-8 / 20) * noise))
    assert LABELS[int(probabilities.argmax())] == WHITE and choose(probabilities, [WHITE]) == WHITE
