import numpy as np
import pytest
import torch

from common.audio.writing import write_audio
from common.data.pairs import find_pairs
from common.errors import CallError
from common.network.stft import SAMPLE_RATE
from common.training.pair_batches import PairSource


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


@pytest.mark.parametrize("name", ["i/INPUT-S1N1-(a)-(b).flac", "i/x/INPUT-S1N1-(c)-(b).wav"])
def test_two_files_of_one_pair_are_told(tmp_path, name):
    for path in ("i/INPUT-S1N1-(a)-(b).wav", "t/TARGET-S1N1-(a)-(b).wav", name):
        write_audio(tmp_path / path, np.zeros((1, 10), np.float32), 8000)
    with pytest.raises(CallError, match=r"one INPUT file of every pair, but .* are both of S1N1: remove one"):
        find_pairs(tmp_path / "i", tmp_path / "t")


def test_crops_of_a_pair_are_aligned(tmp_path, rng):
    """Input and target of every row come from the same place and channel."""
    song = rng.uniform(-0.5, 0.5, (2, 30000)).astype(np.float32)
    write_audio(tmp_path / "i/INPUT-S1N1-(a)-(b).wav", song, SAMPLE_RATE)
    write_audio(tmp_path / "t/TARGET-S1N1-(a)-(b).wav", -0.5 * song, SAMPLE_RATE)
    source = PairSource(find_pairs(tmp_path / "i", tmp_path / "t"))
    inputs, targets = source.batch(0, 0, range(6), 1000)
    assert inputs.shape == targets.shape == (6, 1000) and inputs.dtype == torch.float32
    assert source.names(0, 0, range(2), 1000) == ["INPUT-S1N1-(a)-(b).wav"] * 2
    assert (targets + 0.5 * inputs).abs().max() < 2 / 32768
    assert len({x.numpy().tobytes() for x in inputs}) == 6
    longer, _ = source.batch(0, 1, range(2), 40000)
    assert longer.shape == (2, 40000) and not longer[:, 30000:].any()


def test_crops_at_another_rate_are_resampled(merged):
    input_dir, target_dir, _ = merged("merger.py", "train", 2, 2)
    inputs, targets = PairSource(find_pairs(input_dir, target_dir)).batch(1, 0, range(3), 44100)
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(inputs, targets, strict=True)]
    assert min(correlation) > 0.3  # one song, two noises


def test_rows_are_decided_alone_whoever_reads_them(merged):
    pairs = find_pairs(*merged("merger.py", "train", 2, 2)[:2])
    whole, ahead = PairSource(pairs), PairSource(pairs, workers=2)
    for step in range(3):
        expected = whole.batch(5, step, range(4), 5000)
        parts = [PairSource(pairs).batch(5, step, rows, 5000) for rows in (range(2), range(2, 4))]
        for k in range(2):
            assert torch.equal(expected[k], torch.cat([parts[0][k], parts[1][k]]))
            assert torch.equal(expected[k], ahead.batch(5, step, range(4), 5000)[k])
    assert not torch.equal(expected[0], whole.batch(6, 2, range(4), 5000)[0])
    assert whole.settings() == ahead.settings() != PairSource(pairs[:2]).settings()
