"""The long-audio path against the signal properties."""

import re

import numpy as np
import pytest
import soundfile as sf
import torch

from common.audio.reading import read_audio
from common.audio.writing import write_audio
from common.denoising import chunks as noise_module
from common.denoising import files as denoising
from common.denoising.chunks import chunk_noise, context_samples, noise_stream
from common.denoising.files import (
    DenoiseSettings,
    denoise,
    denoise_file,
    effective_strength,
    log_progress,
    measure_level,
)
from common.errors import CallError, UserError
from common.network.checkpoints import load_weights
from common.network.dcunet import DCUNet20
from common.network.inference import inference_form
from common.network.model import Denoiser
from common.network.stft import STFT

GRID = 16 * 512
CORE = 2 * GRID  # net chunk of the tests, in samples
CONTEXT = 128 * 512


def _db(error, reference):
    return 20 * np.log10(np.abs(error).max() / np.abs(reference).max() + 1e-30)


@pytest.fixture(scope="module", params=["training form", "inference form"])
def either(request, model):
    return model if request.param == "training form" else inference_form(model, "cpu", "float32")


def found_noise(model, blocks, level, **options):
    """All of noise_stream, as one array; checks that the sound comes through."""
    sound, noise = (np.concatenate(x, axis=1) for x in zip(*noise_stream(model, blocks, level, **options), strict=True))
    assert np.array_equal(sound, np.concatenate(blocks, axis=1).astype(np.float32))
    return noise


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 192000])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("n", [1, 2, 3000])
def test_length_and_channels_are_kept(either, rng, rate, channels, n):
    """S1"""
    audio = (0.1 * rng.standard_normal((channels, n))).astype(np.float32)
    out = denoise(either, audio, rate)
    assert out.shape == audio.shape and out.dtype == audio.dtype and np.isfinite(out).all()


@pytest.mark.parametrize("n", [CORE + CONTEXT + d for d in (-1, 0, 1)] + [2 * CORE + CONTEXT + d for d in (-1, 0, 511)]
                         + [CORE, CORE + 1, 5 * CORE + 777])
@pytest.mark.parametrize("block", [10_007, 1 << 20])
def test_chunks_equal_one_pass(model, rng, n, block, monkeypatch):
    """S4 and S1 around every chunk boundary, whatever blocks come in."""
    audio = (0.1 * rng.standard_normal((1, n)) * (1 + np.sin(np.arange(n) / 9000))).astype(np.float32)
    level = measure_level([audio])
    whole = found_noise(model, [audio], level, chunk_seconds=60)
    calls = []
    monkeypatch.setattr(noise_module, "chunk_noise", lambda *a: calls.append(a[1].shape[1]) or chunk_noise(*a))
    chunked = found_noise(model, [audio[:, i : i + block] for i in range(0, n, block)], level,
                          chunk_seconds=CORE / 44100)
    assert chunked.shape == audio.shape
    assert len(calls) == -(-n // CORE) and max(calls) <= 2 * CONTEXT + CORE
    assert _db(chunked - whole, whole) < -60


def test_only_the_edges_hear_the_mirror_image(model, rng):
    """Further inside, the result is that of the network on the signal alone."""
    audio = (0.1 * rng.standard_normal((1, 4 * CONTEXT))).astype(np.float32)
    level = measure_level([audio])
    alone, mirrored = chunk_noise(model, audio, level), found_noise(model, [audio], level)
    inner = slice(CONTEXT, -CONTEXT)
    assert context_samples(model) == CONTEXT
    assert _db((alone - mirrored)[:, inner], alone) < -60 < _db((alone - mirrored)[:, -5000:], alone)


def test_too_little_context_would_be_noticed(rng, monkeypatch):
    model = load_weights("mixed")[0]  # an untrained network hardly looks as far as it could
    audio = (0.1 * rng.standard_normal((1, 6 * CORE + CONTEXT))).astype(np.float32)
    level = measure_level([audio])
    whole = found_noise(model, [audio], level)
    monkeypatch.setattr(noise_module, "context_samples", lambda model: GRID)
    assert _db(found_noise(model, [audio], level, chunk_seconds=CORE / 44100) - whole, whole) > -60


def test_memory_does_not_grow_with_the_song(either, rng):
    """S4: the samples held back stay the same for a stream four times as long."""
    behind = {}
    for n_blocks in (10, 40):
        produced, done, waiting = 0, 0, []

        def blocks(n=n_blocks):
            nonlocal produced
            for _ in range(n):
                produced += 22050
                yield rng.standard_normal((2, 22050)).astype(np.float32)

        for _, out in noise_stream(either, blocks(), np.ones(2), chunk_seconds=1.0):
            done += out.shape[1]
            waiting.append(produced - done)
        behind[n_blocks] = max(waiting)
        assert done == produced
    assert behind[40] <= behind[10] + 22050  # a block, by which the two differ in phase


@pytest.mark.parametrize("rate", [44100, 48000])
def test_strength_is_a_share_of_the_noise(either, rng, rate):
    """S2: 0 returns the input bit for bit, and the removed noise grows in proportion."""
    audio = 0.1 * rng.standard_normal((2, 30000))
    assert np.array_equal(denoise(either, audio, rate, strength=0), audio)
    full, half = (audio - denoise(either, audio, rate, strength=s) for s in (1, 0.5))
    assert np.abs(full).max() > 0.01
    np.testing.assert_allclose(half, full / 2, atol=1e-9)


def test_content_above_the_networks_band_is_untouched(either):
    """S2: at 96 kHz a tone at 30 kHz passes, whatever the network does below 22 kHz."""
    t = np.arange(96000) / 96000
    low = 0.2 * np.sin(2 * np.pi * 3000 * t) + 0.05 * np.random.default_rng(0).standard_normal(96000)
    audio = np.stack([low + 0.1 * np.sin(2 * np.pi * 30000 * t)])
    removed = audio - denoise(either, audio, 96000)
    spectrum = np.abs(np.fft.rfft(removed[0] * np.hanning(96000)))
    assert spectrum[:20000].max() > 1
    assert 20 * np.log10(spectrum[24000:].max() / spectrum[:20000].max()) < -60


@pytest.mark.parametrize("gain_db", [-40, -6, 20])
@pytest.mark.parametrize("rate", [44100, 48000])
def test_scaling_the_input_scales_the_output(either, rng, gain_db, rate):
    """S3"""
    audio = 0.05 * rng.standard_normal((2, 40000))
    gain = 10 ** (gain_db / 20)
    plain, scaled = denoise(either, audio, rate), denoise(either, gain * audio, rate)
    assert _db(scaled / gain - plain, plain) < -90


def test_silence_stays_silent(either):
    assert not denoise(either, np.zeros((2, 5000), np.float32), 44100).any()
    one_silent = np.stack([np.zeros(60000), 0.1 * np.random.default_rng(0).standard_normal(60000)])
    out = denoise(either, one_silent, 44100)
    assert not out[0].any() and out[1].any()


def test_an_attenuation_limit_keeps_a_share_of_everything(either, rng):
    audio = 0.1 * rng.standard_normal((1, 30000))
    removed = audio - denoise(either, audio, 44100)
    limited = audio - denoise(either, audio, 44100, attenuation_limit_db=20)
    np.testing.assert_allclose(limited, 0.9 * removed, atol=1e-9)
    assert np.array_equal(denoise(either, audio, 44100, attenuation_limit_db=0), audio)


class _Turning(DCUNet20):
    """A mask of minus a third: what it keeps, it turns."""

    def forward(self, planes):
        mask = torch.zeros_like(planes[:, :2])
        mask[:, 0] = -1 / 3
        return mask


def test_an_attenuation_limit_is_a_mix_and_no_bound(rng):
    """At 20 log10(4) dB a quarter of the input and three quarters of the denoised sound, which may cancel."""
    turning = Denoiser(_Turning(1), STFT())
    audio = 0.1 * rng.standard_normal((1, 30000))
    limit = 20 * np.log10(4)
    mixed = denoise(turning, audio, 44100, attenuation_limit_db=limit)
    np.testing.assert_allclose(mixed, audio / 4 + denoise(turning, audio, 44100) * 3 / 4, atol=1e-9)
    assert _db(mixed, audio) < -80
    assert effective_strength(0.5, limit) == 0.5 and effective_strength(1, np.inf) == 1


@pytest.mark.parametrize("wrong", [{"strength": -0.1}, {"strength": 1.1}, {"attenuation_limit_db": -1},
                                   {"strength": np.nan}, {"attenuation_limit_db": np.nan}])
def test_wrong_controls_are_refused(model, wrong):
    with pytest.raises(CallError, match="expected"):
        denoise(model, np.zeros((1, 10)), 44100, **wrong)


@pytest.mark.parametrize("shape", [(1000,), (1000, 2), (1, 0)])
def test_arrays_of_another_layout_are_refused(model, shape):
    with pytest.raises(CallError, match="channels, samples"):
        denoise(model, np.zeros(shape), 44100)


@pytest.mark.parametrize("suffix, subtype", [(".wav", "PCM_16"), (".wav", "PCM_24"), (".wav", "FLOAT"),
                                             (".flac", "PCM_16")])
def test_files_keep_their_format_and_strength_0_their_samples(model, rng, tmp_path, suffix, subtype):
    audio = (0.2 * rng.standard_normal((2, 50000))).astype(np.float32)
    source, target, removed = (tmp_path / f"{name}{suffix}" for name in ("in", "out", "removed"))
    write_audio(source, audio, 48000, subtype)
    denoise_file(model, source, target, DenoiseSettings(strength=0))
    assert sf.info(target).subtype == subtype and sf.info(target).samplerate == 48000
    assert np.array_equal(read_audio(source)[0], read_audio(target)[0])
    report = denoise_file(model, source, target, residual_path=removed)
    noisy, out, rest = (read_audio(p)[0] for p in (source, target, removed))
    assert np.abs(noisy - out - rest).max() < 2 / 32768
    ratio_db = 10 * np.log10(np.square(rest).sum() / np.square(noisy).sum())
    assert report["removed_db"] == pytest.approx(ratio_db, abs=0.05)
    np.testing.assert_allclose(out, denoise(model, noisy, 48000), atol=2 / 32768)


def test_a_compressed_song_is_denoised(model, corpus, tmp_path):
    source = corpus[0] / "test" / "Nimbus.stem.mp4"
    report = denoise_file(model, source, tmp_path / "out.wav")
    assert report["channels"] == 2 and read_audio(tmp_path / "out.wav")[0].shape == read_audio(source)[0].shape


def test_a_failed_run_leaves_no_output(model, tmp_path, rng, monkeypatch):
    write_audio(tmp_path / "in.wav", 0.1 * rng.standard_normal((1, 300000)).astype(np.float32), 44100)

    def broken(*_):
        raise UserError("broken")

    monkeypatch.setattr(noise_module, "chunk_noise", broken)
    with pytest.raises(UserError, match="broken"):
        denoise_file(model, tmp_path / "in.wav", tmp_path / "out.wav", residual_path=tmp_path / "rest.wav")
    assert [p.name for p in tmp_path.iterdir()] == ["in.wav"]


def test_an_interruption_leaves_no_output(model, tmp_path, rng):
    """Ctrl-C in the middle, with samples already waiting to be rescaled."""
    write_audio(tmp_path / "in.wav", 0.1 * rng.standard_normal((1, 900000)).astype(np.float32), 44100)

    def interrupt(seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        denoise_file(inference_form(model, "cpu", "float32"), tmp_path / "in.wav", tmp_path / "out.flac",
                     residual_path=tmp_path / "rest.wav", progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["in.wav"]


@pytest.mark.parametrize("clip, subtype", [("rescale", "PCM_16"), ("rescale", "PCM_24"), ("limit", "PCM_16"),
                                           ("none", "FLOAT")])
def test_a_peak_above_full_scale_follows_the_policy(model, tmp_path, clip, subtype):
    """The input itself peaks above full scale, and strength 0 passes it on."""
    audio = 1.5 * np.sin(np.arange(50000) / 30)[None].astype(np.float32)
    write_audio(tmp_path / "in.wav", audio, 44100, "FLOAT")
    report = denoise_file(model, tmp_path / "in.wav", tmp_path / "out.wav", DenoiseSettings(0, None, clip, subtype))
    out, _ = read_audio(tmp_path / "out.wav")
    assert report["peak"] == pytest.approx(1.5, abs=1e-4)
    if clip == "rescale":
        assert report["gain"] == pytest.approx(1 / 1.5, rel=1e-4) and report["limited_samples"] == 0
        np.testing.assert_allclose(out, report["gain"] * audio, atol=1 / 32768)
    elif clip == "limit":
        assert report["gain"] == 1 and report["limited_samples"] > 10000 and np.abs(out).max() <= 1
    else:
        assert np.array_equal(out, audio)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.wav", "out.wav"]


def test_whole_numbers_cannot_hold_a_peak_above_full_scale(model, tmp_path):
    write_audio(tmp_path / "in.wav", np.ones((1, 10), np.float32), 44100)
    with pytest.raises(CallError, match="clip policy none"):
        denoise_file(model, tmp_path / "in.wav", tmp_path / "out.wav", DenoiseSettings(clip="none"))


@pytest.mark.parametrize("level_difference_db", [3, 12, 40])
def test_the_stereo_image_survives(either, level_difference_db):
    """Level difference within 0.5 dB and correlation within 0.02, of a panned clean source.

    Every channel has its own mask; since its level is normalised, a panned source is the same to the network in
    either channel, and so is its mask.
    """
    rng, n = np.random.default_rng(0), 150000
    source = np.convolve(rng.standard_normal(n), np.hanning(30) / 10, "same")
    gain = 10 ** (-level_difference_db / 20)
    clean = np.stack([source, gain * source]) * 0.1
    out = denoise(either, clean.astype(np.float32), 44100).astype(float)
    levels = np.sqrt(np.square(out).mean(1))
    assert 20 * np.log10(levels[0] / levels[1]) == pytest.approx(level_difference_db, abs=0.5)
    assert np.corrcoef(out)[0, 1] == pytest.approx(np.corrcoef(clean)[0, 1], abs=0.02)


@pytest.mark.parametrize("output, residual", [("a.wav", None), ("A.WAV", None), ("b.wav", "a.wav"), ("b.wav", "b.wav"),
                                              ("b.wav", "B.wav")])
def test_no_file_is_written_over_another(model, tmp_path, monkeypatch, output, residual):
    monkeypatch.chdir(tmp_path)
    write_audio("a.wav", np.ones((1, 10), np.float32), 44100)
    with pytest.raises(CallError, match=r"other than the input|would both become"):
        denoise_file(model, "a.wav", output, residual_path=residual)


@pytest.fixture
def progress(tmp_path, monkeypatch, caplog):
    """Report (time, seconds of audio done) to log_progress of a file of 88 s, or of an empty one; what is logged."""
    caplog.set_level("INFO")

    def _progress(calls, seconds=88):
        write_audio(tmp_path / "a.wav", np.zeros((1, 1000 * seconds), np.float32), 1000)
        clock = [0.0]
        monkeypatch.setattr(denoising.time, "monotonic", lambda: clock[0])
        report = log_progress(tmp_path / "a.wav")
        for clock[0], done in calls:
            report(done)
        return [record.getMessage() for record in caplog.records]
    return _progress


def test_time_left_is_told_from_the_speed_since_the_start(progress):
    """14 s to load and to measure, then 4 s of audio a second: what took its time once is not expected again."""
    calls = [(14 + t, 2 + 4 * t) for t in range(22)]
    assert progress(calls) == ["2 of 88 s of audio done", "46 of 88 s of audio done, about 10 s left"]


def test_a_burst_of_blocks_is_not_taken_for_the_speed(progress):
    """35 s of audio every 20 s, in blocks."""
    calls = [(20 * n + 0.01 * k, 35 * (n - 1) + 3.5 * k) for n in (1, 2, 3) for k in range(1, 11)]
    said = progress(calls, 105)
    assert said[0] == "4 of 105 s of audio done" and len(said) == 3
    left = [float(re.search(r"about (\d+) s left", line)[1]) for line in said[1:]]
    assert left == pytest.approx([40 - 2, 20 - 2], abs=2)


@pytest.mark.parametrize("calls, seconds, said", [
    ([(1, 1), (9, 20)], 88, []), ([(11, 50), (22, 90)], 88, ["50 of 88 s of audio done", "90 s of audio done"]),
    ([(11, 50), (22, 90)], 0, ["50 s of audio done", "90 s of audio done"]),
    ([(11, 5), (22, 5)], 88, ["5 of 88 s of audio done"] * 2),
    ([(11, 2), (22, 88)], 88, ["2 of 88 s of audio done", "88 of 88 s of audio done, about 0 s left"])])
def test_progress_says_no_more_than_it_knows(progress, calls, seconds, said):
    assert progress(calls, seconds) == said
