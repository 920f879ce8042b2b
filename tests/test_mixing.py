import numpy as np
import pytest
import torch
import torchaudio

from common import mixing


def _song(levels, rate=1000):
    """One second of square wave per level."""
    return np.concatenate([np.full(rate, level) * np.tile([1, -1], rate // 2) for level in levels])[None].astype(
        np.float32)


@pytest.mark.parametrize("levels, expected", [
    ((0.5, 0.4, 0.3), (0.0, 25.0)), ((0.5, 0.1, 0.3), (2.0, 27.0)), ((0.5, 0.01, 0.3), (4.0, 30.0)),
    ((0.5, 0.0, 0.4), (0.0, 25.0)),  # a silent second is no dynamics
])
def test_the_snr_range_follows_the_dynamics(levels, expected):
    assert mixing.snr_range_db(_song(levels), 1000) == expected


def test_dynamics_is_a_ratio_of_rms():
    assert mixing.dynamics(_song((0.5, 0.1)), 1000) == pytest.approx(5, rel=1e-5)


@pytest.mark.parametrize("snr", [-3.0, 0.0, 12.5, 30.0])
def test_the_mixture_has_its_snr_and_agrees_with_torchaudio(rng, snr):
    song, noise = (rng.standard_normal((2, 30000)).astype(np.float32) * s for s in (0.02, 0.3))
    pair = mixing.mix_pair(song, noise, snr)
    assert pair.gain == 1 and np.array_equal(pair.target, song)
    assert mixing.snr_db(song, pair.input - song) == pytest.approx(snr, abs=0.01)
    # torchaudio sets the SNR of each channel; over one channel the laws are the same.
    one = mixing.mix_pair(song[:1], noise[:1], snr).input
    second_opinion = torchaudio.functional.add_noise(torch.from_numpy(song[:1]), torch.from_numpy(noise[:1]),
                                                     torch.tensor([snr])).numpy()
    np.testing.assert_allclose(one, second_opinion, atol=1e-6)


def test_loud_pairs_share_one_gain_and_do_not_clip(rng):
    song, n1, n2 = (rng.uniform(-0.9, 0.9, (1, 20000)).astype(np.float32) for _ in range(3))
    pair = mixing.mix_pair(song, n1, 0.0, n2, 5.0)
    assert pair.gain < 1
    assert max(np.abs(pair.input).max(), np.abs(pair.target).max()) == pytest.approx(mixing.PEAK, abs=1e-4)
    for member, noise, snr in ((pair.input, n1, 0.0), (pair.target, n2, 5.0)):
        rest = member / pair.gain - song
        assert mixing.snr_db(song, rest) == pytest.approx(snr, abs=0.01)
        assert np.corrcoef(rest[0], noise[0])[0, 1] > 0.9999


@pytest.mark.parametrize("n, offset", [(5, 0), (300, 7), (1000, 99), (2501, 50)])
def test_noise_is_looped_from_its_offset_with_zero_mean(rng, n, offset):
    noise = rng.standard_normal((1, 100)).astype(np.float32) + 3
    fitted = mixing.fit_noise(noise, 2, n, offset)
    assert fitted.shape == (2, n) and np.array_equal(fitted[0], fitted[1])
    assert abs(fitted.mean()) < 1e-5
    expected = noise[0, (offset + np.arange(n)) % 100]
    np.testing.assert_allclose(fitted[0], expected - expected.mean(), atol=1e-5)


def test_channels_are_brought_to_the_song():
    stereo = np.stack([np.sin(np.arange(1000.0)), np.cos(np.arange(1000.0))]).astype(np.float32)
    assert np.array_equal(mixing.fit_noise(stereo, 2, 1000, 0).shape, (2, 1000))
    mono = mixing.fit_noise(stereo, 1, 1000, 0)
    np.testing.assert_allclose(mono, stereo.mean(0, keepdims=True) - stereo.mean(), atol=1e-5)


def test_white_noise_is_white_and_decided_by_its_seed():
    a, b = mixing.white_noise(1, 2, 50000), mixing.white_noise(2, 2, 50000)
    assert np.array_equal(a, mixing.white_noise(1, 2, 50000))
    assert a.std() == pytest.approx(1, rel=0.02)
    assert abs(np.corrcoef(a[0], a[1])[0, 1]) < 0.02 and abs(np.corrcoef(a[0], b[0])[0, 1]) < 0.02
    spectrum = np.abs(np.fft.rfft(a[0])) ** 2
    assert spectrum[:12500].mean() == pytest.approx(spectrum[12500:].mean(), rel=0.05)


def test_silence_has_no_snr():
    with pytest.raises(mixing.SilentError, match="silent"):
        mixing.mix_pair(np.zeros((1, 100), np.float32), np.ones((1, 100), np.float32), 5)
    with pytest.raises(mixing.SilentError, match="silent"):
        mixing.fit_noise(np.ones((1, 100), np.float32), 1, 50, 0)
