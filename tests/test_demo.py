import os
import sys

import joblib
import numpy as np
import pytest

from common.audio.reading import list_audio, read_audio
from common.data.noises import folds_by_split, scan_folds
from common.demo import __main__ as demo
from common.demo import datasets, synth
from common.demo.corpus import make_corpus
from common.errors import CallError
from common.labels import CLASS_NAMES
from common.workers import worker_processes


def test_songs_are_seeded_and_different():
    a, again, b = synth.song(1, 3), synth.song(1, 3), synth.song(2, 3)
    assert set(a) == set(synth.STEMS)
    for name in a:
        assert a[name].shape == (2, 3 * 44100) and np.array_equal(a[name], again[name])
        assert np.square(a[name]).mean() > 1e-5 and np.isfinite(a[name]).all()
        assert not np.array_equal(a[name], b[name])
        assert not np.array_equal(a[name][0], a[name][1])  # stereo


def test_songs_are_full_band():
    mix = sum(synth.song(3, 6).values())[0]
    spectrum = np.abs(np.fft.rfft(mix)) ** 2
    frequency = np.fft.rfftfreq(len(mix), 1 / 44100)
    for low, high in ((40, 200), (200, 2000), (2000, 8000), (8000, 16000)):
        assert spectrum[(frequency > low) & (frequency < high)].sum() > 1e-5 * spectrum.sum()


@pytest.mark.parametrize("class_id", range(10))
def test_noises_are_seeded_heard_and_different(class_id):
    a, again, b = (synth.noise(class_id, seed, 2.0) for seed in (5, 5, 6))
    assert a.shape == (1, 88200) and np.array_equal(a, again) and not np.array_equal(a, b)
    assert np.abs(a).max() == pytest.approx(0.7) and np.isfinite(a).all()


def test_classes_have_their_character():
    def centroid(x):
        power = np.abs(np.fft.rfft(x[0])) ** 2
        return (power * np.fft.rfftfreq(x.shape[1], 1 / 44100)).sum() / power.sum()

    def crest(x):
        return np.abs(x).max() / np.sqrt(np.square(x).mean())

    sounds = {name: synth.noise(i, 1, 3.0) for i, name in enumerate(CLASS_NAMES)}
    assert centroid(sounds["engine_idling"]) < centroid(sounds["siren"]) < centroid(sounds["drilling"])
    assert crest(sounds["gun_shot"]) > 2 * crest(sounds["siren"])


def test_the_corpus_has_musdb18_and_urbansound8k_layout(corpus):
    songs, noises = corpus
    assert {split: len(list_audio(songs / split)) for split in ("train", "validation", "test")} == {
        "train": 8, "validation": 2, "test": 4}
    assert all(p.name.endswith(".stem.mp4") for p in list_audio(songs))
    by_fold = scan_folds(noises)
    assert sorted(by_fold) == list(range(1, 11))
    for clips in by_fold.values():
        assert sorted(c.class_id for c in clips) == list(range(10))
    assert len({c.recording for clips in by_fold.values() for c in clips}) == 100


def test_a_second_call_makes_nothing_anew(tmp_path):
    songs, noises = make_corpus(tmp_path, song_seconds=1)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert make_corpus(tmp_path, song_seconds=1) == (songs, noises)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    audio, _ = read_audio(list_audio(songs)[0])
    assert audio.shape[0] == 2 and 0.1 < np.abs(audio).max() <= 1


def test_worker_processes_follow_a_change_of_folder(tmp_path, monkeypatch):
    for name in ("first", "second", "first"):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        with worker_processes(2) as parallel:
            assert {*parallel([joblib.delayed(os.getcwd)()] * 4)} == {str(tmp_path / name)}


def test_a_smaller_corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    songs, noises = make_corpus("my: corpus", song_seconds=1, channels=1, n_folds=4)
    audio, _ = read_audio(list_audio(songs)[0])
    assert audio.shape[0] == 1 and 0.1 < np.abs(audio).max() <= 1
    assert sorted(scan_folds(noises)) == [1, 2, 3, 4]


def test_only_the_demos_own_paths_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DEMO_DIR", tmp_path / "demo")
    monkeypatch.setattr(datasets, "make_corpus", lambda *_, **__: pytest.fail("made"))
    for path in (tmp_path / "mine", "data/train", tmp_path / "demo" / "mine"):
        assert str(datasets.ready(path)) == str(path)
    (tmp_path / "demo" / "corpus").mkdir(parents=True)
    (tmp_path / "demo" / "corpus" / "corpus-0-8-1-5").touch()
    datasets.ready(tmp_path / "demo" / "corpus" / "noises")


def test_the_demo_shows_its_table_once_and_what_to_do_next(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "QUICK", demo.Size(  # so short a training harms: other weights are measured
        {"train": (2, 2), "validation": (1, 1), "test": (2, 1)}, {"N_SEGMENTS": 4, "N_HELD_OUT": 4},
        {"WIDTH": 1, "EPOCHS": 1, "STEPS_PER_EPOCH": 2, "MODEL_PATH": "white", "SPEECH_METRICS": False}))
    monkeypatch.setattr(sys, "argv", ["demo", "--quick", "--out", str(tmp_path)])
    demo.main()
    shown = capsys.readouterr()
    table = [line for line in shown.out.splitlines() if "do nothing" in line]
    assert len(table) == len(set(table)) > 1 and sum(line.split()[0] == "all" for line in table) == 1
    assert "do nothing" not in shown.err and "improvement" not in shown.err and "unknown parameter" not in shown.err
    assert "The whole training takes about" in shown.err
    assert len(shown.out.split("What next:\n")[1].splitlines()) == 3
    typed = [line.split("  ")[-1].split(" (")[0] for line in shown.out.splitlines() if str(tmp_path) in line]
    assert len(typed) == 7 and not [path for path in typed if set("() ") & set(path[len(str(tmp_path)):])]
    assert read_audio(tmp_path / "noisy_song.flac")[0].shape == read_audio(tmp_path / "denoised_song.flac")[0].shape


def test_the_demo_takes_the_folds_that_are_there(corpus, tmp_path):
    assert folds_by_split(corpus[1]) == {"train": list(range(1, 9)), "validation": [9], "test": [10]}
    for fold in (1, 2, 3):
        (tmp_path / f"fold{fold}").mkdir()
        (tmp_path / f"fold{fold}" / f"{fold}-0-0-0.wav").touch()
    with pytest.raises(CallError, match="at least 4 folders"):
        folds_by_split(tmp_path)
    (tmp_path / "fold10").mkdir()
    (tmp_path / "fold10" / "9-0-0-0.wav").touch()
    assert folds_by_split(tmp_path) == {"train": [1, 2], "validation": [3], "test": [10]}


def test_wrong_calls(call, tmp_path):
    done = call("-m", "common.demo", "--out", tmp_path, "--songs", tmp_path, code=2)
    assert "both SONGS and NOISES" in done.stderr
