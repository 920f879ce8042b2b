"""No command replaces its inputs or writes twice to one place: the error comes before any computation."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

import correlation
import merger
import merger_white
from common.audio.writing import write_audio
from common.data import provenance, segment_sets
from common.errors import CallError
from common.evaluation import __main__ as evaluation_set
from common.network import onnx_export as export
from common.network import weights_files
from common.network.checkpoints import save_weights
from common.path_checks import check_folders, check_outputs
from common.training import __main__ as training_cli

WHITE = ["--path-songs", "songs", "--iter-songs", "1", "--iter-white-noise", "1", "--input-dir"]
REAL = ["--path-songs", "songs", "--path-noises", "noises", "--input-dir"]
PUBLISH = ["publish", "a.pth", "pool", "-o"]
CALLS = {
    "merger, one folder": (merger_white, [*WHITE, "o", "--target-dir", "o"], "two output folders"),
    "merger, one folder by a link": (merger_white, [*WHITE, "i2", "--target-dir", "i"], "two output folders"),
    "merger, one folder in two cases": (merger_white, [*WHITE, "o", "--target-dir", "O"], "two output folders"),
    "merger, input among songs": (merger_white, [*WHITE, "songs/i", "--target-dir", "o"], "songs/i lies in"),
    "merger, target among songs": (merger, [*REAL, "i", "--target-dir", "songs/x/t"], "--target-dir songs/x/t lies in"),
    "merger, among noises": (merger, [*REAL, "noises/i", "--target-dir", "t"], "--input-dir noises/i lies in"),
    "merger, among songs by a link": (merger, [*REAL, "songs2/i", "--target-dir", "t"], "--input-dir songs2/i lies in"),
    "correlation, manifest": (correlation, ["i", "t", "i/manifest.csv"], "is the input i/manifest.csv"),
    "correlation, dataset": (correlation, ["i", "t", "t/../i/dataset.json"], "is the input i/dataset.json"),
    "correlation, manifest of the other": (correlation, ["t", "i", "i/manifest.csv"], "is the input i/manifest.csv"),
    "correlation, a link": (correlation, ["i", "t", "link.csv"], "is the input i/manifest.csv"),
    "correlation, histogram": (correlation, ["i", "t", "o.csv"], "o.png is a folder"),
    "correlation, below a file": (correlation, ["i", "t", "a.pth/o.csv"], "a.pth is a file"),
    "export": (export, ["a.pth", "a.pth"], "is the input a.pth"),
    "export, a link": (export, ["a.pth", "link.pth"], "is the input a.pth"),
    "export, a folder": (export, ["a.pth", "songs"], "songs is a folder"),
    "average": (training_cli, ["average", "a.pth", "b.pth", "-o", "b.pth"], "is the input b.pth"),
    "average, in another case": (training_cli, ["average", "a.pth", "-o", "A.PTH"], "is the input a.pth"),
    "average, a name": (training_cli, ["average", "white", "-o", "published/white.pth"], "is the input"),
    "publish": (training_cli, [*PUBLISH, "./a.pth"], "is the input a.pth"),
    "publish, prior": (training_cli, [*PUBLISH, "b.pth", "--prior", "b.pth"], "is the input b.pth"),
    "publish, a hard link": (training_cli, [*PUBLISH, "hard.pth"], "is the input a.pth"),
    "run, start": (training_cli, ["run", "pool", "-o", "W", "--start", "W/best.pth"], "is the input W/best.pth"),
    "pack, a song": (training_cli, ["pack", "songs", "noises", "-o", "p", "--compact", "songs/s.wav"],
                     "is the input songs/s.wav"),
    "pack, a noise": (training_cli, ["pack", "songs", "noises", "-o", "p", "--compact", "noises/fold1/n.wav"],
                      "is the input noises/fold1/n.wav"),
    "pack, the pool": (training_cli, ["pack", "songs", "noises", "-o", "p", "--compact", "p/pool.json"],
                       "would both become p/pool.json"),
    "unpack": (training_cli, ["unpack", "pool.zip", "-o", "pool.zip"], "pool.zip is a file"),
    "evaluation set": (evaluation_set, ["--songs", "songs", "--noises", "noises", "-o", "songs/set"], "lies in songs"),
    "evaluation set, index": (evaluation_set, ["--songs", "songs", "--noises", "noises", "-o", "i", "--check",
                                               "i/evaluation_set.csv"], "is the input i/evaluation_set.csv"),
    "regenerate": (provenance, ["regenerate", "i/manifest.csv", "--input-dir", "o", "--target-dir", "./o"],
                   "two output folders"),
}


@pytest.fixture
def place(model, tmp_path, monkeypatch):
    """A folder with inputs of all commands, and links."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights_files, "PRETRAINED", tmp_path / "published")
    for name in ("songs/s.wav", "noises/fold1/n.wav", "i/INPUT-S1N1-(a)-(b).wav", "t/TARGET-S1N1-(a)-(b).wav"):
        write_audio(name, np.full((1, 100), 0.1, np.float32), 8000)
    for name in ("a.pth", "b.pth", "W/best.pth", "published/white.pth"):
        save_weights(model, name, {})
    for name in ("i/manifest.csv", "i/dataset.json", "i/evaluation_set.csv", "pool.zip", "o.png/picture"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("{}")
    for link, there in (("songs2", "songs"), ("i2", "i"), ("link.csv", "i/manifest.csv"), ("link.pth", "a.pth")):
        os.symlink(there, link)
    os.link("a.pth", "hard.pth")
    return tmp_path


@pytest.mark.parametrize("module, args, message", CALLS.values(), ids=CALLS)
def test_no_command_writes_over_what_it_reads(place, monkeypatch, module, args, message):
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    monkeypatch.setattr(sys, "argv", ["command", *args])
    with pytest.raises(CallError) as found:
        module.main()
    assert message in str(found.value)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_paths_that_differ_are_let_through(place):
    check_outputs([("songs/new.wav", "a"), ("songs/sub/new.wav", "a"), ("t/s.wav", "b"), ("S.wav", "b")],
                  ["songs/s.wav", "a.pth", "gone.wav"])
    check_outputs([(name, name) for name in ("new/" + 300 * "x", "a.pth", "hard.pth")])
    check_folders({"--input-dir": "songs3", "--target-dir": "song"}, ["songs", "gone"])


def test_weights_are_written_beside_what_they_come_from(place, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command", "average", "a.pth", "b.pth", "-o", "c.pth"])
    training_cli.main()
    assert (place / "c.pth").is_file()


def test_a_set_that_is_there_is_found_before_segments_are_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(segment_sets, "merged_sets", lambda _: {"train": [], "test": []})
    monkeypatch.setattr(segment_sets, "candidates", lambda *_: pytest.fail("computed"))
    (tmp_path / "test" / "input").mkdir(parents=True)
    with pytest.raises(CallError, match="empty folder"):
        segment_sets.build_sets("source", tmp_path, 3, 2)
