from dataclasses import replace

import numpy as np
import pytest
import torch

from common import auto, checkpoints
from common.audio import AudioError, write_audio
from common.auto import (
    LABELS,
    PROBES,
    NoiseClassifier,
    fit_classifier,
    load_classifier,
    model_for,
)
from common.checkpoints import find_weights, save_atomically, weights_content
from common.confidence import WINDOW_SAMPLES
from common.errors import UserError
from common.labels import CLASS_NAMES, weights_name
from common.mixtures import MixtureSettings, MixtureValidation, pool_validation
from common.model import Denoiser
from common.pool import SAMPLE_RATE, SONG, Clip, Pool
from tests.test_confidence import constant


@pytest.fixture
def knowing():
    """A classifier that was told what is gained on car horns, dogs and white noise, and that the rest is harmed."""
    names, gains = ("mixed", "class3", "white"), torch.full((len(LABELS), 3), -1.0)
    gains[:, 0] = 0.0
    for label, row in {"white": (4, 0, 6), "dog_bark": (0.5, 1, -9), "car_horn": (-2, 1, -1)}.items():
        gains[LABELS.index(label)] = torch.tensor(row)
    return NoiseClassifier(torch.zeros(2), torch.ones(2), 5 * torch.eye(2, len(LABELS)), torch.zeros(len(LABELS)),
                           gains, names)


def probabilities(**shares):
    return torch.tensor([shares.get(label, 0.0) for label in LABELS])


def test_weights_are_those_of_the_highest_expected_gain(knowing):
    assert knowing.expected_gains_db(probabilities(white=0.5, dog_bark=0.5)) == {
        "mixed": 2.25, "class3": 0.5, "white": -1.5}
    assert knowing.choose(probabilities(white=0.9, siren=0.1), knowing.names) == "white"
    assert knowing.choose(probabilities(white=0.5, siren=0.5), knowing.names) == "white"
    assert knowing.choose(probabilities(white=0.5, dog_bark=0.5), knowing.names) == "mixed"  # a mistake costs more
    assert knowing.choose(probabilities(dog_bark=0.8, siren=0.2), knowing.names) == "class3"
    assert knowing.choose(probabilities(dog_bark=0.6, siren=0.4), knowing.names) == "mixed"  # not sure enough
    assert knowing.choose(probabilities(car_horn=1.0), knowing.names) == "class3"  # better on it than any other
    assert knowing.choose(probabilities(car_horn=1.0), ["mixed", "white"]) == "white"


def test_weights_are_found_by_number_and_by_noise(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    (tmp_path / "class3.pth").touch()
    assert find_weights("class3") == find_weights("dog_bark") == tmp_path / "class3.pth"
    assert [weights_name(name) for name in ("white", "mixed", *CLASS_NAMES)] == ["white", "mixed"] + [
        f"class{k}" for k in range(10)]


@pytest.mark.parametrize("seconds", [1.0, 5.0, 9.0, 60.0, 300.0])
def test_windows_are_spread_over_the_song(tmp_path, seconds):
    n = int(seconds * 22050)
    write_audio(tmp_path / "song.wav", np.linspace(0, 0.5, n, dtype=np.float32)[None], 22050)
    heard = list(auto._probes(tmp_path / "song.wav", SAMPLE_RATE))
    whole = int(seconds * SAMPLE_RATE / WINDOW_SAMPLES)
    assert min(whole, PROBES) <= len(heard) < 2 * PROBES and len(heard) >= 1
    means = np.array([window.mean() for window in heard])
    assert (np.diff(means) > 0).all() and abs(means.mean() - 0.25) < 0.05 + 0.25 * (whole < 3)
    assert all(window.shape == (1, WINDOW_SAMPLES) for window in heard if whole)


@pytest.fixture(scope="module")
def noise_pool():
    """Noises that sit in bands of their own, and a low song."""
    rng, n, clips, parts = np.random.default_rng(0), 4 * SAMPLE_RATE, [], []

    def add(label, name, low, high, split="train"):
        spectrum = np.fft.rfft(rng.standard_normal(n))
        f = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
        x = np.fft.irfft(spectrum * ((f > low) & (f < high)), n)
        x = x / np.abs(x).max()
        clips.append(Clip(name, split, label, name, 1, n * len(clips), n, float(np.sqrt(np.square(x).mean()))))
        parts.append(np.rint(x * 32767).astype(np.int16))
    for split in ("train", "validation"):
        add(SONG, f"song, {split}", 50, 800, split)
        for k, label in enumerate(CLASS_NAMES):
            for copy in range(2):
                add(label, f"{label}{copy}, {split}", 1000 * 1.35**k, 1000 * 1.35 ** (k + 0.7), split)
    return Pool(clips, torch.from_numpy(np.concatenate(parts)))


@pytest.fixture
def pretrained(tmp_path, monkeypatch, model, noise_pool):
    """Pretrained weights mixed, with a classifier that takes class8 to be better on sirens, and class8."""
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    gains = torch.tensor([[0.0, 2.0 * (label == "siren") - 1] for label in LABELS])
    classifier = replace(fit_classifier(model, noise_pool, {"mixed": model}, 4, 2), gains_db=gains,
                         names=("mixed", "class8"))
    save_atomically(weights_content(model, {}) | {"classifier": vars(classifier)}, tmp_path / "weights" / "mixed.pth")
    save_atomically(weights_content(model, {}), tmp_path / "weights" / "class8.pth")
    return classifier


def test_what_weights_gain_is_measured_on_validation_mixtures(model, noise_pool):
    timid = Denoiser(model.network, model.stft, constant(-50))
    found = fit_classifier(model, noise_pool, {"mixed": model, "white": timid}, 1, 3, seed=5)
    assert found.names == ("mixed", "white") and found.gains_db.shape == (11, 2)
    assert found.gains_db[:, 1].abs().max() < 1e-5  # it takes nothing away
    settings = MixtureSettings("dog_bark", snr_db=(0, 25), noise_speed=auto.NOISE_SPEED)
    source = pool_validation(noise_pool, settings, 3).source
    expected = np.mean(MixtureValidation(source, 3, WINDOW_SAMPLES, seed=5).gains(model, slice(None)))
    assert float(found.gains_db[LABELS.index("dog_bark"), 0]) == pytest.approx(expected, abs=0.02)


def test_a_song_gets_the_weights_of_its_noise(pretrained, noise_pool, tmp_path, caplog):
    found = vars(load_classifier())
    assert found.pop("names") == pretrained.names
    assert all(torch.equal(getattr(pretrained, k), v) for k, v in found.items())
    model_of = model_for("auto", "cpu")
    song = noise_pool.clips[0]
    for label, expected in (("siren", "class8"), ("drilling", "mixed")):
        clip = next(c for c in noise_pool.clips if c.label == label)
        audio = sum(noise_pool.samples[c.start : c.start + c.length].numpy() / 32768 * 0.3 for c in (song, clip))
        write_audio(tmp_path / f"{label}.wav", audio[None].astype(np.float32), SAMPLE_RATE)
        caplog.clear()
        with caplog.at_level("INFO"):
            chosen = model_of(tmp_path / f"{label}.wav")
        assert f"sounds like {label}" in caplog.text and f"weights {expected}" in caplog.text
        assert chosen is model_of(tmp_path / f"{label}.wav")  # loaded once


def test_an_empty_file_gets_one_sentence(pretrained, tmp_path):
    write_audio(tmp_path / "empty.wav", np.zeros((1, 0), np.float32), SAMPLE_RATE)
    with pytest.raises(AudioError, match="holds no samples"):
        model_for("auto", "cpu")(tmp_path / "empty.wav")


def test_without_a_classifier_auto_says_how_to_get_one(model, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    save_atomically(weights_content(model, {}), tmp_path / "mixed.pth")
    with pytest.raises(UserError, match="has none: add it with python"):
        model_for("auto", "cpu")


def test_a_model_can_be_had_without_its_confidence(model, tmp_path):
    path = tmp_path / "m.pth"
    checkpoints.save_weights(Denoiser(model.network, model.stft, constant(-50)), path, {})
    assert model_for(str(path), "cpu")("any.wav").confidence is not None
    assert model_for(str(path), "cpu", confidence=False)("any.wav").confidence is None


def test_probabilities_are_those_of_all_windows(knowing):
    found = knowing.probabilities(torch.tensor([[50.0, 0.0], [0.0, 50.0]]))
    assert found.sum() == pytest.approx(1) and float(found[0]) == pytest.approx(0.5, abs=0.01)


def test_a_classifier_is_believed_as_far_as_it_is_right_on_what_it_never_heard(knowing):
    """Two labels told apart by one feature: rightly in 4 of 5 windows, so that 4 : 1 are the odds."""
    features = torch.tensor([[3.0, 0.0], [0.0, 3.0]]).repeat_interleave(50, 0)
    labels = torch.tensor([0] * 40 + [1] * 10 + [1] * 40 + [0] * 10)
    logits = knowing.logits(features)[:, :2]
    tempered = replace(knowing, weight=knowing.weight[:, :2], offset=knowing.offset[:2])
    found = auto._tempered(tempered, features, labels).probabilities(features[:1])
    assert float(logits[0, 0] - logits[0, 1]) == 15 and float(found[0]) == pytest.approx(0.8, abs=0.001)
