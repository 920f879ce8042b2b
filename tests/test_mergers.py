"""The four merger scripts, run as a user runs them, against the dataset properties."""

import hashlib
import json
import re
import shlex
import shutil

import numpy as np
import pytest
import soundfile as sf
import torch

from common.audio.reading import read_audio, resample
from common.audio.signals import GaussianNoise
from common.audio.writing import write_audio
from common.data.dataset_builder import MergeSettings
from common.data.manifest import read_dataset, read_manifest
from common.data.pairs import check_disjoint, find_pairs, songs_and_recordings
from common.data.songs import song_name
from common.errors import UserError
from tests.conftest import measured_snr_db

SPLITS = ("train", "validation", "test")
MERGERS = ("merger.py", "merger_class.py", "merger_white.py", "merger_mixed_white.py")


def _extra(script):
    return ("--class-num", "4") if script == "merger_class.py" else ()


def _bytes(*folders):
    return {(f.name, p.name): hashlib.sha256(p.read_bytes()).hexdigest() for f in folders for p in f.iterdir()}


def _noise(row, side, song, noises):
    """The zero-mean noise of a manifest row, made again the plain way."""
    channels, n = song.shape
    if row[f"{side}_white_seed"]:
        signal = GaussianNoise(int(row[f"{side}_white_seed"]), channels, n, int(row["sample_rate"]))
        return np.concatenate(list(signal.blocks()), axis=-1)
    audio, rate = read_audio(noises / row[f"{side}_noise"])
    audio = resample(audio, rate, int(row["sample_rate"])).mean(axis=0)
    looped = audio[(int(row[f"{side}_noise_offset"]) + np.arange(n)) % len(audio)]
    return np.tile(looped - looped.mean(), (channels, 1))


@pytest.mark.parametrize("script", MERGERS)
@pytest.mark.parametrize("split", SPLITS)
def test_pairs_hold_song_noise_and_gain_as_the_manifest_says(merged, corpus, script, split):
    """D2, D3: both members hold the same song at one gain, at the stated SNR, and nothing clips."""
    input_dir, target_dir, rows = merged(script, split, 2, 2, *_extra(script))
    assert len(rows) == 4
    for row in rows:
        song, rate = read_audio(corpus[0] / row["song"])
        assert float(row["song_power"]) == pytest.approx(np.square(song, dtype=float).mean())
        gain, members = float(row["gain"]), {}
        for side, folder in (("input", input_dir), ("target", target_dir)):
            samples, written_rate = sf.read(folder / row[f"{side}_file"], dtype="int16", always_2d=True)
            assert written_rate == rate == int(row["sample_rate"])
            assert samples.T.shape == song.shape == (int(row["channels"]), int(row["samples"]))
            assert np.abs(samples.astype(int)).max() < 32767
            assert hashlib.sha256((folder / row[f"{side}_file"]).read_bytes()).hexdigest() == row[f"{side}_sha256"]
            members[side] = samples.T / 32768
        for side, audio in members.items():
            rest = audio / gain - song
            if row[f"{side}_noise"] == "CLEAN":
                assert np.abs(rest).max() <= 0.51 / 32768 / gain
                continue
            snr = measured_snr_db(song, rest)
            assert snr == pytest.approx(float(row[f"{side}_snr_db"]), abs=0.05)
            assert snr == pytest.approx(float(row[f"{side}_realised_snr_db"]), abs=0.005)
            scaled = _noise(row, side, song, corpus[1]) * float(row[f"{side}_scale"])
            assert measured_snr_db(song, scaled) == pytest.approx(float(row[f"{side}_snr_db"]), abs=1e-3)
            assert np.abs(rest - scaled).max() <= 0.51 / 32768 / gain + 1e-6


@pytest.mark.parametrize("script", MERGERS)
def test_names_and_noises_of_training_pairs(merged, script):
    """D4, and the file names."""
    _, _, rows = merged(script, "train", 2, 2, *_extra(script))
    for row in rows:
        for side in ("input", "target"):
            name = re.fullmatch(r"(INPUT|TARGET)-S(\d+)N(\d+)-\((.+)\)-\((.+)\)\.wav", row[f"{side}_file"])
            assert name[1] == side.upper() and f"S{name[2]}N{name[3]}" == row["pair_id"]
            assert name[5] == song_name(row["song"]) and not name[5].endswith(".stem")
            assert name[4] == ("white" if row[f"{side}_white_seed"] else row[f"{side}_noise"].split("/")[-1][:-4])
        if row["input_noise_fold"] and row["target_noise_fold"]:
            assert row["input_noise_recording"] != row["target_noise_recording"]
            assert row["input_noise_class"] != row["target_noise_class"]
            if script != "merger_class.py":
                assert row["input_noise_fold"] != row["target_noise_fold"]
        if script == "merger_class.py":
            assert row["input_noise_class"] == "drilling" != row["target_noise_class"]
        if script == "merger_white.py":
            assert row["input_white_seed"] != row["target_white_seed"]


@pytest.mark.parametrize("script", MERGERS)
@pytest.mark.parametrize("split, fold", [("validation", "9"), ("test", "10")])
def test_clean_targets_are_named_so_and_folds_are_the_splits(merged, script, split, fold):
    _, _, rows = merged(script, split, 2, 2, *_extra(script))
    assert all(re.fullmatch(r"TARGET-S\dN\d-\(CLEAN\)-\(.+\)\.wav", row["target_file"]) for row in rows)
    assert {row["input_noise_fold"] or row["input_noise"] for row in rows} <= {fold, "white"}


@pytest.mark.parametrize("script", MERGERS)
@pytest.mark.parametrize("split", SPLITS)
def test_same_arguments_same_bytes_whatever_the_processes(merged, corpus, call, tmp_path, script, split):
    """D1."""
    input_dir, target_dir, _ = merged(script, split, 2, 2, *_extra(script))
    white = script == "merger_white.py"
    call(script, "--path-songs", corpus[0], *([] if white else ["--path-noises", corpus[1]]), "--iter-songs", 2,
         "--iter-white-noise" if white else "--iter-noise", 2, "--split", split, *_extra(script), "--jobs", 1,
         "--input-dir", tmp_path / "input", "--target-dir", tmp_path / "target")
    made = _bytes(tmp_path / "input", tmp_path / "target")
    assert len(made) == 2 * 2 * 2 + 2 and made == _bytes(input_dir, target_dir)


def test_a_song_is_shared_out_when_workers_outnumber_songs(merged):
    one, shared = (merged("merger_mixed_white.py", "train", 1, 5, "--jobs", jobs) for jobs in ("1", "4"))
    assert len(one[2]) == 5 and _bytes(*one[:2]) == _bytes(*shared[:2])


def test_another_seed_gives_other_pairs(merged):
    _, _, rows = merged("merger.py", "train", 2, 2)
    _, _, others = merged("merger.py", "train", 2, 2, "--seed", "1")
    assert not {row["input_sha256"] for row in rows} & {row["input_sha256"] for row in others}


@pytest.mark.parametrize("script", MERGERS)
def test_splits_share_no_song_and_no_recording(merged, script):
    """D5, over what they drew."""
    pairs = {split: find_pairs(*merged(script, split, 2, 2, *_extra(script))[:2]) for split in SPLITS}
    check_disjoint(**{split: songs_and_recordings(found) for split, found in pairs.items()})
    with pytest.raises(UserError, match="share"):
        check_disjoint(train=songs_and_recordings(pairs["train"]), test=songs_and_recordings(pairs["train"]))


@pytest.mark.parametrize("n_songs, n_noises, expected", [(1, 3, (1, 3)), (100, 1, (8, 1)), (3, 2, (3, 2))])
@pytest.mark.parametrize("script", MERGERS)
def test_iteration_counts_are_upper_bounds(merged, script, n_songs, n_noises, expected):
    """D7: the corpus has 8 training songs."""
    _, _, rows = merged(script, "train", n_songs, n_noises, *_extra(script))
    songs = [row["song"] for row in rows]
    assert (len(set(songs)), len(songs) // len(set(songs))) == expected
    assert len(songs) == expected[0] * expected[1]


@pytest.mark.parametrize("script", MERGERS)
def test_clean_targets_for_training_have_the_same_inputs(merged, corpus, script):
    """Noise2Clean on the inputs of Noise2Noise."""
    noisy, clean = (merged(script, "train", 2, 2, *_extra(script), *extra) for extra in ((), ("--clean-target",)))
    inputs = [{p.name: p.read_bytes() for p in d.glob("INPUT-*")} for d, _, _ in (noisy, clean)]
    assert len(inputs[0]) == 4 and inputs[0] == inputs[1]
    for before, row in zip(noisy[2], clean[2], strict=True):
        assert {k: v for k, v in row.items() if not k.startswith("target")} == {
            k: v for k, v in before.items() if not k.startswith("target")}
        song, target = read_audio(corpus[0] / row["song"])[0], read_audio(clean[1] / row["target_file"])[0]
        assert row["target_noise"] == "CLEAN" and "-(CLEAN)-" in row["target_file"]
        assert np.abs(target - song * float(row["gain"])).max() <= 0.51 / 32768


def test_flac_holds_the_same_samples_in_less_space(merged):
    wav, flac = (merged("merger.py", "train", 2, 2, *extra) for extra in ((), ("--format", "flac")))
    for a, b in zip(wav[2], flac[2], strict=True):
        assert b["input_file"] == a["input_file"].replace(".wav", ".flac")
        assert np.array_equal(*(sf.read(d / row["input_file"], dtype="int16")[0]
                                for d, row in ((wav[0], a), (flac[0], b))))
    sizes = [sum(p.stat().st_size for d in made[:2] for p in d.glob("*-S*")) for made in (wav, flac)]
    assert sizes[1] < 0.9 * sizes[0]
    assert len(find_pairs(*flac[:2])) == 4


def test_dataset_json_holds_the_command_that_makes_the_set_again(merged, call, tmp_path):
    input_dir, target_dir, _ = merged("merger_class.py", "train", 2, 2, "--class-num", "0", "--snr-db", "7", "8",
                                      "--folds", "1,2,3")
    description = read_dataset(input_dir)
    assert set(description) == {"command", "settings", "sources", "versions", "skipped_songs", "skipped_noises"}
    call(*shlex.split(description["command"]), "--input-dir", tmp_path / "input", "--target-dir", tmp_path / "target")
    assert _bytes(tmp_path / "input", tmp_path / "target") == _bytes(input_dir, target_dir)
    spaced = MergeSettings("merger", "/my songs", "/n", 1).command()
    assert shlex.split(spaced)[:3] == ["merger.py", "--path-songs", "/my songs"]
    white = read_dataset(merged("merger_white.py", "test", 2, 2)[0])
    assert "--iter-white-noise 2" in white["command"] and white["sources"]["noises"] is None


def test_the_snr_range_can_be_given(merged):
    _, _, rows = merged("merger_white.py", "train", 2, 3, "--snr-db", "7", "8")
    values = [float(row[f"{side}_snr_db"]) for row in rows for side in ("input", "target")]
    assert min(values) >= 7 and max(values) <= 8 and len(set(values)) == 12


def test_any_rate_and_channel_count_is_kept(corpus, call, tmp_path, rng):
    songs = tmp_path / "songs" / "train"
    for name, rate, channels, subtype in (("mono.flac", 8000, 1, "PCM_16"), ("six.wav", 22050, 6, "PCM_24"),
                                          ("high.wav", 96000, 2, "FLOAT"), ("song.ogg", 48000, 2, None)):
        audio = 0.2 * rng.standard_normal((channels, 2 * rate)).astype(np.float32)
        write_audio(songs / name, audio, rate, subtype)
    call("merger.py", "--path-songs", songs.parent, "--path-noises", corpus[1], "--iter-noise", 1,
         "--input-dir", tmp_path / "i", "--target-dir", tmp_path / "t")
    got = {song_name(r["song"]): (int(r["sample_rate"]), int(r["channels"])) for r in read_manifest(tmp_path / "i")}
    assert got == {"mono": (8000, 1), "six": (22050, 6), "high": (96000, 2), "song": (48000, 2)}


def test_bad_songs_among_good_ones_are_skipped_and_counted(corpus, call, tmp_path):
    songs = tmp_path / "songs" / "train"
    songs.mkdir(parents=True)
    shutil.copy(corpus[0] / "train" / "Amber.stem.mp4", songs)
    (songs / "broken.mp3").write_bytes(b"nothing")
    write_audio(songs / "silent.wav", np.zeros((2, 44100), np.float32), 44100)
    command = ("merger.py", "--path-songs", songs.parent, "--path-noises", corpus[1], "--iter-noise", 2,
               "--input-dir", tmp_path / "i", "--target-dir", tmp_path / "t")
    done = call(*command)
    assert "2 pairs of 1 songs" in done.stderr and "(skipped songs: 2)" in done.stderr
    assert "broken.mp3" in done.stderr and "silent.wav is silent" in done.stderr
    skipped = json.loads((tmp_path / "i" / "dataset.json").read_text())["skipped_songs"]
    assert sorted(path.split("/")[-1] for path in skipped) == ["broken.mp3", "silent.wav"]
    strict = call(*command[:-4], "--strict", "--input-dir", tmp_path / "i2", "--target-dir", tmp_path / "t2", code=1)
    # Not always the last line: Python's resource tracker may have its say when workers are stopped.
    assert sum(line.startswith("error: expected") for line in strict.stderr.splitlines()) == 1
    assert "Traceback" not in strict.stderr


def test_without_a_gpu_the_cpu_mixes_and_one_line_says_so(corpus, call, tmp_path):
    done = call("merger_white.py", "--path-songs", corpus[0], "--iter-songs", 1, "--iter-white-noise", 1, "--use-cuda",
                "--input-dir", tmp_path / "i", "--target-dir", tmp_path / "t")
    assert torch.cuda.is_available() or done.stderr.count("no CUDA device found") == 1


BAD_CALLS = {
    "missing songs": ("merger.py", {"--path-songs": "{tmp}/none"}, 2, "does not exist"),
    "empty songs": ("merger_white.py", {"--path-songs": "{tmp}/empty"}, 2, "there is none"),
    "missing noises": ("merger.py", {"--path-noises": "{tmp}/none"}, 2, "--path-noises"),
    "no fold": ("merger_mixed_white.py", {"--path-noises": "{tmp}/empty"}, 2, "fold1 ... fold10"),
    "absent fold": ("merger.py", {"--path-noises": "{tmp}/onefold"}, 2, "--folds"),
    "fold 11": ("merger.py", {"--folds": "11"}, 2, "--folds between 1 and 10"),
    "folds in words": ("merger.py", {"--folds": "one"}, 2, "--folds"),
    "class 10": ("merger_class.py", {"--class-num": "10"}, 2, "argument --class-num: invalid choice: 10"),
    "no songs wanted": ("merger.py", {"--iter-songs": "0"}, 2, "at least 1, got 0"),
    "no noises wanted": ("merger_white.py", {"--iter-white-noise": "-1"}, 2, "at least 1, got -1"),
    "reversed range": ("merger.py", {"--snr-db": ("9", "2")}, 2, "LOW <= HIGH"),
    "no range": ("merger_white.py", {"--snr-db": ("nan", "9")}, 2, "HIGH <= 60, got nan 9"),
    "endless range": ("merger.py", {"--snr-db": ("0", "inf")}, 2, "HIGH <= 60, got 0 inf"),
    "one folder for both": ("merger.py", {"--target-dir": "{tmp}/i"}, 2, "two output folders"),
    "foreign files": ("merger.py", {"--input-dir": "{tmp}/foreign"}, 2, "holes.txt"),
    "unknown flag": ("merger.py", {"--iter": "3"}, 2, "unrecognized"),
    "only bad songs": ("merger.py", {"--path-songs": "{tmp}/bad"}, 1, "at least one usable song"),
}


@pytest.mark.parametrize("script, changes, code, message", BAD_CALLS.values(), ids=BAD_CALLS)
def test_a_wrong_call_gets_one_sentence(corpus, call, tmp_path, script, changes, code, message):
    for name in ("empty", "onefold/fold3", "foreign", "bad/train"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "foreign" / "holes.txt").write_text("precious")
    shutil.copy(corpus[1] / "fold3" / "100300-0-0-0.wav", tmp_path / "onefold" / "fold3")
    write_audio(tmp_path / "bad" / "train" / "silent.wav", np.zeros((1, 44100), np.float32), 44100)
    arguments = {"--path-songs": str(corpus[0]), "--input-dir": f"{tmp_path}/i", "--target-dir": f"{tmp_path}/t"}
    if script != "merger_white.py":
        arguments["--path-noises"] = str(corpus[1])
    for flag, value in changes.items():
        arguments[flag] = value if isinstance(value, tuple) else value.format(tmp=tmp_path)
    flat = []
    for flag, value in arguments.items():
        flat += [flag, *([value] if isinstance(value, str) else value)]
    done = call(script, *flat, code=code)
    assert message in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "foreign" / "holes.txt").read_text() == "precious"


def test_other_settings_do_not_touch_a_finished_set(merged, corpus, call):
    input_dir, target_dir, _ = merged("merger.py", "train", 2, 2)
    before = _bytes(input_dir, target_dir)
    done = call("merger.py", "--path-songs", corpus[0], "--path-noises", corpus[1], "--iter-songs", 2,
                "--iter-noise", 3, "--input-dir", input_dir, "--target-dir", target_dir, code=2)
    assert "iter_noise was 2 and is 3" in done.stderr
    assert _bytes(input_dir, target_dir) == before
