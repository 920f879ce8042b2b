"""Real music and real noise, when REAL_DATA names their folder (songs/, stems/, noises/UrbanSound8K/audio)."""

import os
from pathlib import Path

import numpy as np
import pytest

from common.audio.reading import list_audio, read_audio
from common.data.correlation import correlate_folders
from common.data.manifest import read_manifest
from common.data.provenance import problems
from common.denoising.files import denoise_file
from tests.conftest import measured_snr_db

REAL_DATA = Path(os.environ.get("REAL_DATA", ""))
pytestmark = [pytest.mark.real_data,
              pytest.mark.skipif(not (REAL_DATA / "songs").is_dir(), reason="REAL_DATA names no folder of recordings")]


def test_real_songs_and_noises_merge(call, tmp_path):
    songs = REAL_DATA / "songs" / "musdb18-7s"
    call("merger_mixed_white.py", "--path-songs", songs, "--path-noises",
         REAL_DATA / "noises" / "UrbanSound8K", "--folds", "1,2", "--iter-songs", 6, "--iter-noise", 2,
         "--strict", "--input-dir", tmp_path / "i", "--target-dir", tmp_path / "t")
    rows = read_manifest(tmp_path / "i")
    assert len(rows) == 12 and {row["channels"] for row in rows} == {"2"}
    for row in rows:
        song, _ = read_audio(songs / row["song"])
        noisy, _ = read_audio(tmp_path / "i" / row["input_file"])
        noise = noisy / float(row["gain"]) - song
        assert measured_snr_db(song, noise) == pytest.approx(float(row["input_snr_db"]), abs=0.05)
    # Lossy sources too give the same bytes when they are decoded again.
    call("-m", "common.data.provenance", "regenerate", tmp_path / "i" / "manifest.csv", "--input-dir", tmp_path / "i2",
         "--target-dir", tmp_path / "t2")
    assert problems(tmp_path / "i2", tmp_path / "t2") == []
    # What the manifest says of the noises is what is on disk.
    rows, alone = correlate_folders(tmp_path / "i", tmp_path / "t")
    assert len(rows) == 12 and not alone and max(abs(row["noise_correlation"]) for row in rows) < 0.1


@pytest.mark.parametrize("folder", ["stems", "originals"])
def test_genuine_files_are_read(folder):
    for path in list_audio(REAL_DATA / folder):
        audio, rate = read_audio(path)
        assert 44100 <= rate <= 96000 and audio.shape[1] > 0.2 * rate and np.abs(audio).max() > 0.01, path


def test_a_genuine_stem_file_is_denoised(model, tmp_path):
    source = next(p for p in list_audio(REAL_DATA / "stems") if p.suffix == ".m4a")
    report = denoise_file(model, source, tmp_path / "out.wav")
    assert read_audio(tmp_path / "out.wav")[0].shape == read_audio(source)[0].shape and report["limited_samples"] < 100
