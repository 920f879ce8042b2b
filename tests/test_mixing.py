import numpy as np
import pytest
import soundfile as sf
import torch
from torchmetrics.functional.audio import signal_noise_ratio

from common.audio.signals import LoopedNoise, Song
from common.audio.writing import write_audio
from common.data import mixing_law
from tests.conftest import measured_snr_db


@pytest.mark.parametrize("rms, expected", [
    ((0.5, 0.4, 0.3), (0.0, 25.0)), ((0.5, 0.1, 0.3), (2.0, 27.0)), ((0.5, 0.01, 0.3), (4.0, 30.0)),
    ((0.5, 0.0, 0.4), (0.0, 25.0)),  # a silent second is no dynamics
])
def test_the_snr_range_follows_the_dynamics(rms, expected):
    assert mixing_law.snr_range_db(np.array(rms)) == expected


@pytest.fixture
def song(tmp_path):
    """Make a Song of (channels, samples) at 8 kHz."""
    def _song(audio):
        write_audio(tmp_path / "song.wav", audio.astype(np.float32), 8000, "FLOAT")
        return Song(tmp_path / "song.wav")
    return _song


def _noise(audio, song):
    return LoopedNoise(audio, song.channels, song.n_samples, 0, song.sample_rate)


def _mixed(song, member):
    return np.concatenate([mixed for _, mixed in mixing_law.mixture(song, member)], axis=-1)


@pytest.mark.parametrize("snr", [-3.0, 0.0, 12.5, 30.0])
def test_the_mixture_has_its_snr_and_agrees_with_torchmetrics(rng, song, snr):
    clean, noise = (rng.standard_normal((2, 30000)).astype(np.float32) * s for s in (0.02, 0.3))
    noise -= noise.mean(axis=1, keepdims=True)
    music = song(clean)
    mixed = _mixed(music, mixing_law.at_snr(_noise(noise, music), music, snr))
    assert measured_snr_db(clean, mixed - clean) == pytest.approx(snr, abs=0.001)
    # One gain for both channels: over all samples in one row the laws are the same.
    second_opinion = signal_noise_ratio(torch.from_numpy(mixed.ravel()), torch.from_numpy(clean.ravel()))
    assert float(second_opinion) == pytest.approx(snr, abs=0.001)
    gain = np.vdot(noise, mixed - clean) / np.vdot(noise, noise)
    np.testing.assert_allclose(mixed, clean + gain * noise, atol=1e-6)


@pytest.mark.parametrize("level, n_noises", [(0.9, 2), (0.9, 1), (0.01, 2)])
def test_a_pair_shares_one_gain_and_does_not_clip(rng, song, tmp_path, level, n_noises):
    clean = rng.uniform(-level, level, (2, 20000))
    music = song(clean)
    members = [mixing_law.at_snr(_noise(rng.uniform(-1, 1, (2, 3000)).astype(np.float32), music), music, snr)
               for snr in (0.0, 5.0)][:n_noises]
    members = [*members, None][:2]
    gain = mixing_law.pair_gain(music, members)
    peak = max(np.abs(_mixed(music, member)).max() for member in members)
    assert gain == (1 if peak <= mixing_law.PEAK else pytest.approx(mixing_law.PEAK / peak, rel=1e-6))
    assert (gain < 1) == (level == 0.9)
    paths = [tmp_path / "i.wav", tmp_path / "t.flac"]
    realised = mixing_law.write_pair(music, members, gain, paths)
    for path, member, snr in zip(paths, members, realised, strict=True):
        samples = sf.read(path, dtype="int16", always_2d=True)[0].T
        np.testing.assert_allclose(samples / 32768, gain * _mixed(music, member), atol=0.501 / 32768)
        assert np.abs(samples.astype(int)).max() <= round(mixing_law.PEAK * 32768)
        if member is None:
            assert snr is None
        else:
            assert snr == pytest.approx(measured_snr_db(clean, samples / 32768 / gain - clean), abs=1e-3)


def test_a_pair_is_written_whole_or_not_at_all(rng, song, tmp_path, monkeypatch):
    music = song(0.1 * rng.standard_normal((1, 20000)))
    noise = _noise(rng.standard_normal((1, 900)).astype(np.float32), music)
    paths, made = [tmp_path / "out" / "i.wav", tmp_path / "out" / "t.wav"], []
    replace = mixing_law.AudioWriter.__exit__

    def counting(self, *error):
        made.append(sorted(p.name for p in self.path.parent.iterdir() if not p.name.startswith(".")))
        return replace(self, *error)

    monkeypatch.setattr(mixing_law.AudioWriter, "__exit__", counting)
    mixing_law.write_pair(music, [mixing_law.at_snr(noise, music, 3.0), None], 1.0, paths)
    assert made == [[], ["t.wav"]]  # the INPUT appears last, when its TARGET is there
    monkeypatch.setattr(np, "rint", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        mixing_law.write_pair(music, [None, None], 1.0, [tmp_path / "bad" / "i.wav", tmp_path / "bad" / "t.wav"])
    assert not list((tmp_path / "bad").iterdir())
