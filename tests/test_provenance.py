"""A manifest is enough to check a dataset, and with the sources enough to make it again."""

import shutil

import pytest

from common.data.manifest import read_manifest
from common.data.provenance import problems, regenerate
from common.errors import CallError, UserError


def _bytes(*folders):
    return {(f.name, p.name): p.read_bytes() for f in folders for p in f.iterdir()}


SETS = [("merger.py", "train"), ("merger_mixed_white.py", "train", "--format", "flac"), ("merger_white.py", "test"),
        ("merger_class.py", "validation", "--class-num", "4"), ("merger.py", "train", "--clean-target")]


@pytest.mark.parametrize("script, split, extra", [(s, p, e) for s, p, *e in SETS])
def test_regenerated_bytes_are_the_same(merged, call, tmp_path, script, split, extra):
    """D1, from the manifest alone (plus the sources)."""
    input_dir, target_dir, _ = merged(script, split, 2, 2, *extra)
    done = call("-m", "common.data.provenance", "regenerate", input_dir / "manifest.csv",
                "--input-dir", tmp_path / "input", "--target-dir", tmp_path / "target")
    assert "4 pairs made again, bit for bit" in done.stderr
    assert _bytes(tmp_path / "input", tmp_path / "target") == _bytes(input_dir, target_dir)
    assert "every file is as" in call("-m", "common.data.provenance", "verify", tmp_path / "input",
                                      tmp_path / "target").stderr


@pytest.fixture
def copy(merged, tmp_path):
    """A copy of a set that may be spoilt."""
    for folder in merged("merger.py", "train", 2, 2)[:2]:
        shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path / "input", tmp_path / "target"


def test_whatever_is_wrong_is_found(copy, call):
    input_dir, target_dir = copy
    assert problems(*copy) == []
    rows = read_manifest(input_dir)
    changed, missing = input_dir / rows[0]["input_file"], target_dir / rows[1]["target_file"]
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    missing.unlink()
    (input_dir / "INPUT-S9N9-(a)-(b).wav").touch()
    assert problems(*copy) == [f"{missing} is missing", f"{input_dir}/INPUT-S9N9-(a)-(b).wav is not in the manifest",
                               f"{changed} has changed"]
    done = call("-m", "common.data.provenance", "verify", *copy, code=1)
    assert done.stderr.startswith("error: expected the files of the manifest, but there are problems with 3 (")


def test_sources_that_moved_are_found_where_one_says(copy, corpus, tmp_path):
    input_dir, _ = copy
    shutil.copytree(corpus[0], tmp_path / "moved songs")
    shutil.copytree(corpus[1], tmp_path / "moved noises")
    (input_dir / "dataset.json").unlink()
    with pytest.raises(UserError, match="--path-songs"):
        regenerate(input_dir / "manifest.csv", tmp_path / "i", tmp_path / "t", jobs=1)
    again = regenerate(input_dir / "manifest.csv", tmp_path / "i", tmp_path / "t", tmp_path / "moved songs",
                       tmp_path / "moved noises", jobs=1)
    assert again == 4 and problems(tmp_path / "i", tmp_path / "t") == []
    song = tmp_path / "moved songs" / read_manifest(input_dir)[0]["song"]
    song.write_bytes(song.read_bytes() + b"x")
    with pytest.raises(UserError, match="has changed"):
        regenerate(input_dir / "manifest.csv", tmp_path / "i2", tmp_path / "t2", tmp_path / "moved songs",
                   tmp_path / "moved noises", jobs=1)


def test_what_is_missing_is_made_and_what_differs_is_named(copy):
    input_dir, target_dir = copy
    rows = read_manifest(input_dir)
    (target_dir / rows[2]["target_file"]).unlink()
    assert regenerate(input_dir / "manifest.csv", *copy, jobs=1) == 4 and problems(*copy) == []
    (target_dir / rows[3]["target_file"]).write_bytes(b"not audio")
    with pytest.raises(UserError, match=r"1 \(TARGET-S2N2.* of 8 files differ"):
        regenerate(input_dir / "manifest.csv", *copy, jobs=1)


def test_another_manifest_is_refused(tmp_path):
    (tmp_path / "manifest.csv").write_text("a,b\n1,2\n")
    for path, message in ((tmp_path / "manifest.csv", "another kind"), (tmp_path / "none.csv", "not there")):
        with pytest.raises(CallError, match=message):
            regenerate(path, tmp_path / "i", tmp_path / "t")


def test_another_dataset_is_left_alone(copy, merged):
    other = merged("merger.py", "train", 2, 2, "--seed", "1")[0] / "manifest.csv"
    before = _bytes(*copy)
    with pytest.raises(CallError, match="of another dataset"):
        regenerate(other, *copy, jobs=1)
    assert _bytes(*copy) == before
