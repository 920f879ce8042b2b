from pathlib import Path

import numpy as np
import pytest

from common.data.noises import (
    WHITE_SHARE,
    NoiseClip,
    NoiseSource,
    WhiteNoise,
    clips_for_split,
    folds_by_split,
    parse_clip,
    scan_folds,
)
from common.errors import CallError


@pytest.fixture
def folder(tmp_path):
    """Folds 1, 2, 9 and 10 with two classes each; recording 7 lies in folds 1 and 10."""
    for fold in (1, 2, 9, 10):
        (tmp_path / f"fold{fold}").mkdir()
        for class_id in (3, 8):
            (tmp_path / f"fold{fold}" / f"{fold}{class_id}00-{class_id}-0-1.wav").touch()
    for fold in (1, 10):
        (tmp_path / f"fold{fold}" / f"7-2-0-{fold}.wav").touch()
    return tmp_path


def test_names_tell_recording_and_class():
    clip = parse_clip(Path("fold5/100263-2-0-117.wav"), 5)
    assert (clip.recording, clip.class_id, clip.label, clip.fold) == ("100263", 2, "children_playing", 5)
    own = parse_clip(Path("fold5/my hum.wav"), 5)
    assert (own.recording, own.class_id, own.label) == ("my hum", None, "unlabelled")


def test_a_recording_lies_in_one_fold_only(folder):
    by_fold = scan_folds(folder)
    assert [c.recording for c in by_fold[1]] == ["1300", "1800"]
    assert "7" in [c.recording for c in by_fold[10]]
    recordings = [c.recording for clips in by_fold.values() for c in clips]
    assert len(set(recordings)) == len(recordings)


NAMESAKES = {
    "in two folds": ["fold1/rain.wav", "fold2/rain.wav"], "in three": ["fold1/a.wav", "fold9/a.wav", "fold10/a.wav"],
    "in sub-folders": ["fold1/x/rain.wav", "fold1/y/rain.wav", "fold2/x/rain.wav"],
    "of two formats": ["fold1/rain.wav", "fold1/rain.flac"], "numbers": ["fold1/1.wav", "fold2/1.wav"],
    "like a recording": ["fold1/7.wav", "fold10/7-2-0-1.wav"],
    "nearly UrbanSound8K": ["fold1/7-2-0.wav", "fold2/7-2-0.wav"],
}


@pytest.mark.parametrize("names", NAMESAKES.values(), ids=NAMESAKES)
def test_namesakes_are_recordings_of_their_own(tmp_path, names, caplog):
    caplog.set_level("INFO")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    clips = [clip for group in scan_folds(tmp_path).values() for clip in group]
    assert sorted(clip.path.relative_to(tmp_path).as_posix() for clip in clips) == sorted(names)
    assert len({clip.recording for clip in clips}) == len(names) and not caplog.text


def test_what_is_left_out_is_said_once(folder, caplog):
    caplog.set_level("INFO")
    for _ in range(2):
        assert sum(map(len, scan_folds(folder).values())) == 9
    assert caplog.text.count("1 of 10 noises left out, whose recordings lie in higher folds too, as fold1") == 1
    assert "7-2-0-1.wav in fold10" in caplog.text


def test_splits_take_their_folds_and_share_no_recording(folder):
    train, validation, test = (clips_for_split(folder, *a) for a in
                               (("train", [1, 2]), ("validation",), ("test",)))
    assert [{c.fold for c in s} for s in (train, validation, test)] == [{1, 2}, {9}, {10}]
    sets = [{c.recording for c in s} for s in (train, validation, test)]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])


def test_an_absent_fold_is_an_error_that_names_the_flag(folder, tmp_path):
    with pytest.raises(CallError, match=r"fold3.*--folds"):
        clips_for_split(folder, "train")
    with pytest.raises(CallError, match=r"fold1 \.\.\. fold10"):
        clips_for_split(folder / "fold1", "train")


def _draws(source, n=300):
    rng = np.random.default_rng(0)
    for _ in range(n):
        first = source.first(rng)
        yield first, source.second(rng, first)


def test_two_clips_differ_in_fold_class_and_recording(corpus):
    for a, b in _draws(NoiseSource(clips_for_split(corpus[1], "train"))):
        assert a.fold != b.fold and a.class_id != b.class_id and a.recording != b.recording


def test_one_recording_under_two_classes_or_folds_is_no_pair():
    """D4 rests on the recording, not on folds and classes that happen to keep recordings apart."""
    same = [NoiseClip(Path(f"{n}.wav"), fold, "7", class_id) for n, fold, class_id in ((1, 1, 3), (2, 2, 4))]
    for source in (NoiseSource(same), NoiseSource(same, 3)):
        with pytest.raises(CallError, match="second noise"):
            source.second(np.random.default_rng(0), same[0])


def test_class_noises_put_the_class_in_the_input_only(corpus):
    for a, b in _draws(NoiseSource(clips_for_split(corpus[1], "train"), 4)):
        assert a.class_id == 4 != b.class_id and a.recording != b.recording


def test_white_draws_are_never_the_same():
    seeds = [noise.seed for pair in _draws(NoiseSource(white_share=1.0)) for noise in pair]
    assert len(set(seeds)) == len(seeds)


def test_either_member_of_the_mixed_set_is_white_half_of_the_time(corpus):
    pairs = list(_draws(NoiseSource(clips_for_split(corpus[1], "train"), white_share=WHITE_SHARE), 600))
    for side in (0, 1):
        white = [isinstance(pair[side], WhiteNoise) for pair in pairs]
        assert np.mean(white) == pytest.approx(0.5, abs=0.07)
    for a, b in pairs:
        if not isinstance(a, WhiteNoise) and not isinstance(b, WhiteNoise):
            assert a.fold != b.fold and a.class_id != b.class_id


def test_one_fold_cannot_make_training_pairs(corpus):
    source = NoiseSource(clips_for_split(corpus[1], "train", [1]))
    rng = np.random.default_rng(0)
    with pytest.raises(CallError, match=r"another fold.*--folds"):
        source.second(rng, source.first(rng))


def test_urbansound8k_is_read_as_published(folder, tmp_path_factory):
    """audio/fold1 ..., beside metadata/ or without it, and with what macOS left in the archive."""
    root = tmp_path_factory.mktemp("UrbanSound8K")
    (root / "audio").symlink_to(folder)
    (folder / "fold1" / "._1300-3-0-1.wav").touch()
    (folder / ".DS_Store").touch()
    plain = scan_folds(folder)
    for metadata in (False, True):
        if metadata:
            (root / "metadata").mkdir()
            (root / "metadata" / "UrbanSound8K.csv").write_text("slice_file_name,fsID,start,end,salience,fold\n")
        assert {f: [c.name for c in clips] for f, clips in scan_folds(root).items()} == {
            f: [c.name for c in clips] for f, clips in plain.items()}
    assert "._1300-3-0-1" not in [c.name for c in plain[1]]


def test_folds_without_the_default_ones(folder):
    assert folds_by_split(folder) == {"train": [1, 2], "validation": [9], "test": [10]}
    (folder / "fold9").rename(folder / "other")
    with pytest.raises(CallError, match="at least 4 folders"):
        folds_by_split(folder)
