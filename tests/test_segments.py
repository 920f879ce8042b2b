from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from common.audio.reading import read_audio
from common.audio.signals import pieces
from common.audio.writing import write_audio
from common.data import segment_sets
from common.data.manifest import Sources, read_manifest
from common.data.pairs import PairFile, check_disjoint, find_pairs, pairs_in, songs_and_recordings
from common.data.segment_sets import build_sets, save_segments
from common.data.segments import (
    Candidate,
    Cut,
    candidates,
    choose,
    decorrelation,
    evenly,
    nearest_distance,
    percentiles,
    spectral_profile,
    summary,
)
from common.data.single_song import SHARES, pairs_from_song, split_song
from common.errors import CallError, UserError
from common.network.stft import SEGMENT_SAMPLES
from common.small_files import read_rows
from common.training.pair_batches import PairSource

PAIR = PairFile("S1N1", Path("i"), Path("t"), "song", "white", frozenset())
WHOLE = Cut(0.5, 0, 0)


def _candidate(value, direction):
    profile = np.zeros(40)
    profile[direction] = 1
    return Candidate(PAIR, 0.0, value, profile)


def test_decorrelation_runs_from_copy_to_stranger_whatever_the_levels(rng):
    a, b = rng.standard_normal((2, 1, SEGMENT_SAMPLES))
    for level in (1, 1e-3, 100):
        assert decorrelation(a, level * a) == pytest.approx(0, abs=1e-6)
        assert decorrelation(a, level * b) > 0.99  # not less by chance
    assert decorrelation(a, a + b) == pytest.approx(1 - 1 / np.sqrt(2), abs=0.03)
    assert np.isnan(decorrelation(a, np.zeros_like(a)))


def test_a_delayed_or_inverted_copy_is_no_stranger(rng):
    """Pearson's correlation would call the first independent; the cross-correlation is bounded by what is measured."""
    a = rng.standard_normal(SEGMENT_SAMPLES + 100)
    assert decorrelation(a[None, 100:], a[None, :-100]) < 0.15
    assert abs(np.corrcoef(a[100:], a[:-100])[0, 1]) < 0.01
    assert decorrelation(a[None], -a[None]) == pytest.approx(0, abs=1e-6)


def test_noises_in_other_bands_have_nothing_in_common(rng):
    t = np.arange(SEGMENT_SAMPLES) / 44100
    low, high = (np.sin(2 * np.pi * f * t)[None] for f in (300, 5000))
    assert decorrelation(low, high) > 0.99 and decorrelation(low, low + 0.1 * high) < 0.02


def test_profiles_tell_spectra_apart_and_ignore_level(rng):
    t = np.arange(SEGMENT_SAMPLES) / 44100
    noise = 0.01 * rng.standard_normal(len(t))
    low, high = (spectral_profile(np.sin(2 * np.pi * f * t) + noise) for f in (200, 6000))
    assert low @ spectral_profile(0.3 * (np.sin(2 * np.pi * 200 * t) + noise)) > 0.99
    assert low @ high < 0.9


def test_percentiles():
    assert percentiles(np.array([0.3, np.nan, 0.1, 0.9])).tolist() == [2 / 3, 0, 1 / 3, 1]
    assert percentiles(np.full(3, np.nan)).tolist() == [0, 0, 0]
    assert percentiles(np.array([1.0, 0.5, 1.0])).tolist() == [0.75, 0, 0.75]


def test_the_choice_trades_decorrelation_against_diversity():
    found = [_candidate(0.9, 0), _candidate(0.85, 0), _candidate(0.5, 1)]
    assert choose(found, 2, 0.0) == found[:2]
    assert choose(found, 2, 0.8) == [found[0], found[2]]
    assert len(choose(found, 10)) == 3
    equal = [_candidate(1.0, d) for d in (0, 0, 1)]
    assert choose(equal, 2, 0.0) == [equal[0], equal[2]]  # ties go to diversity
    unknown = [_candidate(float("nan"), d) for d in (0, 0, 1)]
    assert choose(unknown, 2) == [unknown[0], unknown[2]]
    with pytest.raises(CallError, match="diversity weight"):
        choose(found, 2, 1.5)


def test_diversity_of_a_set():
    assert nearest_distance([_candidate(1, 0), _candidate(1, 0)]) == 0
    assert nearest_distance([_candidate(1, 0), _candidate(1, 1)]) == pytest.approx(0.5)


def test_an_even_choice_ignores_the_scores():
    found = [_candidate(x, 0) for x in (0.1, 0.9, 0.5, 0.3, 0.7)]
    assert evenly(found, 3) == [found[0], found[2], found[4]]
    assert evenly(found, 50) == found


def test_where_segments_may_lie():
    assert Cut().starts(60 * 44100, 44100) == list(range(6 * 44100, 48 * 44100 - SEGMENT_SAMPLES + 1, SEGMENT_SAMPLES))
    assert Cut(1.0, 2, 3).starts(22050 * 10, 22050) == [44100, 66150]  # 82,500 samples, until 7 s
    assert Cut(None, 0, 0).starts(SEGMENT_SAMPLES - 1, 44100) == []
    for wrong in ({"hop_seconds": 0}, {"skip_start_seconds": -1}):
        with pytest.raises(CallError, match="expected"):
            Cut(**wrong)


@pytest.mark.parametrize("starts, length", [([0, 10, 20], 10), ([3, 5, 40, 41], 17), ([], 5), ([95], 10), ([0], 100)])
def test_pieces_are_cut_out_of_a_stream(starts, length):
    whole = np.arange(200.0).reshape(2, 100)
    for block in (1, 7, 100):
        blocks = (whole[:, i : i + block] for i in range(0, 100, block))
        found = list(pieces(blocks, starts, length))
        expected = [whole[:, s : s + length] for s in starts if s + length <= 100]
        assert len(found) == len(expected)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("script", ["merger.py", "merger_white.py"])
def test_the_noises_are_made_again_and_compared(merged, corpus, script):
    input_dir, target_dir, rows = merged(script, "train", 2, 2)
    pairs = find_pairs(input_dir, target_dir)
    found = candidates(pairs, WHOLE, jobs=2)
    assert [c.pair.pair_id for c in found] == sorted(c.pair.pair_id for c in found) and len(found) > len(pairs)
    rows = {row["pair_id"]: row for row in rows}
    for candidate in found[::3]:
        row = rows[candidate.pair.pair_id]
        song, rate = read_audio(corpus[0] / row["song"])
        start = round(candidate.start_seconds * rate)
        rests = [read_audio(path)[0] / float(row["gain"]) - song
                 for path in (candidate.pair.input, candidate.pair.target)]
        score = decorrelation(*(rest[:, start : start + SEGMENT_SAMPLES] for rest in rests))
        assert candidate.decorrelation == pytest.approx(score, abs=0.01)
    assert np.mean([c.decorrelation for c in found]) > 0.7
    held_out = candidates(pairs_in(merged(script, "test", 2, 2)[0].parent), WHOLE, jobs=1)
    assert all(np.isnan(c.decorrelation) for c in held_out)  # the target is clean


def test_segments_are_a_dataset_of_their_own(merged, tmp_path):
    pairs = find_pairs(*merged("merger.py", "train", 2, 2)[:2])
    found = candidates(pairs, WHOLE)
    chosen = choose(found, 5)
    folder = save_segments(found, chosen, tmp_path / "segments")
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
    table = read_rows(folder / "segments.csv")
    assert len(table) == len(found) and [c.start_seconds for c in found] == [float(r["start_seconds"]) for r in table]
    assert {r["segment"] for r in table if r["chosen"]} == set(rows) and sum(bool(r["chosen"]) for r in table) == 5
    assert Sources.of(folder / "input").noise(next(iter(rows.values())), "input") is not None
    assert PairSource(again).batch(0, 0, range(2), 5000)[0].shape == (2, 5000)
    with pytest.raises(CallError, match="empty folder"):
        save_segments(found, chosen, tmp_path / "segments")


def test_an_interrupted_choice_leaves_no_half_set(merged, tmp_path, monkeypatch):
    found = candidates(find_pairs(*merged("merger.py", "train", 2, 2)[:2]), WHOLE, jobs=1)
    chosen = choose(found, 3)
    written = []

    def breaking(*args):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(write_audio(*args))

    monkeypatch.setattr(segment_sets, "write_audio", breaking)
    with pytest.raises(KeyboardInterrupt):
        save_segments(found, chosen, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    monkeypatch.undo()
    assert len(pairs_in(save_segments(found, chosen, tmp_path / "set"))) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_sets_of_all_splits_in_one_go(merged, tmp_path, caplog):
    for split in ("train", "validation", "test"):
        (tmp_path / "merged").mkdir(exist_ok=True)
        (tmp_path / "merged" / split).symlink_to(merged("merger.py", split, 2, 2)[0].parent)
    made = build_sets(tmp_path / "merged", tmp_path / "segments", 3, 2, 0.5, WHOLE)
    sets = {split: pairs_in(tmp_path / "segments" / split) for split in ("train", "validation", "test")}
    assert {split: len(pairs) for split, pairs in sets.items()} == {"train": 3, "validation": 2, "test": 2}
    assert {split: len(chosen) for split, (_, chosen) in made.items()} == {"train": 3, "validation": 2, "test": 2}
    check_disjoint(**{split: songs_and_recordings(pairs) for split, pairs in sets.items()})
    assert "cannot be made again" not in caplog.text
    one = build_sets(merged("merger.py", "test", 2, 2)[0].parent, tmp_path / "one", 3, 2, 0.5, WHOLE)
    assert list(one) == ["test"]
    with pytest.raises(CallError, match="run a merger first"):
        build_sets(tmp_path, tmp_path / "none", 3, 2)


def test_a_second_choice_keeps_what_is_there(merged, tmp_path):
    folder = tmp_path / "segments"
    source = merged("merger.py", "train", 2, 2)[0].parent
    first = build_sets(source, folder, 3, 2, 0.5, WHOLE)["train"][1]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    assert [c.start_seconds for c in build_sets(source, folder, 3, 2, 0.5, WHOLE)["train"][1]] == [
        c.start_seconds for c in first]
    with pytest.raises(CallError, match=r"n_segments was 3 and is 4; diversity_weight was 0\.5 and is 0\.4: use"):
        build_sets(source, folder, 4, 2, 0.4, WHOLE)
    with pytest.raises(CallError, match=r"hop_seconds was 0\.5 and is 1\.0"):
        build_sets(source, folder, 3, 2, 0.5, Cut(1.0, 0, 0))
    with pytest.raises(CallError, match=r"manifest was '[0-9a-f]+' and is"):
        build_sets(merged("merger.py", "train", 3, 2)[0].parent, folder, 3, 2, 0.5, WHOLE)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")} == before


def test_flac_pairs_give_flac_segments(merged, tmp_path):
    source = merged("merger.py", "train", 2, 1, "--format", "flac")[0].parent
    build_sets(source, tmp_path, 2, 1, 0.5, WHOLE)
    for pair in pairs_in(tmp_path / "train"):
        assert pair.input.suffix == pair.target.suffix == ".flac" and sf.info(pair.input).frames == SEGMENT_SAMPLES


def test_without_noises_diversity_alone_ranks_and_a_line_says_so(merged, tmp_path, caplog):
    source = tmp_path / "copy"
    for folder in merged("merger.py", "train", 2, 2)[:2]:
        (source / folder.name).mkdir(parents=True)
        for path in folder.glob("*.wav"):
            (source / folder.name / path.name).symlink_to(path)
    found, chosen = build_sets(source, tmp_path / "segments", 3, 2, 0.5, WHOLE)["train"]
    assert all(np.isnan(c.decorrelation) for c in found) and "diversity alone" in caplog.text
    figures = summary(found, chosen)
    assert np.isnan(figures["mean_decorrelation_chosen"])
    assert figures["diversity_chosen"] >= figures["diversity_random"] > 0


def test_one_song_becomes_three_parts_and_three_sets(corpus, tmp_path, rng):
    rate, seconds = 22050, 40
    audio = 0.3 * rng.standard_normal((2, rate * seconds)) * np.linspace(0.2, 1, rate * seconds)
    write_audio(tmp_path / "My Song.flac", audio, rate, "PCM_24")
    cut = Cut(None, 2, 3)
    source = pairs_from_song(tmp_path / "My Song.flac", corpus[1], tmp_path / "pairs", 3, cut, jobs=2)
    whole = read_audio(tmp_path / "My Song.flac")[0][:, 2 * rate : (seconds - 3) * rate]
    parts = [read_audio(source / "song" / split / f"My Song-{split}.wav")[0] for split in SHARES]
    assert np.array_equal(np.concatenate(parts, axis=-1), whole)
    assert [p.shape[-1] / whole.shape[-1] for p in parts] == pytest.approx([0.7, 0.15, 0.15], abs=1e-4)
    made = build_sets(source, tmp_path / "segments", 4, 2, 0.5, Cut(None, 0, 0))
    assert {split: len(chosen) for split, (_, chosen) in made.items()} == {"train": 4, "validation": 2, "test": 2}
    check_disjoint(**{split: songs_and_recordings(pairs_in(tmp_path / "segments" / split)) for split in made})
    with pytest.raises(UserError, match=r"at least 29\.9 s, of which 5 s are skipped, but .* has 20\.0 s"):
        write_audio(tmp_path / "short.wav", audio[:, : 20 * rate], rate)
        split_song(tmp_path / "short.wav", tmp_path / "x", cut)


def test_songs_shorter_than_a_segment_are_an_error(tmp_path, rng):
    write_audio(tmp_path / "i/INPUT-S1N1-(a)-(b).wav", 0.1 * rng.standard_normal((1, 9000)), 44100)
    write_audio(tmp_path / "t/TARGET-S1N1-(a)-(b).wav", 0.1 * rng.standard_normal((1, 9000)), 44100)
    with pytest.raises(UserError, match=r"at least 21\.74 s"):
        candidates(find_pairs(tmp_path / "i", tmp_path / "t"), jobs=1)
