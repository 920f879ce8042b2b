import numpy as np
import pytest

from common.audio import write_audio
from common.dataset import SAMPLE_RATE, MixtureSource, PairSource, PooledClip, find_pairs, pool_audio
from common.errors import CallError, UserError


def _clip(name, recording, audio):
    return PooledClip(name, recording, np.rint(audio * 32767).astype(np.int16), float(np.sqrt(np.mean(audio**2))))


@pytest.fixture
def source(rng):
    t = np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE
    songs = [_clip("tone", "", 0.4 * np.stack([np.sin(2 * np.pi * f * t) for f in (440, 660)]))]
    noises = [_clip(f"n{i}", str(i // 2), rng.uniform(-0.3, 0.3, (1, 30000))) for i in range(6)]
    return lambda **kw: MixtureSource(songs, [(0.7, noises)], **kw)


def test_pairs_are_found_with_song_and_noise(merged):
    input_dir, target_dir, rows = merged("merger.py", "test", 2, 2)
    pairs = find_pairs(input_dir, target_dir)
    assert [p.pair_id for p in pairs] == sorted(row["pair_id"] for row in rows)
    by_id = {row["pair_id"]: row for row in rows}
    for pair in pairs:
        assert pair.noise == by_id[pair.pair_id]["input_noise_class"]
        assert pair.song in pair.input.name and pair.recordings == {by_id[pair.pair_id]["input_noise_recording"]}


def test_missing_partners_and_swapped_folders_are_named(tmp_path):
    audio = np.zeros((1, 10), np.float32)
    for name in ("i/INPUT-S1N1-(a)-(b).wav", "i/INPUT-S1N2-(a)-(b).wav", "t/TARGET-S1N1-(a)-(b).wav"):
        write_audio(tmp_path / name, audio, 8000)
    with pytest.raises(CallError, match="S1N2"):
        find_pairs(tmp_path / "i", tmp_path / "t")
    with pytest.raises(CallError, match="swap"):
        find_pairs(tmp_path / "t", tmp_path / "i")


def test_crops_of_a_pair_are_aligned(tmp_path, rng):
    """Input and target of every row come from the same place and channel."""
    song = rng.uniform(-0.5, 0.5, (2, 30000)).astype(np.float32)
    write_audio(tmp_path / "i/INPUT-S1N1-(a)-(b).wav", song, SAMPLE_RATE)
    write_audio(tmp_path / "t/TARGET-S1N1-(a)-(b).wav", -0.5 * song, SAMPLE_RATE)
    inputs, targets, names = PairSource(find_pairs(tmp_path / "i", tmp_path / "t")).batch(rng, 6, 1000)
    assert inputs.shape == targets.shape == (6, 1000) and inputs.dtype == np.float32 and len(names) == 6
    assert np.abs(targets + 0.5 * inputs).max() < 2 / 32768
    assert len({x.tobytes() for x in inputs}) == 6
    longer, _, _ = PairSource(find_pairs(tmp_path / "i", tmp_path / "t")).batch(rng, 2, 40000)
    assert longer.shape == (2, 40000) and not longer[:, 30000:].any()


def test_crops_at_another_rate_are_resampled(merged):
    input_dir, target_dir, _ = merged("merger.py", "train", 2, 2)
    inputs, targets, _ = PairSource(find_pairs(input_dir, target_dir)).batch(np.random.default_rng(1), 3, 44100)
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(inputs, targets, strict=True)]
    assert min(correlation) > 0.3  # one song, two noises


def test_a_batch_is_decided_by_its_generator(source):
    a, b, c = (source().batch(np.random.default_rng(seed), 4, 5000) for seed in (1, 1, 2))
    assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) and a[2] == b[2]
    assert not np.array_equal(a[0], c[0])


def test_mixtures_hold_one_song_and_independent_noises_at_their_snr(source, rng):
    make, n = source(snr_db=(5, 5), noise_speed=(1, 1)), 40000
    clean = source(snr_db=(5, 5), noise_speed=(1, 1), clean_target=True)
    noisy, target, names = make.batch(np.random.default_rng(3), 24, n)
    same_noisy, song, _ = clean.batch(np.random.default_rng(3), 24, n)
    assert np.array_equal(noisy, same_noisy)  # the same draws, another target
    first, second = noisy - song, target - song
    assert np.sqrt(np.mean(song**2)) == pytest.approx(1, rel=0.02)
    snrs = [-10 * np.log10(np.mean(x**2)) for x in (*first, *second)]
    assert np.mean(snrs) == pytest.approx(5, abs=0.2) and np.std(snrs) < 0.5
    assert max(abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(first, second, strict=True)) < 0.05
    recordings = [name.split(" + ")[1].split(" / ") for name in names]
    for a, b in recordings:
        assert a == b == "white" or "white" in (a, b) or int(a[1:]) // 2 != int(b[1:]) // 2
    assert 0.05 < np.mean([a == "white" for a, _ in recordings]) < 0.6


def test_shares_above_one_are_refused(rng):
    clips = [_clip("n", "1", rng.uniform(-1, 1, (1, 100)))]
    with pytest.raises(CallError, match="at most 1"):
        MixtureSource(clips, [(0.7, clips), (0.5, clips)])


def test_a_pool_keeps_levels_and_leaves_out_silence(tmp_path, rng):
    audio = 0.01 * rng.standard_normal((2, 44100)).astype(np.float32)
    write_audio(tmp_path / "77-3-0-0.wav", audio, 44100)
    write_audio(tmp_path / "silent.wav", 0 * audio, 44100)
    pool = pool_audio([tmp_path / "77-3-0-0.wav", tmp_path / "silent.wav"])
    assert [(c.name, c.recording) for c in pool] == [("77-3-0-0.wav", "77")]
    samples = pool[0].samples / 32767
    assert np.sqrt(np.mean(samples**2)) == pytest.approx(pool[0].rms, rel=1e-3) and np.abs(samples).max() == 1
    with pytest.raises(UserError, match="silent"):
        pool_audio([tmp_path / "silent.wav"])
