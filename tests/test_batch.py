"""The command line of denoising."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile as sf

from common import batch
from common.audio import AUDIO_SUFFIXES, OUTPUT_SUFFIXES, AudioWriter, read_audio, write_audio
from common.checkpoints import save_weights
from common.errors import CallError
from common.tags import Tags, read_tags
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mini.pth"
    save_weights(model, path, {})
    return path


@pytest.fixture
def songs(tmp_path, rng):
    """A tree of songs: 16 and 24 bits, FLAC with tags, an MP3, and a broken file."""
    folder = tmp_path / "songs"
    sound = (0.1 * rng.standard_normal((2, 30_000))).astype(np.float32)
    write_audio(folder / "a.wav", sound, 48000, "PCM_24")
    write_audio(folder / "deep" / "er" / "b.mp3", sound, 44100)
    with AudioWriter(folder / "deep" / "c.flac", 44100, 2, tags=Tags({"title": "C"})) as writer:
        writer.write(sound)
    return folder


def tree(folder):
    """All files below a folder, by their places in it."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_folder_is_mirrored_and_resumed(call, weights, songs, tmp_path):
    (songs / "bad.wav").write_bytes(b"RIFF not a song")
    command = ["-m", "common.denoising", songs, "-o", tmp_path / "out", "--model", weights]
    done = call(*command, code=1)
    assert "bad.wav could not be decoded" in done.stderr and "1 failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert tree(tmp_path / "out") == ["a.wav", "deep/c.wav", "deep/er/b.wav"]
    assert sf.info(tmp_path / "out" / "a.wav").subtype == "PCM_24"
    assert read_tags(tmp_path / "out" / "deep" / "c.wav").text["title"] == "C"
    (songs / "bad.wav").unlink()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.wav")}
    assert "3 of 3 were finished before" in call(*command).stderr
    assert before == {p: p.stat().st_mtime_ns for p in before}
    call(*command, "--force", "--residual", "--strength", 0.5)
    assert all(p.stat().st_mtime_ns > t for p, t in before.items())
    noisy, out, rest = (read_audio(p)[0] for p in (songs / "a.wav", tmp_path / "out" / "a.wav",
                                                   tmp_path / "out" / "a.removed.wav"))
    assert np.abs(noisy - out - rest).max() < 1e-5 and np.abs(rest).max() > 0.01


def test_like_input_keeps_formats(call, weights, songs, tmp_path):
    call("-m", "common.denoising", songs, "-o", tmp_path / "out", "--model", weights, "--like-input")
    assert tree(tmp_path / "out") == tree(songs)
    assert sf.info(tmp_path / "out" / "a.wav").subtype == "PCM_24"


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_like_input_goes_to_the_same_kind_of_file_or_the_nearest(tmp_path, suffix):
    (tmp_path / f"a{suffix}").touch()
    (job,) = batch.plan([str(tmp_path / f"a{suffix}")], str(tmp_path / "out"), like_input=True)
    assert job.target.suffix == {".mp4": ".m4a", ".aac": ".m4a"}.get(suffix, suffix)


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_a_name_with_a_suffix_that_can_be_written_is_a_file(songs, tmp_path, suffix):
    (job,) = batch.plan([str(songs / "a.wav")], str(tmp_path / f"out{suffix}"))
    assert job.target == tmp_path / f"out{suffix}"


def test_one_file_into_one_file(call, weights, songs, tmp_path):
    call("-m", "common.denoising", songs / "a.wav", "-o", tmp_path / "x" / "out.flac", "--model", weights,
         "--strength", 0)
    assert np.array_equal(read_audio(tmp_path / "x" / "out.flac")[0], read_audio(songs / "a.wav")[0])
    call("-m", "common.denoising", songs / "a.wav", "-o", tmp_path / "float.wav", "--model", weights, "--bits", "float",
         "--attenuation-limit-db", 6)
    assert sf.info(tmp_path / "float.wav").subtype == "FLOAT"


def test_patterns_keep_their_tree_and_the_output_is_no_input(songs, monkeypatch):
    monkeypatch.chdir(songs)
    jobs = batch.plan([str(songs / "**" / "*.*")], str(songs / "out"), ".flac")
    assert [job.target.relative_to(songs / "out").as_posix() for job in jobs] == ["a.flac", "deep/c.flac",
                                                                                  "deep/er/b.flac"]
    (songs / "cover.jpg").write_bytes(b"a picture beside the songs")
    assert len(batch.plan([str(songs / "**" / "*")], str(songs / "out"))) == 3
    write_audio(songs / "out" / "a.flac", np.zeros((1, 10), np.float32), 44100)
    assert len(batch.plan([str(songs)], str(songs / "out"))) == 3
    assert [str(j.target) for j in batch.plan(["deep/*.flac"], "elsewhere")] == ["elsewhere/c.wav"]


@pytest.mark.parametrize("inputs, options, message", [
    (["nothing.wav"], {}, "got nothing.wav"), (["*.xyz"], {}, r"got \*.xyz"),
    (["a.wav"], {"output": "b.wav", "like_input": True}, "leave them out"),
    (["a.wav", "deep/a.wav"], {}, "one input per output")])
def test_wrong_calls_are_refused(songs, monkeypatch, inputs, options, message):
    monkeypatch.chdir(songs)
    write_audio(songs / "deep" / "a.wav", np.zeros((1, 10), np.float32), 44100)
    with pytest.raises(CallError, match=message):
        batch.plan(inputs, **({"output": "out"} | options))


@pytest.mark.parametrize("flags, message", [
    (["--like-input", "--bits", "16"], "either --like-input"), (["--strength", "2"], "expected a strength"),
    (["--format", "mp3", "--bits", "24"], "expected --bits 24 with .wav or .flac"), (["--device", "cuda"], "no_cuda")])
def test_wrong_flags_end_with_code_2(call, weights, songs, tmp_path, flags, message):
    import torch

    if message == "no_cuda":
        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
        message = "expected a CUDA device"
    done = call("-m", "common.denoising", songs, "-o", tmp_path / "out", "--model", weights, *flags, code=2)
    assert message in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags, outcome", [(["--bits", "16"], "lowered by 3.52 dB"),
                                            (["--bits", "16", "--clip", "limit"], "samples are limited"),
                                            (["--bits", "float"], "the format holds it")])
def test_a_peak_above_full_scale_is_reported(call, weights, tmp_path, flags, outcome):
    write_audio(tmp_path / "loud.wav", 1.5 * np.sin(np.arange(30_000) / 30)[None].astype(np.float32), 44100, "FLOAT")
    done = call("-m", "common.denoising", tmp_path / "loud.wav", "-o", tmp_path / "out.wav", "--model", weights,
                "--strength", 0, *flags)
    assert "3.52 dB above full scale" in done.stderr and outcome in done.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_no_half_file(weights, tmp_path, rng):
    with AudioWriter(tmp_path / "long.wav", 44100, 2) as writer:
        for _ in range(120):
            writer.write((0.1 * rng.standard_normal((2, 44100))).astype(np.float32))
    process = subprocess.Popen([sys.executable, "-m", "common.denoising", tmp_path / "long.wav", "-o",
                                tmp_path / "out.flac", "--model", weights], cwd=ROOT, stderr=subprocess.PIPE, text=True,
                               # Shells let what they start in the background ignore this signal.
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    while not list(tmp_path.glob(".out.flac*")):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in messages and "Traceback" not in messages
    assert tree(tmp_path) == ["long.wav"]
