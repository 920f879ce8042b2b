"""Noise prints that users give: what reaches the network, and what is refused."""

import re

import numpy as np
import pytest
import torch

from common.audio.reading import read_audio
from common.audio.writing import write_audio
from common.denoising import __main__ as batch
from common.denoising import print_sources
from common.denoising.files import DenoiseSettings, denoise, denoise_file
from common.denoising.print_sources import FIND, print_source
from common.errors import CallError, UserError
from common.network.checkpoints import save_weights
from common.network.dcunet import FOLDED, LITERATURE, PLANS
from common.network.inference import inference_form
from common.network.model import Denoiser
from common.network.stft import STFT
from tests.conftest import mini_model

NOISE_SECONDS = 2.0


class Wiener(torch.nn.Module):
    """In place of a network: a mask made of its two inputs, their ratio, in `dtype`."""

    plan = PLANS[FOLDED]
    compression = 1.0

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.dtype = dtype
        self.register_buffer("unused", torch.zeros(()))  # says on which device it computes

    def forward(self, planes):
        x, y = (torch.complex(*pair.to(self.dtype).float().unbind(1)) for pair in planes.split(2, 1))
        mask = torch.where(x.abs() > 0, y / torch.where(x.abs() > 0, x, 1), 1)
        return torch.stack([mask.real, mask.imag], 1)


def recording(rng, rate, channels=1, seconds=6.0):
    """Noise of another level in every channel, and loud music over it after NOISE_SECONDS."""
    n, first = int(seconds * rate), int(NOISE_SECONDS * rate)
    audio = 0.01 * rng.standard_normal((channels, n)) * np.arange(1, channels + 1)[:, None]
    t = np.arange(n - first) / rate
    audio[:, first:] += 0.2 * sum(np.sin(2 * np.pi * hz * t) for hz in (220, 554, 1319)) * (1 + np.sin(9 * t))
    audio[:, first:] += 0.1 * rng.standard_normal((channels, n - first)) * (np.sin(5 * t) > 0)
    return audio.astype(np.float32)


def power_of(*stretches):
    """Mean power in each bin of stretches (channels, samples) at 44.1 kHz, computed here and nowhere else."""
    frames = [x[:, i : i + 2048] for x in stretches for i in range(0, x.shape[1] - 2047, 512)]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    return np.mean([np.abs(np.fft.rfft(window * frame)) ** 2 / 2048 for frame in frames], 0)


@pytest.fixture(scope="module")
def old_model():
    return mini_model(LITERATURE)


@pytest.fixture
def noisy(tmp_path, rng):
    """Writes a recording, returns its path and itself."""
    def _noisy(rate=44100, channels=1, **options):
        audio = recording(rng, rate, channels, **options)
        write_audio(tmp_path / "noisy.wav", audio, rate, "FLOAT")
        return tmp_path / "noisy.wav", audio
    return _noisy


SOURCES = {"a pair": (0.25, 1.75), "two spans": [(1.0, 1.75), (0.1, 0.7)], "text": "0:00.25-0:01.75",
           "overlapping": ["0-1", "0.5-1.25"], "found": FIND, "a file": "file", "a mono file": "mono",
           "a file at another rate": "rate"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate, channels", [(44100, 1), (48000, 2)])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_the_prints_power_reaches_the_network(noisy, tmp_path, dtype, rate, channels, source):
    path, audio = noisy(rate, channels)
    model, noise = Denoiser(Wiener(dtype), STFT()), audio[:, : int(NOISE_SECONDS * rate)]
    if source in ("file", "mono", "rate"):
        noise = noise[:1] if source == "mono" else noise
        write_audio(tmp_path / "print.flac", noise, rate, "PCM_24")
        if source == "rate":
            noise, _ = read_audio(tmp_path / "print.flac", 32000)
            write_audio(tmp_path / "print.flac", noise, 32000, "PCM_24")
        source = tmp_path / "print.flac"
        expected = power_of(read_audio(source, 44100)[0]) * np.ones((channels, 1))
    report = denoise_file(model, path, tmp_path / "out.wav", DenoiseSettings(subtype="FLOAT", noise_print=source))
    if isinstance(source, type(path)):
        assert report["noise_print"] == str(source)
    else:
        at_model_rate, _ = read_audio(path, 44100)
        expected = power_of(*(at_model_rate[:, round(44100 * a) : round(44100 * b)] for a, b in report["noise_print"]))
        assert source == FIND or report["noise_print"] == [list(span) for span in print_source(source)]
    out, _ = read_audio(tmp_path / "out.wav")
    np.testing.assert_allclose(out, denoise(model, audio, rate, print_power=expected), atol=1e-4)
    # A gain per bin by the mean power of the same noise; the first channel has its own noise in every print.
    assert out[0, :rate].std() < 0.75 * audio[0, :rate].std()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_print_reaches_the_inference_form(model, noisy, tmp_path, precision):
    path, audio = noisy()
    model = inference_form(model, "cpu", precision)
    out = {}
    for source in (None, (0.0, 2.0)):
        denoise_file(model, path, tmp_path / "out.wav", DenoiseSettings(subtype="FLOAT", noise_print=source))
        out[source] = read_audio(tmp_path / "out.wav")[0]
    expected = denoise(model, audio, 44100, print_power=power_of(audio[:, :88200]))
    np.testing.assert_allclose(out[0.0, 2.0], expected, atol=3e-4)  # bfloat16 rounds what differs in the last bit
    assert np.abs(out[None] - expected).max() > 1e-3


@pytest.mark.parametrize("gain_db", [-40, 20])
@pytest.mark.parametrize("source", [(0.0, 2.0), FIND, "file"])
def test_scaling_recording_and_print_scales_the_output(noisy, tmp_path, gain_db, source):
    path, audio = noisy()
    out = []
    for gain in (1.0, 10 ** (gain_db / 20)):
        write_audio(path, gain * audio, 44100, "FLOAT")
        if source == "file":
            write_audio(tmp_path / "print.wav", gain * audio[:, :88200], 44100, "FLOAT")
        settings = DenoiseSettings(clip="none", subtype="FLOAT",
                                   noise_print=tmp_path / "print.wav" if source == "file" else source)
        denoise_file(Denoiser(Wiener(), STFT()), path, tmp_path / "out.wav", settings)
        out.append(read_audio(tmp_path / "out.wav")[0] / gain)
    np.testing.assert_allclose(out[1], out[0], atol=1e-5)


def test_a_print_with_other_channels_counts_by_its_mean_power(noisy, tmp_path, rng):
    path, audio = noisy(channels=1)
    stereo = np.array([[0.01], [0.02]]) * rng.standard_normal((2, 44100))
    write_audio(tmp_path / "print.wav", stereo, 44100, "FLOAT")
    denoise_file(Denoiser(Wiener(), STFT()), path, tmp_path / "out.wav",
                 DenoiseSettings(subtype="FLOAT", noise_print=tmp_path / "print.wav"))
    expected = denoise(Denoiser(Wiener(), STFT()), audio, 44100, print_power=power_of(stereo).mean(0, keepdims=True))
    np.testing.assert_allclose(read_audio(tmp_path / "out.wav")[0], expected, atol=1e-5)


@pytest.mark.parametrize("given, spans", [
    ("0-2.5", [(0, 2.5)]), ("1:02-1:05", [(62, 65)]), ("0:00:00-0:00:02.5", [(0, 2.5)]),
    ("1:00:00-1:00:01", [(3600, 3601)]),
    (" 0:01.5 - 2. ", [(1.5, 2)]), (".5-90", [(0.5, 90)]), ((0, 2), [(0, 2)]), ([0.0, 2.5], [(0, 2.5)]),
    ([[3, 4], [0, 1]], [(0, 1), (3, 4)]), (["0-1", "1-2", "5-6"], [(0, 2), (5, 6)]), (np.array([[0, 1]]), [(0, 1)]),
    ([(0, 0.15), (1, 1.1)], [(0, 0.15), (1, 1.1)])])
def test_times_come_in_many_forms(given, spans):
    assert print_source(given) == tuple(spans) == print_source(print_source(given))


NO_SOURCE = {
    "end before start": ((2, 1), "ends after"), "as text": ("0:05-0:02", "ends after"), "empty": ("1-1", "ends after"),
    "negative": ((-1, 2), "at 0 or later"), "endless": ((0, float("inf")), "ends after"),
    "not a number": ((float("nan"), 2), "ends after"), "too short": ("0-0.2", "0.25 s"),
    "too short together": ([(0, 0.1), (1, 1.1)], "0.25 s"), "twice the same": ([(0, 0.2), (0, 0.2)], "0.25 s"),
    "words": (["begin-end"], "times"), "minutes of 75 s": ("0:75-1:50", "times"), "one time": ([3.0], "times"),
    "hours of 75 min": ("1:75:00-2:00:00", "times"), "three": ([(1, 2, 3)], "times"), "a list": ([["0-1"]], "times"),
    "times and auto": (["0-1", FIND], "times"), "no list": (5, "a file or auto"), "no times": ([], "a file or auto"),
    "a missing file": ("none.wav", "none.wav"),
}


@pytest.mark.parametrize("given, message", NO_SOURCE.values(), ids=NO_SOURCE)
def test_what_is_no_print_is_refused_at_once(model, tmp_path, given, message):
    with pytest.raises(CallError, match=re.escape(message)) as found:
        denoise_file(model, tmp_path / "not read.wav", tmp_path / "out.wav", DenoiseSettings(noise_print=given))
    assert str(found.value).startswith("expected") and "\n" not in str(found.value)


LOUD, EMPTY = 0.9, 0.0
NO_FIT = {  # what is in the file (level, seconds) or the span, and what the sentence says
    "beyond the end": ((5, 7), "ends at 0:06.00"), "behind the end": ((100, 101), "ends at 0:06.00"),
    "music": ((4, 4.5), "louder than the recording"), "silence": ((6.1, 6.9), "is silent"),
    "crumbs": ([(k / 2, k / 2 + 0.04) for k in range(8)], "0.00 s that count"),
    "a loud file": ((LOUD, 1.0), "dB louder"), "a silent file": ((EMPTY, 1.0), "is silent"),
    "a short file": ((0.01, 0.2), "0.20 s that count"), "an empty file": ((0.01, 0.0), "holds no samples"),
}


@pytest.mark.parametrize("what, message", NO_FIT.values(), ids=NO_FIT)
def test_a_print_that_does_not_fit_is_refused(rng, tmp_path, request, what, message):
    audio = recording(rng, 44100)
    audio[:, 4 * 44100 : 5 * 44100] *= 2
    if message == "is silent":
        audio = np.pad(audio, ((0, 0), (0, 44100)))
    write_audio(tmp_path / "noisy.wav", audio, 44100, "FLOAT")
    if "file" in request.node.callspec.id:
        level, seconds = what
        what = tmp_path / "print.wav"
        write_audio(what, level * rng.standard_normal((1, int(44100 * seconds))), 44100, "FLOAT")
    with pytest.raises(UserError, match=re.escape(message)):
        denoise_file(Denoiser(Wiener(), STFT()), tmp_path / "noisy.wav", tmp_path / "out.wav",
                     DenoiseSettings(noise_print=what))
    assert not (tmp_path / "out.wav").exists()


def test_a_channel_without_noise_in_the_print_is_refused(noisy, tmp_path, caplog):
    caplog.set_level("INFO")
    path, audio = noisy(channels=2)
    audio[1, :88200] = 0
    write_audio(path, audio, 44100, "FLOAT")
    with pytest.raises(CallError, match="silent in a channel"):
        denoise_file(Denoiser(Wiener(), STFT()), path, tmp_path / "out.wav", DenoiseSettings(noise_print=(0, 1)))
    report = denoise_file(Denoiser(Wiener(), STFT()), path, tmp_path / "out.wav", DenoiseSettings(noise_print=FIND))
    assert report["noise_print"] is None
    assert "what is found is no noise print" in caplog.text
    audio[1] = 0  # a channel that is silent throughout has nothing to lose
    write_audio(path, audio, 44100, "FLOAT")
    report = denoise_file(Denoiser(Wiener(), STFT()), path, tmp_path / "out.wav", DenoiseSettings(noise_print=(0, 1)))
    assert report["noise_print"]


@pytest.mark.parametrize("source", [(0, 1), FIND, "file"])
def test_a_silent_recording_needs_no_print(source, tmp_path, rng):
    """A folder may hold one: it is no error."""
    path = tmp_path / "silent.wav"
    write_audio(path, np.zeros((2, 88200)), 44100)
    if source == "file":
        source = tmp_path / "print.wav"
        write_audio(source, 0.01 * rng.standard_normal((2, 44100)), 44100)
    report = denoise_file(Denoiser(Wiener(), STFT()), path, tmp_path / "out.wav", DenoiseSettings(noise_print=source))
    assert report["noise_print"] is None and np.isnan(report["removed_db"])
    assert not read_audio(tmp_path / "out.wav")[0].any()


def test_no_more_is_read_than_the_print_needs(noisy, monkeypatch):
    path, audio = noisy(seconds=6)
    reached = []

    class Reader(print_sources.AudioReader):
        def blocks(self, n, dtype="float32"):
            for block in super().blocks(n, dtype):
                reached.append(block.shape[-1])
                yield block
    with Reader(path) as reader:
        reader.seconds = 0.0  # what a header says is not asked
        print_sources.measure_print(Denoiser(Wiener(), STFT()), ((0.5, 1.5),), reader, audio.std(1))
    assert sum(reached) <= 2 * 44100


def test_weights_without_prints_refuse_one_but_not_auto(old_model, noisy, tmp_path, caplog):
    path, _ = noisy()
    for source in ((0, 2), path):
        with pytest.raises(CallError, match="weights that take a noise print"):
            denoise_file(old_model, path, tmp_path / "out.wav", DenoiseSettings(noise_print=source))
    caplog.set_level("INFO")
    report = denoise_file(old_model, path, tmp_path / "out.wav", DenoiseSettings(noise_print=FIND))
    assert report["noise_print"] is None
    assert "take no noise print" in caplog.text


def test_the_print_is_no_place_for_the_result(noisy, model, tmp_path):
    path, audio = noisy()
    write_audio(tmp_path / "print.wav", audio[:, :44100], 44100)
    with pytest.raises(CallError, match="other than the input"):
        denoise_file(model, path, tmp_path / "print.wav", DenoiseSettings(noise_print=tmp_path / "print.wav"))


@pytest.fixture
def main(model, old_model, tmp_path, monkeypatch):
    """The command in an empty folder, with weights of either plan."""
    monkeypatch.chdir(tmp_path)
    save_weights(model, "new.pth", {})
    save_weights(old_model, "old.pth", {})

    def _main(*args, weights="new.pth"):
        batch.main([*map(str, args), "--model", weights, "--precision", "float32", "--bits", "float"])
    return _main


@pytest.mark.parametrize("flags, power", [
    (["--noise-print", "0:00-0:02"], lambda audio: power_of(audio[:, :88200])),
    (["--noise-print", "0-0.5", "--noise-print", "0:00:01-0:00:01.5"],
     lambda audio: power_of(audio[:, :22050], audio[:, 44100:66150])),
    (["--noise-print-file", "print.wav"], lambda audio: power_of(audio[:, 1000:40000])), ([], lambda audio: None)])
def test_the_command_takes_prints(main, model, noisy, flags, power):
    _, audio = noisy()
    write_audio("print.wav", audio[:, 1000:40000], 44100, "FLOAT")
    main("noisy.wav", "-o", "out.wav", *flags)
    expected = denoise(model, audio, 44100, print_power=power(audio))
    np.testing.assert_allclose(read_audio("out.wav")[0], expected, atol=1e-4)


def test_the_command_finds_prints(main, noisy, caplog):
    caplog.set_level("INFO")
    _, audio = noisy()
    write_audio("all noise.wav", audio[:, :88200], 44100)
    main("noisy.wav", "all noise.wav", "-o", "out", "--noise-print", "auto")
    assert re.search(r"noisy.wav: its noise print is 0:00.\d\d-0:01.\d\d", caplog.text)
    assert "all noise.wav: no stretch of noise alone is found" in caplog.text


@pytest.mark.parametrize("flags, message", [
    (["--noise-print", "2-1"], "ends after"), (["--noise-print", "soon"], "times"),
    (["--noise-print", "0-1", "--noise-print", "auto"], "auto alone"), (["--noise-print-file", "none.wav"], "none.wav"),
    (["--noise-print", "0-1", "--noise-print-file", "noisy.wav"], "got both"), (["--noise-print", "0-0.1"], "0.25 s")])
def test_the_command_refuses_before_any_work(main, noisy, tmp_path, flags, message):
    noisy()
    with pytest.raises(CallError, match=message):
        main("noisy.wav", "-o", "out.wav", *flags)
    assert not (tmp_path / "out.wav").exists()


def test_the_command_tells_of_weights_without_prints(main, noisy, tmp_path):
    noisy()
    with pytest.raises(CallError, match="weights that take a noise print"):
        main("noisy.wav", "-o", "out.wav", "--noise-print", "0-1", weights="old.pth")
    assert not (tmp_path / "out.wav").exists()
    main("noisy.wav", "-o", "found.wav", "--noise-print", "auto", weights="old.pth")
