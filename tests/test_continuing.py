"""A merger that is called again: sources that changed are told, and what cannot be used is left out and listed."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf

from common.data import dataset_builder
from common.data.manifest import read_dataset, read_manifest
from common.data.mergers import merge, merger_parser
from common.data.noises import WHITE_SHARE
from common.data.provenance import problems, regenerate
from common.errors import CallError, UserError
from common.locks import LOCK, locked
from common.small_files import read_rows
from tests.conftest import ROOT


def _write(path, seconds=0.5, seed=0, amplitude=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(int(8000 * seconds))
    with open(path, "wb") as file:  # libsndfile takes no name that is not UTF-8
        sf.write(file, amplitude * noise, 8000, format="WAV")


@pytest.fixture
def sources(tmp_path):
    """Songs A, B, C and noises in two folds, short and at a low rate."""
    for n, name in enumerate("ABC"):
        _write(tmp_path / "songs" / "train" / f"{name}.wav", seed=n)
    for fold in (1, 2):
        for class_id in (3, 4):
            _write(tmp_path / f"noises/fold{fold}/{fold}{class_id}-{class_id}-0-0.wav", seed=10 * fold + class_id)
    return tmp_path


def _merge(folder, *flags, out="out", white_share=WHITE_SHARE):
    """A merger with white and real noises, in this process."""
    args = merger_parser("").parse_args([
        "--path-songs", str(folder / "songs"), "--path-noises", str(folder / "noises"), "--folds", "1,2",
        "--iter-noise", "3", "--jobs", "1", "--input-dir", str(folder / out / "input"),
        "--target-dir", str(folder / out / "target"), *flags])
    merge("merger_mixed_white", args, white_share)
    return read_manifest(folder / out / "input")


def _bytes(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


CHANGES = {
    "a song more": (lambda f: _write(f / "songs/train/0.wav"), "these songs are new: train/0.wav"),
    "two songs more": (lambda f: [_write(f / f"songs/train/{n}.wav") for n in "01"], "new: train/0.wav, train/1.wav"),
    "a song less": (lambda f: (f / "songs/train/B.wav").unlink(), "these songs are gone: train/B.wav"),
    "a song of another name": (lambda f: (f / "songs/train/A.wav").rename(f / "songs/train/Z.wav"),
                               "new: train/Z.wav; these songs are gone: train/A.wav"),
    "a song of another format": (lambda f: (f / "songs/train/A.wav").rename(f / "songs/train/A.aiff"),
                                 "new: train/A.aiff"),
    "another song of that name": (lambda f: _write(f / "songs/train/C.wav", seed=9), "content of C.wav has changed"),
    "songs that change names": (lambda f: _swap(f / "songs/train/A.wav", f / "songs/train/B.wav"), "content of .*has"),
    "a noise more": (lambda f: _write(f / "noises/fold1/rain.wav"), "these noises are new: fold1/rain.wav"),
    "a noise less": (lambda f: (f / "noises/fold2/23-3-0-0.wav").unlink(), "these noises are gone: fold2/23-3-0-0.wav"),
    "a noise in another fold": (lambda f: shutil.move(f / "noises/fold2/23-3-0-0.wav", f / "noises/fold1"),
                                "new: fold1/23-3-0-0.wav; these noises are gone: fold2/23-3-0-0.wav"),
    "other noises": (lambda f: [_write(p, seed=99) for p in f.glob("noises/*/*.wav")], "content of .*-0.wav.* changed"),
}


def _swap(a, b):
    a.rename(a.with_suffix(".x"))
    b.rename(a)
    a.with_suffix(".x").rename(b)


@pytest.mark.parametrize("change, message", CHANGES.values(), ids=CHANGES)
def test_changed_sources_are_told_and_nothing_is_touched(sources, change, message):
    """A dataset knows its songs by number: D1 and D6 hold only while the lists are the same."""
    _merge(sources)
    change(sources)
    before = _bytes(sources / "out")
    with pytest.raises(CallError, match=f"expected the songs and noises with which .*{message}.*: restore them or use"):
        _merge(sources)
    assert _bytes(sources / "out") == before


def test_a_dataset_without_lists_of_its_sources_is_refused(sources):
    _merge(sources)
    path = sources / "out/input/dataset.json"
    content = json.loads(path.read_text())
    del content["sources"]["files"]
    path.write_text(json.dumps(content))
    with pytest.raises(CallError, match="begun by an older version"):
        _merge(sources)


@pytest.mark.parametrize("flags", [("--seed", "1"), ("--iter-songs", "2"), ("--clean-target",), ("--format", "flac")])
def test_changed_settings_are_told(sources, flags):
    _merge(sources)
    before = _bytes(sources / "out")
    with pytest.raises(CallError, match=r"expected the settings with which .* was .* and is"):
        _merge(sources, *flags)
    assert _bytes(sources / "out") == before


def test_the_same_sources_give_the_same_bytes_after_a_stop(sources):
    """D1, D6 and D7 with the lists."""
    _merge(sources)
    whole = _bytes(sources / "out")
    shutil.copytree(sources / "out", sources / "half")
    rows = read_manifest(sources / "half/input")
    for row in rows[4:]:
        (sources / "half/input" / row["input_file"]).unlink()
        (sources / "half/target" / row["target_file"]).unlink()
    _merge(sources, out="half")
    assert _bytes(sources / "half") == whole == _bytes(sources / "out") and len(rows) == 9
    _merge(sources)
    assert _bytes(sources / "out") == whole


def test_a_song_that_the_format_does_not_take_is_left_out(sources):
    sf.write(sources / "songs/train/ten.wav", np.random.default_rng(0).uniform(-0.1, 0.1, (4000, 10)), 8000)
    assert len(_merge(sources, "--format", "flac")) == 9 and len(_merge(sources, out="wav")) == 12
    assert list(read_dataset(sources / "out/input")["skipped_songs"]) == ["train/ten.wav"]


NOT_UTF_8 = os.fsdecode(b"caf\xe9.wav")
BAD_SONGS = {
    "no audio": ("x.mp3", b"nothing"), "empty": ("x.wav", b""), "a head alone": ("x.flac", b"fLaC"),
    "half a head": ("x.wav", b"RIFF\x24\0\0\0WAVEfmt "), "a picture": ("x.m4a", b"\x89PNG\r\n\x1a\n" + bytes(99)),
    "text": ("x.ogg", "Björk\n".encode("latin-1") * 50),
}


@pytest.mark.parametrize("name, content", BAD_SONGS.values(), ids=BAD_SONGS)
def test_a_bad_song_is_left_out_and_listed(sources, name, content):
    (sources / "songs/train" / name).write_bytes(content)
    rows = _merge(sources)
    skipped = read_dataset(sources / "out/input")["skipped_songs"]
    assert len(rows) == 9 and list(skipped) == [f"train/{name}"] and name in skipped[f"train/{name}"]
    with pytest.raises(UserError, match=name):
        _merge(sources, "--strict", out="strict")


@pytest.mark.parametrize("content", [b"nothing", b"", None], ids=["no audio", "empty", "silent"])
def test_a_bad_noise_is_left_out_and_listed(sources, content, caplog):
    path = sources / "noises/fold1/13-3-0-0.wav"
    if content is None:
        _write(path, amplitude=0)
    else:
        path.write_bytes(content)
    caplog.set_level("INFO")
    rows = _merge(sources, white_share=0)
    assert len(rows) == 9 and "fold1/13-3-0-0.wav" not in {row["input_noise"] for row in rows}
    assert caplog.text.count("skipped: ") == 1 and "skipped noises: 1" in caplog.text
    description = read_dataset(sources / "out/input")
    assert list(description["skipped_noises"]) == ["fold1/13-3-0-0.wav"] and description["skipped_songs"] == {}
    whole = _bytes(sources / "out")
    (sources / "out/input" / rows[0]["input_file"]).unlink()
    _merge(sources, white_share=0)  # a pair that had met it is made again, and others had met it too
    assert _bytes(sources / "out") == whole
    with pytest.raises(UserError, match="13-3-0-0"):
        _merge(sources, "--strict", out="strict", white_share=0)


def test_a_noise_that_is_silent_for_a_while_is_no_bad_one(sources):
    for path in sources.glob("noises/*/*.wav"):
        noise = np.zeros(16000)
        noise[:2000] = 0.1 * np.random.default_rng(0).standard_normal(2000)
        sf.write(path, noise, 8000)
    assert len(_merge(sources, "--strict", white_share=0)) == 9
    assert read_dataset(sources / "out/input")["skipped_noises"] == {}


@pytest.mark.parametrize("error", [UnicodeDecodeError("utf-8", b"\xf6", 0, 1, "bad"), AttributeError("NoneType"),
                                   ZeroDivisionError(), MemoryError(), IndexError("x"), OSError(5, "input/output")],
                         ids=lambda e: type(e).__name__)
def test_whatever_a_decoder_raises_ends_nothing(sources, monkeypatch, error):
    real = dataset_builder.Song

    def song(path):
        if path.name == "B.wav":
            raise error
        return real(path)
    monkeypatch.setattr(dataset_builder, "Song", song)
    assert {row["song"] for row in _merge(sources)} == {"train/A.wav", "train/C.wav"}
    assert list(read_dataset(sources / "out/input")["skipped_songs"]) == ["train/B.wav"]


def test_a_full_disk_is_no_fault_of_a_song(sources, monkeypatch):
    def song(path):
        raise OSError(28, "no space left")
    monkeypatch.setattr(dataset_builder, "Song", song)
    with pytest.raises(OSError, match="no space"):
        _merge(sources)


NAMES = {
    "not UTF-8": NOT_UTF_8, "a line break": "a\nb.wav", "quotes": 'a"b;c,d.wav', "brackets": "(a)-(b).wav",
    "250 bytes": "x" * 246 + ".wav", "250 bytes of wide letters": "ä" * 123 + ".wav", "a mark": "\ufeffa.wav",
    "spaces": " a .wav", "what stands for a surrogate": "a\U0001f3b5.wav",
}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other names")
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("kind", ["song", "noise"])
def test_any_name_will_do(sources, name, kind, monkeypatch):
    """For a song or a noise: the manifest names it, and its output has a name that the file system takes."""
    if kind == "noise":
        shutil.rmtree(sources / "noises")
    _write(sources / ("songs/train" if kind == "song" else "noises/fold1") / name)
    _write(sources / "noises/fold2/24-4-0-0.wav", seed=5)
    rows = _merge(sources, "--clean-target", white_share=0 if kind == "song" else WHITE_SHARE)
    description = read_dataset(sources / "out/input")
    skipped = {**description["skipped_songs"], **description["skipped_noises"]}
    assert (sources / "out/input/manifest.csv").read_text(encoding="utf-8")
    found = [row for row in rows if name in (row["song"].split("/", 1)[1], row["input_noise"].partition("/")[2])]
    if name == NOT_UTF_8 and not found:
        assert len(skipped) == 1  # where the reader cannot open it, it is left out as any file
        return
    assert found and not skipped
    for row in rows:
        assert len(row["input_file"].encode()) <= 220
    assert problems(sources / "out/input", sources / "out/target") == []
    regenerate(sources / "out/input/manifest.csv", sources / "again/i", sources / "again/t", jobs=1)
    assert _bytes(sources / "again/i") == _bytes(sources / "out/input")


def test_two_runs_into_one_folder(sources):
    """The second one is told, and the first goes on; a run that was killed lets go."""
    hold = ("import sys, time; from common.locks import locked\nwith locked(sys.argv[1]): print('held', flush=True); "
            "time.sleep(60)")
    for side in ("input", "target"):
        process = subprocess.Popen([sys.executable, "-c", hold, sources / "out" / side], cwd=ROOT,
                                   stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "held\n"
        with pytest.raises(CallError, match=rf"expected .*{side} for this run alone, but another run is writing there"):
            _merge(sources)
        process.kill()
        process.wait()
        assert (sources / "out" / side / LOCK).exists()
    rows = _merge(sources)
    assert len(rows) == 9 and not list(sources.glob(f"out/*/{LOCK}"))
    with locked(sources / "out/input"), pytest.raises(CallError, match="another run"):
        regenerate(sources / "out/input/manifest.csv", sources / "out/input", sources / "out/target", jobs=1)


SPREADSHEETS = {
    "a mark": lambda t: t.encode("utf-8-sig"), "Windows lines": lambda t: t.replace("\n", "\r\n").encode(),
    "semicolons": lambda t: t.replace(",", ";").encode("utf-8-sig"), "tabs": lambda t: t.replace(",", "\t").encode(),
    "decimal commas": lambda t: t.replace(",", ";").replace(".", ",").replace(",wav", ".wav").encode(),
    "UTF-16": lambda t: t.replace(",", "\t").encode("utf-16"), "empty lines": lambda t: (t + ",,,\n\n").encode(),
    "code page": lambda t: t.replace("A.wav", "Ä.wav").encode("cp1252"),
    "quotes": lambda t: "".join(f'"{line}"\n'.replace(",", '","') for line in t.splitlines()).encode(),
}


@pytest.mark.parametrize("save", SPREADSHEETS.values(), ids=SPREADSHEETS)
def test_a_manifest_that_a_spreadsheet_saved(sources, save):
    """Checked and made again all the same, and the merger knows it as finished."""
    _merge(sources)
    path = sources / "out/input/manifest.csv"
    before, text = read_manifest(path.parent), path.read_text()
    path.write_bytes(save(text))
    after = read_manifest(path.parent)
    if "Ä".encode("cp1252") in path.read_bytes():
        assert "train/Ä.wav" in {row["song"] for row in after}
        return
    assert after == before
    assert problems(sources / "out/input", sources / "out/target") == []
    assert regenerate(path, sources / "again/i", sources / "again/t", jobs=1) == 9
    _merge(sources)
    assert path.read_text() == text


@pytest.mark.parametrize("change, message", [
    (lambda t: t.replace("pair_id,", "pair,", 1), "it has no pair_id"),
    (lambda t: t.replace("input_sha256", "hash", 1).replace("gain", "x", 1), "it has no gain, input_sha256"),
    (lambda t: "", "not there"), (lambda t: '"' + "x" * 200_000, "it is damaged|it has no"),
])
def test_a_manifest_that_lacks_columns(sources, change, message):
    _merge(sources)
    path = sources / "out/input/manifest.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=message):
        problems(sources / "out/input", sources / "out/target")


def test_a_number_that_a_spreadsheet_shortened(sources):
    rows = _merge(sources)
    path = sources / "out/input/manifest.csv"
    seed = next(row["input_white_seed"] for row in rows if row["input_white_seed"])
    path.write_text(path.read_text().replace(seed, "4.6E+18"))
    with pytest.raises(UserError, match=r"expected a whole number as input_white_seed of pair S\dN\d .*'4.6E\+18'"):
        regenerate(path, sources / "again/i", sources / "again/t", jobs=1)


def test_no_table_is_no_rows(tmp_path):
    assert read_rows(tmp_path / "none.csv", ("a",)) == []
