import numpy as np
import pytest

from common.audio import signals
from common.audio.signals import GaussianNoise, LoopedNoise, RecordingCache, SilentError, Song, Spool
from common.audio.writing import write_audio
from common.errors import AudioError


def joined(signal, *args):
    return np.concatenate(list(signal.blocks(*args)), axis=-1)


@pytest.mark.parametrize("max_bytes", [0, 100, 1000, 10**6])
def test_a_spool_gives_back_what_it_got_from_memory_or_disk(rng, max_bytes):
    spool = Spool(max_bytes)
    blocks = [rng.standard_normal((2, n)).astype(np.float32) for n in (10, 10, 40, 3)]
    for block in blocks:
        spool.append(block)
    first = iter(spool)
    next(first)
    for _ in range(2):  # again, and while another pass is under way
        assert all(np.array_equal(a, b) for a, b in zip(spool, blocks, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first, blocks[1:], strict=True))
    held = sum(block.nbytes for block in spool._held)
    assert held <= max_bytes


def test_a_song_is_decoded_once_with_its_statistics(tmp_path, rng, monkeypatch):
    audio = (0.1 * rng.standard_normal((2, 2500))).astype(np.float32)
    audio[:, 1000:2000] *= 3
    write_audio(tmp_path / "s.wav", audio, 1000, "FLOAT")
    monkeypatch.setattr(signals, "SPOOL_BYTES", 0)
    song = Song(tmp_path / "s.wav")
    (tmp_path / "s.wav").unlink()
    assert np.array_equal(joined(song), audio) and np.array_equal(joined(song), audio)
    assert (song.sample_rate, song.channels, song.n_samples) == (1000, 2, 2500)
    assert song.power == pytest.approx(np.square(audio, dtype=float).mean()) and song.peak == np.abs(audio).max()
    expected = [np.sqrt(np.square(audio[:, s : s + 1000], dtype=float).mean()) for s in (0, 1000)]
    np.testing.assert_allclose(song.second_rms, expected)


@pytest.mark.parametrize("n, offset, channels", [(5, 0, 2), (300, 7, 2), (1000, 99, 1), (2501, 50, 1), (100, 0, 1)])
def test_noise_is_looped_from_its_offset_with_zero_mean(rng, n, offset, channels):
    recording = rng.standard_normal((1, 100)).astype(np.float32) + 3
    noise = LoopedNoise(recording, channels, n, offset, block_samples=70)
    whole = joined(noise, 2.5)
    assert whole.shape == (channels, n) and np.array_equal(whole[0], whole[-1])
    expected = recording[0, (offset + np.arange(n)) % 100].astype(float)
    expected -= expected.mean()
    np.testing.assert_allclose(whole[0], 2.5 * expected, atol=1e-5)
    assert noise.power == pytest.approx(np.square(expected).mean(), rel=1e-5)
    assert noise.peak == pytest.approx(np.abs(expected).max(), rel=1e-5)
    assert noise.loops == (offset + n - 1) // 100 + 1


def test_channels_are_brought_to_the_song():
    stereo = np.stack([np.sin(np.arange(1000.0)), np.cos(np.arange(1000.0))]).astype(np.float32)
    kept = joined(LoopedNoise(stereo, 2, 1000, 0, 300))
    np.testing.assert_allclose(kept, stereo - stereo.mean(1, keepdims=True), atol=1e-6)
    mono = joined(LoopedNoise(stereo, 1, 1000, 0, 300))
    np.testing.assert_allclose(mono, stereo.mean(0, keepdims=True) - stereo.mean(), atol=1e-5)
    six = joined(LoopedNoise(stereo, 6, 1000, 0, 300))
    assert six.shape == (6, 1000) and np.array_equal(six[0], mono[0]) and np.array_equal(six[5], mono[0])


@pytest.mark.parametrize("max_bytes", [0, 10**9])
def test_white_noise_is_white_and_decided_by_its_seed(monkeypatch, max_bytes):
    monkeypatch.setattr(signals.Spool.__init__, "__defaults__", (max_bytes,))
    noise = GaussianNoise(1, 2, 50000, 7000)
    a, b = joined(noise), joined(GaussianNoise(2, 2, 50000, 7000))
    assert a.shape == (2, 50000) and np.array_equal(a, joined(GaussianNoise(1, 2, 50000, 7000)))
    np.testing.assert_allclose(joined(noise, 0.25), a / 4, atol=1e-6)
    assert np.abs(a.mean(axis=1)).max() < 1e-6 and a.std() == pytest.approx(1, rel=0.02)
    assert noise.power == pytest.approx(np.square(a, dtype=float).mean(), rel=1e-6)
    assert np.abs(a).max() - 1e-6 <= noise.peak < np.abs(a).max() + 0.1  # to the rounding of float32
    assert abs(np.corrcoef(a[0], a[1])[0, 1]) < 0.02 and abs(np.corrcoef(a[0], b[0])[0, 1]) < 0.02
    spectrum = np.abs(np.fft.rfft(a[0])) ** 2
    assert spectrum[:12500].mean() == pytest.approx(spectrum[12500:].mean(), rel=0.05)


def test_silence_has_no_snr(tmp_path):
    with pytest.raises(SilentError, match="silent"):
        LoopedNoise(np.ones((1, 100), np.float32), 1, 50, 0, 10)  # a constant is no signal
    write_audio(tmp_path / "s.wav", np.zeros((1, 100), np.float32), 8000)
    with pytest.raises(SilentError, match=r"s\.wav is silent"):
        Song(tmp_path / "s.wav")
    write_audio(tmp_path / "e.wav", np.zeros((1, 0), np.float32), 8000)
    with pytest.raises(AudioError, match="no samples"):
        Song(tmp_path / "e.wav")


def test_recordings_are_kept_within_bounds(tmp_path, rng):
    for name in "abc":
        write_audio(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal((1, 1000)), 8000)
    cache = RecordingCache(max_bytes=2 * 4 * 1000)
    first = cache.get(tmp_path / "a.wav", 8000)
    assert cache.get(tmp_path / "a.wav", 8000) is first  # not decoded again
    cache.get(tmp_path / "b.wav", 8000)
    cache.get(tmp_path / "a.wav", 8000)
    cache.get(tmp_path / "c.wav", 8000)  # b has not been used for longest
    assert [path[-5:] for path, _ in cache._held] == ["a.wav", "c.wav"]
    assert cache.get(tmp_path / "c.wav", 16000).shape == (1, 2000)
    assert sum(a.nbytes for a in cache._held.values()) <= 8000


def test_of_an_endless_recording_only_a_part_is_read(tmp_path, rng, monkeypatch):
    write_audio(tmp_path / "long.wav", 0.1 * rng.standard_normal((1, 5000)), 1000)
    monkeypatch.setattr(signals, "MAX_NOISE_SECONDS", 3)
    assert RecordingCache().get(tmp_path / "long.wav", 1000).shape == (1, 3000)
