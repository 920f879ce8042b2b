import pytest

from common.data.noises import SPLITS
from common.data.songs import MUSDB18_VALIDATION, list_songs, song_name, songs_for_split
from common.errors import CallError


def _touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _parts(folder):
    return {split: {song_name(p) for p in songs_for_split(folder, split)} for split in SPLITS}


def _assert_disjoint(parts):
    assert sum(map(len, parts.values())) == len(set().union(*parts.values()))


def test_a_plain_folder_is_divided_by_name(tmp_path):
    _touch(tmp_path, *(f"song {n}.wav" for n in range(20)), "song 3.stem.mp4")
    parts = _parts(tmp_path)
    assert {s: len(p) for s, p in parts.items()} == {"train": 14, "validation": 3, "test": 3}
    assert sum(len(songs_for_split(tmp_path, s)) for s in SPLITS) == 21  # both files of song 3, in one split
    _assert_disjoint(parts)


def test_folders_named_after_splits_are_taken_at_their_word(tmp_path):
    for split in SPLITS:
        _touch(tmp_path / split, f"{split} song.wav")
    assert _parts(tmp_path) == {split: {f"{split} song"} for split in SPLITS}
    assert songs_for_split(tmp_path / "train", "train") == [tmp_path / "train" / "train song.wav"]
    with pytest.raises(CallError, match="named after split train"):
        songs_for_split(tmp_path / "train", "test")


@pytest.mark.parametrize("layout", ["MUSDB18", "MUSDB18-HQ"])
def test_musdb18_is_read_as_published(tmp_path, layout):
    others = [f"Band {n} - Song" for n in range(6)]
    names = {"train": [*sorted(MUSDB18_VALIDATION), *others], "test": ["A - X", "B - Y"]}
    for subset, songs in names.items():
        for song in songs:
            stems = [f"{song}/{s}.wav" for s in ("mixture", "bass", "drums", "other", "vocals")]
            _touch(tmp_path / subset, *([f"{song}.stem.mp4"] if layout == "MUSDB18" else stems))
    parts = _parts(tmp_path)
    assert parts == {"train": set(others), "validation": MUSDB18_VALIDATION, "test": set(names["test"])}
    assert {song_name(p) for p in songs_for_split(tmp_path / "train", "train")} == parts["train"]
    assert {song_name(p) for p in songs_for_split(tmp_path / "test", "test")} == parts["test"]
    assert len(list_songs(tmp_path)) == 22


def test_train_and_test_without_validation_and_without_musdb18(tmp_path):
    _touch(tmp_path / "train", *(f"{n}.wav" for n in range(10)))
    _touch(tmp_path / "test", "x.wav")
    parts = _parts(tmp_path)
    assert len(parts["validation"]) == 2 and len(parts["train"]) == 8 and parts["test"] == {"x"}
    _assert_disjoint(parts)


def test_what_macos_leaves_in_archives_is_no_song(tmp_path):
    _touch(tmp_path, "a.wav", "._a.wav", ".DS_Store", "sub/b.mp3")
    assert [p.name for p in list_songs(tmp_path)] == ["a.wav", "b.mp3"]


@pytest.mark.parametrize("names, split, message", [
    (["one.wav"], "train", "at least 3 songs"), (["train/a.wav", "validation/b.wav"], "test", "put the songs of split"),
    (["train/a.wav", "test/b.wav"], "train", "at least 3 songs"), (["readme.txt"], "train", "there is none"),
])
def test_too_few_songs_are_one_sentence(tmp_path, names, split, message):
    _touch(tmp_path, *names)
    with pytest.raises(CallError, match=message):
        songs_for_split(tmp_path, split)
