"""The weights files that are shipped: what they say of themselves, and that they denoise."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from common.audio.reading import read_audio, resample
from common.audio.writing import write_audio
from common.demo import synth
from common.denoising.__main__ import main as denoising_command
from common.denoising.auto import choose_weights, noise_probabilities
from common.denoising.files import denoise
from common.evaluation.metrics import snr
from common.labels import CLASS_NAMES, LABELS, MIXED, WHITE, weights_name
from common.network.checkpoints import load_weights
from common.network.confidence import WINDOW_SAMPLES
from common.network.exported import ExportedModel
from common.network.inference import inference_form
from common.network.weights_files import PRETRAINED, exported_file
from common.training.confidence_fit import AFFORDED_DB

RATES = 44100, 48000
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
    # A synthetic noise of a class is another one than those that its weights know: the least is that they do no harm.
    assert snr(song, denoised) > (12 if path.stem in (WHITE, MIXED) else 4.95)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_exported_form_belongs_to_the_file(path):
    """After new weights are published, python -m common.network.onnx_export exports them."""
    exported = exported_file(path)
    assert ExportedModel(exported).weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert exported.stat().st_size < path.stat().st_size + 150_000  # each weight once, and the graph


@pytest.fixture(scope="module")
def noisy_files(tmp_path_factory):
    """A short noisy song at either rate."""
    folder, song = tmp_path_factory.mktemp("noisy"), sum(synth.song(7, 2).values())
    noisy = song + 0.02 * np.random.default_rng(0).standard_normal(song.shape)
    for rate in RATES:
        write_audio(folder / f"{rate}.wav", resample(noisy, synth.SAMPLE_RATE, rate).astype(np.float32), rate)
    return folder


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_command_takes_a_file_in_either_precision(path, precision, noisy_files, tmp_path):
    """Whatever this machine computes fastest: others compute in the other precision."""
    for rate in RATES:
        source, target = noisy_files / f"{rate}.wav", tmp_path / f"{rate}.wav"
        denoising_command([str(source), "-o", str(target), "--model", path.stem, "--precision", precision])
        (noisy, _), (denoised, rate_out) = read_audio(source), read_audio(target)
        assert rate_out == rate and denoised.shape == noisy.shape and not np.array_equal(denoised, noisy)
        assert np.abs(denoised).max() < 2 * np.abs(noisy).max()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_beginning_and_end_are_denoised_like_the_rest(precision):
    """A file that begins or ends somewhere in a song, whatever its length, gains there what the whole song gains."""
    model, edge = inference_form(load_weights(WHITE)[0], "cpu", precision), 8820
    song = sum(synth.song(7, 6).values())[:1]
    noise = np.random.default_rng(0).standard_normal(song.shape) * np.sqrt(np.square(song).mean()) * 10 ** (-8 / 20)
    noisy = (song + noise).astype(np.float32)
    whole = denoise(model, noisy, synth.SAMPLE_RATE)

    def gain(denoised, place):
        return snr(song[:, place], denoised) - snr(song[:, place], noisy[:, place])
    for k in range(10):
        first, end = 40_000 + 1777 * k, 150_000 + 2801 * k
        denoised = denoise(model, noisy[:, first:end], synth.SAMPLE_RATE)
        for place in (slice(first, first + edge), slice(end - edge, end)):
            here = denoised[:, place.start - first : place.stop - first]
            assert gain(here, place) == pytest.approx(gain(whole[:, place], place), abs=1)


def test_threads_share_a_network():
    """What a stream has heard belongs to the stream."""
    form = inference_form(load_weights("class3")[0], "cpu", "float32")
    songs = [0.1 * np.random.default_rng(k).standard_normal((1 + k % 2, 60_000)).astype(np.float32) for k in range(4)]
    alone = [denoise(form, song, synth.SAMPLE_RATE) for song in songs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda song: denoise(form, song, synth.SAMPLE_RATE), songs * 2))
    for expected, got in zip(alone * 2, together, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_files_confidence_is_the_one_that_was_chosen(path):
    model, info = load_weights(path)
    scores = {"confidence": "validation_snr_improvement_db", "print_confidence": "validation_with_print_db"}
    for name, score in list(scores.items())[: 1 + model.takes_print]:
        found = info[name]
        confidence = getattr(model, name)
        assert found["improvement_db"] == info[score]
        doubtful = confidence.centre - 1e6 * np.sign(confidence.weight) * confidence.scale
        assert confidence(doubtful[None, None]).max() < 0.5  # there are sounds in which it is not sure
        chosen = next(row for row in found["trade_off"] if row["shift"] == found["shift"])
        assert chosen["improvement_db"] >= max(row["improvement_db"] for row in found["trade_off"]) - AFFORDED_DB
        assert chosen["improved_percent"] >= found["plain_improved_percent"]


def test_the_universal_weights_know_noises_apart():
    """White noise at least, in a song of another kind than they were taught on."""
    song = sum(synth.song(7, 4).values())[:1, :WINDOW_SAMPLES].astype(np.float32)
    noise = np.random.default_rng(0).standard_normal(song.shape) * np.sqrt(np.square(song).mean())
    noisy = (song + 10 ** (-8 / 20) * noise).astype(np.float32)
    probabilities = noise_probabilities(load_weights(MIXED)[0], [noisy])
    assert LABELS[int(probabilities.argmax())] == WHITE and choose_weights(probabilities) == WHITE
