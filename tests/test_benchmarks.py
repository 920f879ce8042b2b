"""The benchmarks run and print what they promise; the figures themselves are not for a test."""

import re
import shutil

import pandas as pd
import pytest

from common.audio.writing import write_audio
from common.demo import synth
from common.demo.corpus import TITLES


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the plain variant calls ffmpeg")
def test_mixing(corpus, call, tmp_path):
    done = call("-m", "benchmarks.mixing", "--path-songs", corpus[0], "--path-noises", corpus[1], "--iter-noise", 1,
                "--rounds", 1, "--json", tmp_path / "table.json")
    assert "8 songs x 1 pairs = 8 pairs" in done.stdout and (tmp_path / "table.json").stat().st_size > 500
    assert len(re.findall(r"^(plain|ours|floor).* \d+\.\d\d +\d+\.\d\d$", done.stdout, re.M)) == 6


@pytest.mark.slow
def test_long_song(call):
    done = call("-m", "benchmarks.long_song", "--minutes", 1)
    assert len(re.findall(r"^merger\w*\.py +1 +[\d.]+ +\d+$", done.stdout, re.M)) == 2


@pytest.mark.slow
def test_inference(call):
    done = call("-m", "benchmarks.inference", "--width", 1, "--seconds", 1.15, "--rounds", 1)
    rows = re.findall(r"^(\w+) +[\d.]+ +[\d.]+ +[\d.]+ +\d+ +(\S+)$", done.stdout, re.M)
    assert [name for name, _ in rows] == ["textbook", "training_form", "convolutions", "bfloat16"]
    assert all(float(error) < (0.02 if name == "bfloat16" else 1e-5) for name, error in rows[1:])


@pytest.mark.slow
def test_long_audio(call):
    done = call("-m", "benchmarks.long_audio", "--width", 1, "--minutes", 1)
    assert len(re.findall(r"^ +1 +1 +[\d.]+ +[\d.]+ +\d+$", done.stdout, re.M)) == 1


@pytest.mark.slow
def test_training(call):
    done = call("-m", "benchmarks.training", "--width", 1, "--batch-size", 2, "--rounds", 1)
    assert len(re.findall(r"^ +1 (textbook|ours) +[\d.]+ +[\d.]+ +[\d.]+ +\d+ +[\d.]+$", done.stdout, re.M)) == 2


@pytest.mark.slow
def test_widths(call, pool_folder, tmp_path):
    flags = ["-m", "benchmarks.widths", pool_folder, "-o", tmp_path, "--width", 1, 2, "--clean-width", 2, "--steps", 2,
             "--n-validation", 2, "--rounds", 1, "--noise", "mixed"]
    done = call(*flags)
    rows = re.findall(r"^ +(\d) +(\S+) +(NaN|-?[\d.]+) +(\d+) +([\d.]+)$", done.stdout, re.M)
    assert [(row[0], row[2] == "NaN") for row in rows] == [("1", True), ("2", False)]
    assert (tmp_path / "widths.png").stat().st_size > 5000
    assert [row[:4] for row in re.findall(r"^ +(\d) +(\S+) +(NaN|-?[\d.]+) +(\d+) ", call(*flags).stdout, re.M)] == [
        row[:4] for row in rows]  # what is trained stays


@pytest.mark.slow
def test_pretrained(corpus, call, tmp_path):
    call("-m", "common.evaluation", "--songs", corpus[0], "--noises", corpus[1], "-o", tmp_path / "set",
         "--segments", 2, "--conditions", "white", "siren")
    done = call("-m", "benchmarks.pretrained", tmp_path / "set", "-o", tmp_path / "out", "--speech")
    rows = pd.read_csv(tmp_path / "out" / "metrics.csv")
    assert set(rows[rows.stoi.notna()].method) == {"do nothing", "weights of the noise"}
    blind = {"do nothing", "mixed", "mixed, without confidence", "weights of the noise", "auto",
             "weights of the noise, without confidence", "noisereduce stationary", "noisereduce non-stationary",
             "oracle Wiener mask", "oracle bounded complex mask"}
    n = rows.groupby("method").size()
    assert set(n[n == 4].index) == blind and set(n[n < 4]) == {2}  # white noise has a print, the siren none
    assert set(n.index) - blind >= {"Wiener with a print", "noisereduce with a print"}
    table = pd.read_csv(tmp_path / "out" / "picks.csv", index_col=0)
    assert table.to_numpy().sum() == 4 and list(table.index) == ["siren", "white"]
    assert "manifest" in done.stdout and (tmp_path / "out" / "trade_offs.png").stat().st_size > 5000
    gains = rows[rows.noise == "white"].groupby("method").snr_improvement_db.mean()
    assert gains["weights of the noise"] > 1 and gains["do nothing"] == 0


@pytest.mark.slow
def test_samples(call, tmp_path):
    done = call("-m", "benchmarks.samples", "-o", tmp_path / "out", "--corpus", tmp_path / "corpus")
    found = re.findall(r": (\S+) dB to (\S+) dB$", done.stdout, re.M)
    gains = [float(after) - float(before) for before, after in found]
    assert len(gains) == 3 and gains[0] > 3 and min(gains) > -1
    assert len(list((tmp_path / "out").glob("*.wav"))) == 9 and len(list((tmp_path / "out").glob("*.png"))) == 3


@pytest.mark.slow
def test_bandwidth(call, corpus):
    done = call("-m", "benchmarks.bandwidth", "--path-songs", corpus[0], "--songs", 1)
    rows = re.findall(r"^(\d+) +([-\d.]+) +([-\d.]+) +([-\d.]+)$", done.stdout, re.M)
    assert [int(row[0]) for row in rows] == [16000, 20000, 22050]
    assert all(float(gain) > 0 for gain in rows[-1][1:])


@pytest.mark.slow
@pytest.mark.parametrize("songs, names", [("validation", TITLES[8:10]), ("train", TITLES[:8])])
def test_validation_songs(call, pool_folder, songs, names):
    done = call("-m", "benchmarks.validation_songs", pool_folder, "white", "mixed", "--noise", "white", "--n", 12,
                "--songs", songs, "--apart", names[0], "--worst", 9)
    rows = re.findall(r'^("\w+"|others)? +(white|mixed) +(\d+) +([-\d.]+) +(\d+) +([-\d.]+)$', done.stdout, re.M)
    assert [row[1] for row in rows] == ["white", "mixed"] * 2 and sum(int(row[2]) for row in rows) == 24
    assert {row[0] for row in rows if row[0]} == {f'"{names[0]}"', "others"}
    assert all(float(row[3]) > 0 and float(row[5]) > 0 for row in rows)
    assert set(re.findall("|".join(TITLES), done.stdout.split("gain least")[1])) <= set(names)


@pytest.mark.slow
def test_two_copies(call, corpus, tmp_path):
    write_audio(tmp_path / "song.wav", sum(synth.song(4, 45).values()), synth.SAMPLE_RATE)
    done = call("-m", "benchmarks.two_copies", "--path-songs", tmp_path, "--path-noises", corpus[1], "--cases", 1)
    misaligned, song_over_error = map(float, done.stdout.split()[-2:])
    assert misaligned < 0.1 and song_over_error > 30


def test_training_curve_counts_on_from_the_best_step_of_the_run_before(call, tmp_path):
    for name, gains, best in (("first", (1.0, 2.0, 1.5), 1), ("second", (1.8, 2.5), 1)):
        rows = pd.DataFrame({"epoch": range(1, len(gains) + 1), "steps": [100 * (k + 1) for k in range(len(gains))],
                             "validation_snr_improvement_db": gains, "validation_with_print_db": gains,
                             "learning_rate": 1e-3, "best": [k == best for k in range(len(gains))]})
        (tmp_path / name).mkdir()
        rows.to_csv(tmp_path / name / "history.csv", index=False)
    at_once, later = tmp_path / "at_once.png", tmp_path / "later.png"
    call("-m", "benchmarks.training_curve", tmp_path / "first", tmp_path / "second", "--first-step", 50, "-o", at_once)
    table = pd.read_csv(at_once.with_suffix(".csv"))
    assert table.steps.tolist() == [150, 250, 350, 350, 450] and table.run.tolist() == [1, 1, 1, 2, 2]
    call("-m", "benchmarks.training_curve", tmp_path / "first", "--first-step", 50, "-o", later)
    call("-m", "benchmarks.training_curve", later.with_suffix(".csv"), tmp_path / "second", "-o", later)
    assert pd.read_csv(later.with_suffix(".csv")).equals(table) and later.stat().st_size > 0
