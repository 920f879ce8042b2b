"""The weights files that are shipped: what they say of themselves, and that they denoise."""

import numpy as np
import pytest
import torch

from common import synth
from common.checkpoints import PRETRAINED, load_weights
from common.denoising import denoise
from common.inference import inference_form
from common.labels import CLASS_NAMES, WHITE, weights_name
from common.metrics import snr

FILES = sorted(PRETRAINED.glob("*.pth"))
CARD = (PRETRAINED / "README.md").read_text(encoding="utf-8")


def test_white_and_mixed_are_shipped():
    assert {"white", "mixed"} <= {path.stem for path in FILES}


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
    noise = np.random.default_rng(0).standard_normal(song.shape) if path.stem in (WHITE, "mixed") else \
        np.resize(synth.noise(CLASS_NAMES.index(path.stem), 7, 3.0), song.shape)
    noisy = song + noise * np.sqrt(np.square(song).mean() / np.square(noise).mean()) * 10 ** (-5 / 20)
    denoised = denoise(inference_form(load_weights(path)[0], "cpu"), noisy.astype(np.float32), synth.SAMPLE_RATE)
    assert snr(song, noisy) == pytest.approx(5, abs=0.01)
    assert snr(song, denoised) > 6
