from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from common import segments
from common.audio import read_audio, write_audio
from common.dataset import PairFile, PairSource, find_pairs, pairs_in
from common.errors import CallError, UserError
from common.evaluation import SEGMENT_SAMPLES
from common.manifest import read_manifest
from common.segments import Candidate, candidates, choose, decorrelation, evenly, save_segments, spectral_profile

PAIR = PairFile("S1N1", Path("i"), Path("t"), "song", "white", frozenset())


def _candidate(value, direction):
    profile = np.zeros(40)
    profile[direction] = 1
    return Candidate(PAIR, 0, value, profile)


def test_decorrelation_runs_from_copy_to_stranger(rng):
    a, b = rng.standard_normal((2, 20000))
    assert decorrelation(a, a) == pytest.approx(0, abs=1e-9)
    assert decorrelation(a, b) > 0.97
    assert decorrelation(a, a + b) == pytest.approx(1 - 1 / np.sqrt(2), abs=0.02)


def test_profiles_tell_spectra_apart_and_ignore_level(rng):
    t = np.arange(SEGMENT_SAMPLES) / 44100
    noise = 0.01 * rng.standard_normal(len(t))
    low, high = (spectral_profile(np.sin(2 * np.pi * f * t) + noise) for f in (200, 6000))
    assert low @ spectral_profile(0.3 * (np.sin(2 * np.pi * 200 * t) + noise)) > 0.99
    assert low @ high < 0.9


def test_the_choice_trades_decorrelation_against_diversity():
    found = [_candidate(0.9, 0), _candidate(0.85, 0), _candidate(0.5, 1)]
    assert choose(found, 2, 0.0) == found[:2]
    assert choose(found, 2, 0.8) == [found[0], found[2]]
    assert len(choose(found, 10)) == 3
    with pytest.raises(CallError, match="diversity weight"):
        choose(found, 2, 1.5)


def test_an_even_choice_ignores_the_scores():
    found = [_candidate(x, 0) for x in (0.1, 0.9, 0.5, 0.3, 0.7)]
    assert evenly(found, 3) == [found[0], found[2], found[4]]
    assert evenly(found, 50) == found


def test_segments_are_a_dataset_of_their_own(merged, tmp_path):
    pairs = find_pairs(*merged("merger.py", "train", 2, 2)[:2])
    found = candidates(pairs, hop_seconds=0.5)
    assert len(found) > len(pairs) and all(c.start % 22050 == 0 for c in found)
    chosen = choose(found, 5)
    folder = save_segments(chosen, tmp_path / "segments")
    again = find_pairs(folder / "input", folder / "target")
    assert len(again) == 5 and {p.song for p in again} <= {p.song for p in pairs}
    rows = {row["pair_id"]: row for row in read_manifest(folder / "input")}
    for pair in again:
        row = rows[pair.pair_id]
        start = round(float(row["start_seconds"]) * 44100)
        for side in ("input", "target"):
            path = getattr(pair, side)
            assert sf.info(path).frames == SEGMENT_SAMPLES and path.name == row[f"{side}_file"]
            parent = next(getattr(p, side) for p in pairs if p.pair_id == pair.pair_id.split("G")[0])
            cut = read_audio(parent)[0][:, start : start + SEGMENT_SAMPLES]
            assert np.array_equal(cut, read_audio(path)[0])
        assert pair.recordings and pair.noise == row["input_noise_class"]
    assert PairSource(again).batch(np.random.default_rng(0), 2, 5000)[0].shape == (2, 5000)
    with pytest.raises(CallError, match="empty folder"):
        save_segments(chosen, tmp_path / "segments")


def test_an_interrupted_choice_leaves_no_half_set(merged, tmp_path, monkeypatch):
    pairs = find_pairs(*merged("merger.py", "train", 2, 2)[:2])
    chosen = choose(candidates(pairs), 3)
    written = []

    def breaking(*args):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(write_audio(*args))

    monkeypatch.setattr(segments, "write_audio", breaking)
    with pytest.raises(KeyboardInterrupt):
        save_segments(chosen, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    monkeypatch.undo()
    assert len(pairs_in(save_segments(chosen, tmp_path / "set"))) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_songs_shorter_than_a_segment_are_an_error(merged, tmp_path, rng):
    write_audio(tmp_path / "i/INPUT-S1N1-(a)-(b).wav", 0.1 * rng.standard_normal((1, 9000)), 44100)
    write_audio(tmp_path / "t/TARGET-S1N1-(a)-(b).wav", 0.1 * rng.standard_normal((1, 9000)), 44100)
    with pytest.raises(UserError, match=r"at least 3\.74 s"):
        candidates(find_pairs(tmp_path / "i", tmp_path / "t"))
