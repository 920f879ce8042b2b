"""Real music and real noise, when REAL_DATA names their folder (songs/, stems/, noises/UrbanSound8K/audio)."""

import os
from pathlib import Path

import numpy as np
import pytest

from common import mixing
from common.audio import list_audio, read_audio
from common.denoising import denoise_file
from common.manifest import read_manifest

REAL_DATA = Path(os.environ.get("REAL_DATA", ""))
pytestmark = [pytest.mark.real_data,
              pytest.mark.skipif(not (REAL_DATA / "songs").is_dir(), reason="REAL_DATA names no folder of recordings")]


def test_real_songs_and_noises_merge(call, tmp_path):
    call("merger_mixed_white.py", "--path-songs", REAL_DATA / "songs" / "musdb18-7s", "--path-noises",
         REAL_DATA / "noises" / "UrbanSound8K" / "audio", "--folds", "1,2", "--iter-songs", 6, "--iter-noise", 2,
         "--strict", "--input-dir", tmp_path / "i", "--target-dir", tmp_path / "t")
    rows = read_manifest(tmp_path / "i")
    assert len(rows) == 12 and {row["channels"] for row in rows} == {"2"}
    for row in rows:
        song, _ = read_audio(row["song"])
        noisy, _ = read_audio(tmp_path / "i" / row["input_file"])
        noise = noisy / float(row["gain"]) - song
        assert mixing.snr_db(song, noise) == pytest.approx(float(row["input_snr_db"]), abs=0.05)


@pytest.mark.parametrize("folder", ["stems", "originals"])
def test_genuine_files_are_read(folder):
    for path in list_audio(REAL_DATA / folder):
        audio, rate = read_audio(path)
        assert 44100 <= rate <= 96000 and audio.shape[1] > 0.2 * rate and np.abs(audio).max() > 0.01, path


def test_a_genuine_stem_file_is_denoised(model, tmp_path):
    source = next(p for p in list_audio(REAL_DATA / "stems") if p.suffix == ".m4a")
    report = denoise_file(model, source, tmp_path / "out.wav")
    assert read_audio(tmp_path / "out.wav")[0].shape == read_audio(source)[0].shape and report["limited_samples"] < 100
