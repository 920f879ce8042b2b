"""The long-audio path against the signal properties."""

import numpy as np
import pytest
import soundfile as sf

from common import denoising
from common.audio import read_audio, write_audio
from common.denoising import denoise, denoise_file, measure_level
from common.errors import CallError, UserError
from common.noise_stream import chunk_noise, noise_stream

GRID = 16 * 512
CORE = 2 * GRID  # net chunk of the tests, in samples
CONTEXT = 128 * 512


def _db(error, reference):
    return 20 * np.log10(np.abs(error).max() / np.abs(reference).max() + 1e-30)


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 192000])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("n", [1, 2, 3000])
def test_length_and_channels_are_kept(model, rng, rate, channels, n):
    """S1"""
    audio = (0.1 * rng.standard_normal((channels, n))).astype(np.float32)
    out = denoise(model, audio, rate)
    assert out.shape == audio.shape and out.dtype == audio.dtype and np.isfinite(out).all()


@pytest.mark.parametrize("n", [CORE + CONTEXT + d for d in (-1, 0, 1)] + [2 * CORE + CONTEXT + d for d in (-1, 0, 511)]
                         + [CORE, CORE + 1, 5 * CORE + 777])
def test_chunks_equal_one_pass(model, rng, n, monkeypatch):
    """S4 and S1 around every chunk boundary."""
    audio = (0.1 * rng.standard_normal((1, n)) * (1 + np.sin(np.arange(n) / 9000))).astype(np.float32)
    level = measure_level([audio])
    whole = chunk_noise(model, audio, level)
    calls = []
    monkeypatch.setattr(denoising, "chunk_noise", lambda *a: calls.append(a[1].shape[1]) or chunk_noise(*a))
    seconds = CORE / 44100
    chunked = np.concatenate(list(noise_stream(model, [audio], level, seconds)), axis=1)
    assert chunked.shape == audio.shape
    assert len(calls) == max(0, (n - CONTEXT) // CORE) + 1
    assert max(calls) <= 2 * CONTEXT + 2 * CORE
    assert _db(chunked - whole, whole) < -60


def test_too_little_context_would_be_noticed(model, rng, monkeypatch):
    audio = (0.1 * rng.standard_normal((1, 6 * CORE + CONTEXT))).astype(np.float32)
    level = measure_level([audio])
    monkeypatch.setattr(denoising, "context_frames", lambda: 16)
    chunked = np.concatenate(list(noise_stream(model, [audio], level, CORE / 44100)), axis=1)
    whole = chunk_noise(model, audio, level)
    assert _db(chunked - whole, whole) > -60


def test_memory_does_not_grow_with_the_song(model, rng, monkeypatch):
    """S4: the longest window and the samples held back stay the same for a stream four times as long."""
    longest = {}
    for n_blocks in (8, 32):
        sizes = []
        monkeypatch.setattr(denoising, "chunk_noise", lambda m, a, level: sizes.append(a.shape[1]) or 0 * a)  # noqa: B023
        blocks = (rng.standard_normal((2, 44100)).astype(np.float32) for _ in range(n_blocks))
        held = []

        def watched(blocks=blocks, held=held):
            produced = 0
            for block in blocks:
                produced += block.shape[1]
                held.append(produced)
                yield block

        done = 0
        behind = []
        for out, _ in denoising.denoise_stream(model, watched(), 48000, np.ones(2), chunk_seconds=1.0):
            done += out.shape[1]
            behind.append(held[-1] - done)
        longest[n_blocks] = (max(sizes), max(behind))
        assert done == n_blocks * 44100
    assert longest[8] == longest[32]


@pytest.mark.parametrize("rate", [44100, 48000])
def test_strength_is_a_share_of_the_noise(model, rng, rate):
    """S2: 0 returns the input bit for bit, and the removed noise grows in proportion."""
    audio = 0.1 * rng.standard_normal((2, 30000))
    assert np.array_equal(denoise(model, audio, rate, strength=0), audio)
    full, half = (audio - denoise(model, audio, rate, strength=s) for s in (1, 0.5))
    assert np.abs(full).max() > 0.01
    np.testing.assert_allclose(half, full / 2, atol=1e-9)


def test_content_above_the_networks_band_is_untouched(model):
    """S2: at 96 kHz a tone at 30 kHz passes, whatever the network does below 22 kHz."""
    t = np.arange(96000) / 96000
    low = 0.2 * np.sin(2 * np.pi * 3000 * t) + 0.05 * np.random.default_rng(0).standard_normal(96000)
    audio = np.stack([low + 0.1 * np.sin(2 * np.pi * 30000 * t)])
    removed = audio - denoise(model, audio, 96000)
    spectrum = np.abs(np.fft.rfft(removed[0] * np.hanning(96000)))
    assert spectrum[:20000].max() > 1
    assert 20 * np.log10(spectrum[24000:].max() / spectrum[:20000].max()) < -60


@pytest.mark.parametrize("gain_db", [-40, -6, 20])
@pytest.mark.parametrize("rate", [44100, 48000])
def test_scaling_the_input_scales_the_output(model, rng, gain_db, rate):
    """S3"""
    audio = 0.05 * rng.standard_normal((2, 40000))
    gain = 10 ** (gain_db / 20)
    plain, scaled = denoise(model, audio, rate), denoise(model, gain * audio, rate)
    assert _db(scaled / gain - plain, plain) < -90


def test_silence_stays_silent(model):
    assert not denoise(model, np.zeros((2, 5000), np.float32), 44100).any()
    one_silent = np.stack([np.zeros(60000), 0.1 * np.random.default_rng(0).standard_normal(60000)])
    out = denoise(model, one_silent, 44100)
    assert not out[0].any() and out[1].any()


def test_an_attenuation_limit_keeps_a_share_of_everything(model, rng):
    audio = 0.1 * rng.standard_normal((1, 30000))
    removed = audio - denoise(model, audio, 44100)
    limited = audio - denoise(model, audio, 44100, attenuation_limit_db=20)
    np.testing.assert_allclose(limited, 0.9 * removed, atol=1e-9)
    assert np.array_equal(denoise(model, audio, 44100, attenuation_limit_db=0), audio)


@pytest.mark.parametrize("wrong", [{"strength": -0.1}, {"strength": 1.1}, {"attenuation_limit_db": -1}])
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
    denoise_file(model, source, target, strength=0)
    assert sf.info(target).subtype == subtype and sf.info(target).samplerate == 48000
    assert np.array_equal(read_audio(source)[0], read_audio(target)[0])
    report = denoise_file(model, source, target, residual_path=removed, chunk_seconds=0.5)
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

    monkeypatch.setattr(denoising, "chunk_noise", broken)
    with pytest.raises(UserError, match="broken"):
        denoise_file(model, tmp_path / "in.wav", tmp_path / "out.wav", residual_path=tmp_path / "rest.wav")
    assert [p.name for p in tmp_path.iterdir()] == ["in.wav"]


def test_input_and_output_must_differ(model, tmp_path):
    write_audio(tmp_path / "a.wav", np.ones((1, 10), np.float32), 44100)
    with pytest.raises(CallError, match="other than the input"):
        denoise_file(model, tmp_path / "a.wav", tmp_path / "a.wav")
