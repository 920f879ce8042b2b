import csv

import numpy as np
import pytest

from common.audio import write_audio
from common.correlation import log_spectrum_correlation, peak_correlation, pearson


def test_pearson_of_known_signals(rng):
    a, b = rng.standard_normal((2, 10000))
    assert pearson(a, a) == pytest.approx(1) and pearson(a, -3 * a + 1) == pytest.approx(-1)
    assert pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-12)
    assert np.isnan(pearson(a, np.ones(10000)))


def test_a_delayed_copy_is_found(rng):
    a = rng.standard_normal(8000)
    late = np.concatenate([np.zeros(300), a])[:8000]
    value, lag = peak_correlation(late, a, 1000)
    assert lag == pytest.approx(0.3) and value == pytest.approx(7700 / 8000, abs=0.02)
    assert abs(peak_correlation(rng.standard_normal(8000), a, 1000)[0]) < 0.06


def test_spectra_correlate_where_waveforms_do_not(rng):
    shape = np.exp(-np.arange(1025) / 100)
    a, b = (np.fft.irfft(shape * np.fft.rfft(rng.standard_normal((20, 2048)))).ravel() for _ in range(2))
    assert abs(pearson(a, b)) < 0.1 < 0.8 < log_spectrum_correlation(a, b)


@pytest.fixture
def table(merged, call, tmp_path):
    def _table(script):
        input_dir, target_dir, _ = merged(script, "train", 2, 2)
        done = call("correlation.py", input_dir, target_dir, tmp_path / "out" / "table.csv")
        with open(tmp_path / "out" / "table.csv", newline="") as file:
            return done.stdout, list(csv.DictReader(file))
    return _table


def test_the_noises_of_a_white_set_are_independent(table):
    text, rows = table("merger_white.py")
    assert "4 couples" in text and "noise_correlation" in text
    for row in rows:
        assert row["file1"].startswith("INPUT-") and row["file2"].startswith("TARGET-")
        assert abs(float(row["noise_correlation"])) < 0.01  # 5 s of stereo white noise
        assert float(row["pearson"]) > 0.3 and float(row["peak_lag_seconds"]) == 0


def test_bad_calls(call, tmp_path, merged):
    input_dir, target_dir, _ = merged("merger_white.py", "train", 2, 2)
    (tmp_path / "empty").mkdir()
    write_audio(tmp_path / "other" / "x.wav", np.ones((1, 10), np.float32), 8000)
    for args, code, message in (((tmp_path / "none", target_dir, "o.csv"), 2, "does not exist"),
                                ((tmp_path / "empty", target_dir, "o.csv"), 2, "there is none"),
                                ((tmp_path / "other", target_dir, "o.csv"), 2, "none match"),
                                ((input_dir, target_dir, tmp_path), 1, "is a folder")):
        done = call("correlation.py", *args, code=code)
        assert message in done.stderr and "Traceback" not in done.stderr
