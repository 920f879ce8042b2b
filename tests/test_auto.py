import numpy as np
import pytest
import torch

from common.audio.writing import write_audio
from common.data.pool import SONG, Clip, Pool
from common.denoising import auto
from common.denoising.auto import PROBES, choose_weights, model_for, noise_probabilities, probe_windows
from common.errors import AudioError, CallError, UserError
from common.labels import CLASS_NAMES, LABELS, weights_name
from common.network import weights_files
from common.network.checkpoints import load_weights, save_weights
from common.network.confidence import WINDOW_SAMPLES, FeatureModel
from common.network.model import Denoiser
from common.network.stft import SAMPLE_RATE
from common.network.weights_files import find_weights
from common.training.noise_classifier import fit_classifier
from tests.test_confidence import constant


def probabilities(**shares):
    return np.array([shares.get(label, 0.0) for label in LABELS])


def test_white_is_chosen_where_it_is_likelier_than_all_others():
    assert choose_weights(probabilities(white=0.6, siren=0.4)) == "white"
    assert choose_weights(probabilities(white=0.45, siren=0.3, drilling=0.25)) == "mixed"  # not sure enough
    assert choose_weights(probabilities(drilling=1.0)) == "mixed"


def test_weights_are_found_by_number_and_by_noise(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_files, "PRETRAINED", tmp_path)
    (tmp_path / "class3.pth").touch()
    for words in ("class3", "dog_bark", "dog bark", "Dog-Bark", " DOG BARK"):
        assert find_weights(words) == tmp_path / "class3.pth"
    (tmp_path / "white.pth").touch()
    assert find_weights("White") == tmp_path / "white.pth"
    with pytest.raises(CallError, match=r"names class3 \(dog_bark\), white, but dog barks does not exist"):
        find_weights("dog barks")
    assert [weights_name(name) for name in ("white", "mixed", *CLASS_NAMES)] == ["white", "mixed"] + [
        f"class{k}" for k in range(10)]


@pytest.mark.parametrize("seconds", [1.0, 5.0, 9.0, 60.0, 300.0])
def test_windows_are_spread_over_the_song(tmp_path, seconds):
    n = int(seconds * 22050)
    write_audio(tmp_path / "song.wav", np.linspace(0, 0.5, n, dtype=np.float32)[None], 22050)
    heard = list(probe_windows(tmp_path / "song.wav", SAMPLE_RATE))
    whole = int(seconds * SAMPLE_RATE / WINDOW_SAMPLES)
    assert min(whole, PROBES) <= len(heard) < 2 * PROBES and len(heard) >= 1
    means = np.array([window.mean() for window in heard])
    assert (np.diff(means) > 0).all() and abs(means.mean() - 0.25) < 0.05 + 0.25 * (whole < 3)
    assert all(window.shape == (1, WINDOW_SAMPLES) for window in heard if whole)


@pytest.fixture(scope="module")
def noise_pool():
    """Noises that sit in bands of their own, and a low song."""
    rng, n, clips, parts = np.random.default_rng(0), 4 * SAMPLE_RATE, [], []

    def add(label, name, low, high):
        spectrum = np.fft.rfft(rng.standard_normal(n))
        f = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
        x = np.fft.irfft(spectrum * ((f > low) & (f < high)), n)
        x = x / np.abs(x).max()
        clips.append(Clip(name, "train", label, name, 1, n * len(clips), n, float(np.sqrt(np.square(x).mean()))))
        parts.append(np.rint(x * 32767).astype(np.int16))
    add(SONG, "song", 50, 800)
    for k, label in enumerate(CLASS_NAMES):
        for copy in range(2):
            add(label, f"{label}{copy}", 1000 * 1.35**k, 1000 * 1.35 ** (k + 0.7))
    return Pool(clips, torch.from_numpy(np.concatenate(parts)))


@pytest.fixture
def pretrained(tmp_path, monkeypatch, model, noise_pool):
    """Pretrained weights mixed, with a classifier, white and class8."""
    monkeypatch.setattr(weights_files, "PRETRAINED", tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    classifier = fit_classifier(model, noise_pool, 4)
    save_weights(Denoiser(model.network, model.stft, classifier=classifier), tmp_path / "weights" / "mixed.pth", {})
    for name in ("white", "class8"):
        save_weights(model, tmp_path / "weights" / f"{name}.pth", {})
    return classifier


def test_a_song_gets_the_weights_of_its_noise(pretrained, noise_pool, tmp_path, caplog):
    loaded = load_weights("mixed")[0].classifier
    assert all(np.array_equal(getattr(loaded, name), values) for name, values in vars(pretrained).items())
    model_of = model_for("auto", "cpu")
    song = noise_pool.clips[0]
    for label, expected in (("siren", "mixed"), ("white", "white")):
        places = [c.start for c in noise_pool.clips if c.label in (SONG, label)]
        audio = sum(noise_pool.samples[start : start + song.length].numpy() / 32768 * 0.3 for start in places[:2])
        if label == "white":
            audio = audio + 0.1 * np.random.default_rng(0).standard_normal(song.length)
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
    monkeypatch.setattr(weights_files, "PRETRAINED", tmp_path)
    save_weights(model, tmp_path / "mixed.pth", {})
    with pytest.raises(UserError, match="has none: add it with python"):
        model_for("auto", "cpu")


def test_a_model_can_be_had_without_its_confidence(model, tmp_path):
    path = tmp_path / "m.pth"
    save_weights(Denoiser(model.network, model.stft, constant(-50), constant(-50, 6)), path, {})
    assert model_for(str(path), "cpu")("any.wav").confidence is not None
    bold = model_for(str(path), "cpu", confidence=False)("any.wav")
    assert bold.confidence is None and bold.print_confidence is None


def test_probabilities_are_those_of_all_windows(monkeypatch):
    class Universal:
        """The classifier's two features are those of the window itself."""

        classifier = FeatureModel(np.zeros(2), np.ones(2), 5 * np.eye(2, len(LABELS)), np.zeros(len(LABELS)))
    monkeypatch.setattr(auto, "noise_features", lambda model, window: window)
    found = noise_probabilities(Universal(), np.array([[[50.0, 0.0]], [[0.0, 50.0]]]))
    assert found.shape == (len(LABELS),) and found.sum() == pytest.approx(1)
    assert found[0] == pytest.approx(0.5, abs=0.01)
