"""D6: a merger that is killed at any moment leaves whole pairs, and the same command ends with the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT

KILLS = 6  # of every merger
CALLS = {"merger.py": (), "merger_class.py": ("--class-num", "4"), "merger_white.py": ("--format", "flac"),
         "merger_mixed_white.py": ("--jobs", "1")}


def _command(script, corpus, out):
    white = script == "merger_white.py"
    noises = [] if white else ["--path-noises", corpus[1]]
    command = [sys.executable, script, "--path-songs", corpus[0], *noises, "--iter-songs", 6,
               "--iter-white-noise" if white else "--iter-noise", 5, *CALLS[script], "--input-dir", out / "input",
               "--target-dir", out / "target"]
    return [str(part) for part in command]


def _start(command):
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            start_new_session=True)


def _bytes(out, prefix=""):
    return {(side, p.name): p.read_bytes() for side in ("input", "target") if (out / side).is_dir()
            for p in (out / side).glob(f"{prefix}*")}


def _wait_for_group(process, seconds=30):
    """Until no worker of a killed run is left."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError(f"workers outlived their parent by {seconds} s")


def _wait_for_audio(process, out):
    while process.poll() is None and not any(out.rglob("[IT][NA]*-S*")):
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("script", CALLS)
def test_killed_at_random_moments(corpus, tmp_path, script):
    command = _command(script, corpus, tmp_path / "whole")
    started = time.monotonic()
    assert _start(command).wait() == 0
    seconds = time.monotonic() - started
    whole, rng = _bytes(tmp_path / "whole"), np.random.default_rng(0)
    kills = finished = in_between = 0
    orphaned = []
    while kills < KILLS:
        out = tmp_path / f"killed{finished}"
        process = _start(_command(script, corpus, out))
        moment = rng.uniform(0.35, 1.0) * seconds
        if kills % 2:  # the machine's speed changes, and times alone may all be before or after the work
            _wait_for_audio(process, out)
            moment *= 0.05
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            # Sometimes the main process alone, whose workers have then lost their parent.
            if rng.random() < 0.5:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
                orphaned.append(process)
            kills += 1
        if process.wait() == 0:
            finished += 1
        audio = _bytes(out, "[IT][NA]*-S")
        assert all(data == whole[key] for key, data in audio.items())
        inputs = {name.split("-")[1] for side, name in audio if side == "input"}
        assert inputs <= {name.split("-")[1] for side, name in audio if side == "target"}
        in_between += 0 < len(audio) < len(whole) - 2
    for process in orphaned:
        _wait_for_group(process)
    for n in range(finished + 1):
        out = tmp_path / f"killed{n}"
        process = _start(_command(script, corpus, out))
        assert process.wait() == 0, process.stderr.read()
        assert _bytes(out) == whole
    print(f"{script}: {kills} kills, {in_between} of them with a part of the pairs written")
    assert in_between > 0  # else the kills came before or after the work


def test_what_a_kill_can_leave_is_taken_over(merged, corpus, call, tmp_path):
    """Journals with a torn line, a journaled pair whose file is gone, half a pair and half a file."""
    input_dir, target_dir, rows = merged("merger_mixed_white.py", "train", 2, 4)
    for folder in (input_dir, target_dir):
        shutil.copytree(folder, tmp_path / folder.name)
    left = tmp_path / "input"
    lines = (left / "manifest.csv").read_text().splitlines(keepends=True)
    (left / "manifest.csv").unlink()
    (left / "journal-S1N1-76.csv").write_text("".join(lines[:3]))
    (left / "journal-S1N3-77.csv").write_text(lines[0] + lines[3] + lines[4][:-40])  # its last hash is cut
    (left / "journal-S2N1-78.csv").write_text(lines[0] + lines[5])
    (tmp_path / "target" / rows[4]["target_file"]).unlink()
    (left / rows[6]["input_file"]).unlink()
    for half_written in (rows[7]["input_file"] + ".123", "manifest.csv", "dataset.json"):
        (left / f".{half_written}.tmp").write_bytes(b"half")
    kept = [tmp_path / "target" / row["target_file"] for row in rows[:3]]
    before = [path.stat().st_mtime_ns for path in kept]
    call("merger_mixed_white.py", "--path-songs", corpus[0], "--path-noises", corpus[1], "--iter-songs", 2,
         "--iter-noise", 4, "--input-dir", left, "--target-dir", tmp_path / "target")
    whole = {(f.name, p.name): p.read_bytes() for f in (input_dir, target_dir) for p in f.iterdir()}
    assert _bytes(tmp_path) == whole
    assert [path.stat().st_mtime_ns for path in kept] == before  # what was whole is not made again


def test_the_pairs_of_one_long_song_are_not_lost_with_it(corpus, tmp_path):
    """A rerun makes what is missing and leaves the rest as it is."""
    out = tmp_path / "out"
    command = _command("merger.py", corpus, out)
    command[command.index("--iter-songs") + 1], command[command.index("--iter-noise") + 1] = "1", "40"
    process = _start([*command, "--jobs", "1"])
    while len(list(out.glob("input/INPUT-*"))) < 8:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.wav")}
    assert 16 <= len(before) < 80
    again = _start([*command, "--jobs", "2"])
    assert "40 pairs of 1 songs" in again.communicate()[1] and again.returncode == 0
    made_again = [path for path, mtime in before.items() if path.stat().st_mtime_ns != mtime]
    assert len(made_again) <= 2  # the pair that was in hand
    assert {p.name for p in (out / "input").glob("[!I]*")} == {"manifest.csv", "dataset.json"}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers in /proc")
def test_a_worker_that_dies_is_one_sentence_and_the_rest_is_done_again(corpus, tmp_path):
    out = tmp_path / "out"
    command = [*_command("merger.py", corpus, out), "--jobs", "2"]
    process = _start(command)
    while not list(out.glob("input/INPUT-*")):
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        if b"popen_loky" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(int(child), signal.SIGKILL)
    errors = process.communicate()[1]
    assert process.returncode == 1 and "\nerror: expected every worker process" in f"\n{errors}", errors
    assert "Traceback" not in errors
    again = _start(command)
    assert "30 pairs of 6 songs" in again.communicate()[1] and again.returncode == 0
    assert not list(out.glob("*/.*"))
