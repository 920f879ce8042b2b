import json
import re
import shutil

import numpy as np
import pytest

from common.audio.reading import read_audio
from common.audio.writing import write_audio
from common.data import correlation
from common.data.correlation import MEASURES, CrossCorrelation, block_sums, compare_files, moments, noise_bounds, report
from common.errors import CallError
from common.small_files import read_rows


@pytest.fixture
def pair(tmp_path):
    """Write two arrays as float files and return their paths."""
    def _pair(a, b, rate=8000):
        for name, audio in (("a", a), ("b", b)):
            write_audio(tmp_path / f"{name}.wav", np.atleast_2d(audio).astype(np.float32), rate, "FLOAT")
        return tmp_path / "a.wav", tmp_path / "b.wav"
    return _pair


def test_moments_are_numpys(rng):
    a, b = rng.standard_normal((2, 3, 5000)) + 0.3
    sums = sum(block_sums(a[:, part], b[:, part]) for part in np.array_split(np.arange(5000), 7))
    variances, _, covariance, pearson = moments(sums)
    assert pearson == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-12)
    assert covariance == pytest.approx(np.cov(a.ravel(), b.ravel(), bias=True)[0, 1], abs=1e-12)
    assert variances == pytest.approx([a.var(), b.var()], abs=1e-12)
    assert np.isnan(moments(block_sums(a, np.ones_like(a)))[-1])


@pytest.mark.parametrize("n", [10, 3000, correlation.BLOCK_SAMPLES, 150_000])
def test_cross_correlation_in_blocks_is_that_of_the_whole(rng, n):
    a, b = rng.standard_normal((2, 2, n)).astype(np.float32)
    cross = CrossCorrelation(50, 2)
    for start in range(0, n, correlation.BLOCK_SAMPLES):
        cross.add(*(x[:, start : start + correlation.BLOCK_SAMPLES] for x in (a, b)))
    for lag, value in zip(range(-50, 51), cross.sums(), strict=True):
        first, last = max(0, -lag), min(n, n - lag)
        expected = sum(float(x[first + lag : last + lag] @ y[first:last]) for x, y in zip(a, b, strict=True)
                       ) if last > first else 0
        assert value == pytest.approx(expected, abs=2e-5 * n + 1e-3)


@pytest.mark.parametrize("delay", [-300, 0, 17, 399])
def test_a_delayed_copy_is_found_within_50_ms(rng, pair, delay):
    a = 0.1 * rng.standard_normal(9000)
    row = compare_files(*pair(a[1000 - delay : 8000 - delay] + 0.01, -2 * a[1000:8000]))
    assert row["peak_lag_seconds"] == delay / 8000 and row["peak_correlation"] < -0.93
    assert row["pearson"] == pytest.approx(-1 if delay == 0 else 0, abs=0.05)
    assert row["power2"] == pytest.approx(0.04, rel=0.05)
    assert row["power1"] == pytest.approx(0.0101, rel=0.05)


def test_a_delay_beyond_50_ms_is_not_searched(rng, pair):
    a = rng.standard_normal(9000)
    assert abs(compare_files(*pair(a[:8000], a[1000:]))["peak_correlation"]) < 0.1


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.6, 1.0])
@pytest.mark.parametrize("levels", [(0.3, 0.3), (1.0, 0.1), (3.0, 2.0)])
def test_the_true_noise_correlation_lies_within_the_bounds(rng, rho, levels):
    """For any song power: the bounds know only x and y."""
    song, n1, other = rng.standard_normal((3, 200_000))
    n2 = rho * n1 + np.sqrt(1 - rho**2) * other
    x, y = song + levels[0] * n1, song + levels[1] * n2
    low, high = noise_bounds(x.var(), y.var(), np.cov(x, y, bias=True)[0, 1])
    assert -1 <= low <= rho + 0.01 and rho - 0.01 <= high <= 1


def test_bounds_of_unrelated_signals_say_that_noises_do_not_correlate_positively():
    assert noise_bounds(1.0, 1.0, 0.0) == (-1.0, 0.0)
    assert np.isnan(noise_bounds(0.0, 1.0, 0.0)).all()


def test_classes():
    values = [0.95, -0.8, 0.6, 0.5, -0.2, 0.05, 0.0, float("nan")]
    text = report([dict.fromkeys(MEASURES, r) | {"file1": "a", "file2": "b"} for r in values], [])
    assert re.search(r"high >= 0\.8 +medium >= 0\.5 +low >= 0\.1 +near zero\npearson +2 +2 +1 +2\n", text)


@pytest.mark.parametrize("script, split", [("merger_white.py", "train"), ("merger.py", "train"), ("merger.py", "test")])
def test_the_noises_of_a_set_are_made_again_and_compared(merged, corpus, call, tmp_path, script, split):
    input_dir, target_dir, manifest = merged(script, split, 2, 2)
    done = call("correlation.py", input_dir, target_dir, tmp_path / "out" / "table.csv")
    rows = read_rows(tmp_path / "out" / "table.csv")
    assert [row["pair"] for row in rows] == ["S1N1", "S1N2", "S2N1", "S2N2"] and "4 couples" in done.stdout
    assert (tmp_path / "out" / "table.png").stat().st_size > 10000
    for row, known in zip(rows, manifest, strict=True):
        assert (row["file1"], row["file2"]) == (known["input_file"], known["target_file"])
        members = [read_audio(d / name)[0] for d, name in ((input_dir, row["file1"]), (target_dir, row["file2"]))]
        assert float(row["pearson"]) == pytest.approx(np.corrcoef(*(m.ravel() for m in members))[0, 1], abs=1e-5)
        if split == "test":
            assert row["noise_correlation"] == "nan"
            continue
        song = read_audio(corpus[0] / known["song"])[0]
        rests = [(m / float(known["gain"]) - song).ravel() for m in members]
        assert float(row["noise_correlation"]) == pytest.approx(np.corrcoef(*rests)[0, 1], abs=2e-3)
        if script == "merger_white.py":
            assert abs(float(row["noise_correlation"])) < 0.01  # 5 s of stereo white noise
    assert ("most correlated noises" in done.stdout) == (split == "train")
    assert ("not identifiable" in done.stdout) == (split == "test")


def test_a_readable_report_and_json(merged, call, tmp_path):
    input_dir, target_dir, _ = merged("merger_white.py", "train", 2, 2)
    call("correlation.py", input_dir, target_dir, tmp_path / "r.txt")
    text = (tmp_path / "r.txt").read_text()
    assert re.search(r"high >= 0\.8 +medium >= 0\.5 +low >= 0\.1 +near zero", text)
    assert re.search(r"noise_correlation +0 +0 +0 +4\n", text)
    call("correlation.py", input_dir, target_dir, tmp_path / "r.json", "--jobs", 1)
    content = json.loads((tmp_path / "r.json").read_text())
    assert len(content["couples"]) == 4 and content["without_partner"] == []
    assert {p.name for p in tmp_path.iterdir()} == {"r.txt", "r.json", "r.png"}


def test_partners_are_found_by_pair_id_and_the_rest_is_reported(merged, call, tmp_path):
    input_dir, target_dir, rows = merged("merger_white.py", "train", 2, 2)
    for folder in (input_dir, target_dir):
        shutil.copytree(folder, tmp_path / folder.name)
    # Sorted by name, the targets now stand in another order than the inputs; one input has no target.
    names = [row["target_file"] for row in rows]
    (tmp_path / "target" / names[0]).rename(tmp_path / "target" / names[0].replace("(white)-(", "(white)-(zzz"))
    (tmp_path / "target" / names[3]).unlink()
    (tmp_path / "input" / "dataset.json").unlink()
    (tmp_path / "input" / "manifest.csv").unlink()
    done = call("correlation.py", tmp_path / "input", tmp_path / "target", tmp_path / "o.csv")
    found = read_rows(tmp_path / "o.csv")
    assert [row["pair"] for row in found] == ["S1N1", "S1N2", "S2N1"]
    assert all(float(row["pearson"]) > 0.3 and row["noise_correlation"] == "nan" for row in found)
    assert f"without a partner: {tmp_path}/input/{rows[3]['input_file']}" in done.stdout
    assert "1 files without" in done.stdout and "not identifiable" in done.stdout


def test_files_without_pair_names_are_matched_by_name_and_bad_ones_left_out(call, tmp_path, rng):
    for side in "ab":
        for name in ("one", "two", "three"):
            write_audio(tmp_path / side / f"{name}.wav", 0.1 * rng.standard_normal((1, 900)), 8000)
    write_audio(tmp_path / "b" / "two.wav", 0.1 * rng.standard_normal((1, 800)), 8000)
    (tmp_path / "b" / "three.wav").write_bytes(b"no audio")
    done = call("correlation.py", tmp_path / "a", tmp_path / "b", tmp_path / "o.csv", "--jobs", 1)
    assert [row["pair"] for row in read_rows(tmp_path / "o.csv")] == ["one"]
    assert done.stderr.count("left out: expected") == 2 and "expected one length" in done.stderr


def test_noises_that_are_gone_are_said_to_be(merged, tmp_path, caplog):
    input_dir, target_dir, _ = merged("merger.py", "train", 2, 2)
    rows, _ = correlation.correlate_folders(input_dir, target_dir, 1, str(tmp_path))
    assert all(np.isnan(row["noise_correlation"]) for row in rows) and "--path-noises" in caplog.text


def test_bad_calls(call, tmp_path, merged):
    input_dir, target_dir, _ = merged("merger_white.py", "train", 2, 2)
    (tmp_path / "empty").mkdir()
    write_audio(tmp_path / "other" / "x.wav", np.ones((1, 10), np.float32), 8000)
    for args, code, message in (((tmp_path / "none", target_dir, "o.csv"), 2, "does not exist"),
                                ((tmp_path / "empty", target_dir, "o.csv"), 2, "there is none"),
                                ((tmp_path / "other", target_dir, "o.csv"), 2, "none match"),
                                ((input_dir, target_dir, tmp_path), 2, "choose one of these"),
                                ((input_dir, target_dir, "o.xlsx"), 2, "choose one of these")):
        done = call("correlation.py", *args, code=code)
        assert message in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(CallError, match="none match"):
        correlation.match(tmp_path / "other", input_dir)


def test_namesakes_are_reported_and_not_dropped(tmp_path, rng):
    for name in ("i/a.wav", "i/x/a.wav", "i/b.wav", "t/a.wav", "t/b.wav", "t/b.flac"):
        write_audio(tmp_path / name, 0.1 * rng.standard_normal((1, 900)).astype(np.float32), 8000)
    couples, alone = correlation.match(tmp_path / "i", tmp_path / "t")
    assert [key for key, _, _ in couples] == ["a", "b"]
    assert len(alone) == 2 and {path.name for path in alone} & {"a.wav", "b.wav", "b.flac"}
