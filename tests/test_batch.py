"""The command line of denoising."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from common.audio.formats import OUTPUT_SUFFIXES
from common.audio.reading import AUDIO_SUFFIXES, read_audio
from common.audio.tags import Tags, read_tags
from common.audio.writing import AudioWriter, write_audio
from common.denoising import __main__ as batch
from common.denoising import jobs
from common.denoising.files import DenoiseSettings, removed_words
from common.denoising.jobs import RECORDS, record
from common.errors import CallError, UserError
from common.network import weights_files
from common.network.checkpoints import save_weights
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


@pytest.fixture
def main(weights, tmp_path, monkeypatch):
    """Call the command in an empty folder as a user would there, with the mini weights."""
    monkeypatch.chdir(tmp_path)
    return lambda *args: batch.main([*map(str, args), "--model", str(weights)])


def put(*names, seed=0):
    """Write a short sound under each name."""
    for name in names:
        sound = 0.1 * np.random.default_rng([seed, *os.fsencode(name)]).standard_normal((1, 3000)).astype(np.float32)
        write_audio(name, sound, 44100)


def tree(folder):
    """All files below a folder, by their places in it, but for the records of the command."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != RECORDS)


def content(folder):
    """The bytes of all files below a folder."""
    return {name: (folder / name).read_bytes() for name in tree(folder)}


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


def test_like_input_keeps_formats(main, songs, tmp_path):
    main(songs, "-o", "out", "--like-input")
    assert tree(tmp_path / "out") == tree(songs)
    assert sf.info(tmp_path / "out" / "a.wav").subtype == "PCM_24"


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_like_input_goes_to_the_same_kind_of_file_or_the_nearest(tmp_path, suffix):
    (tmp_path / f"a{suffix}").touch()
    (job,) = batch.plan([str(tmp_path / f"a{suffix}")], str(tmp_path / "out"), like_input=True)
    nearest = {".mp4": ".m4a", ".aac": ".m4a", ".oga": ".ogg", ".aifc": ".aiff", ".mp2": ".mp3"}
    assert job.target.suffix == nearest.get(suffix, suffix if suffix in OUTPUT_SUFFIXES else ".wav")


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_a_name_with_a_suffix_that_can_be_written_is_a_file(songs, tmp_path, suffix):
    (job,) = batch.plan([str(songs / "a.wav")], str(tmp_path / f"out{suffix}"))
    assert job.target == tmp_path / f"out{suffix}"


def test_one_file_into_one_file(main, songs, tmp_path):
    main(songs / "a.wav", "-o", "x/out.flac", "--strength", 0)
    assert np.array_equal(read_audio(tmp_path / "x" / "out.flac")[0], read_audio(songs / "a.wav")[0])
    main(songs / "a.wav", "-o", "float.wav", "--bits", "float", "--attenuation-limit-db", 6)
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
    (["--attenuation-limit-db", "nan"], "expected an attenuation limit"),
    (["--format", "mp3", "--bits", "24"], "expected --bits 24 with .wav or .flac"), (["--device", "cuda"], "no_cuda")])
def test_wrong_flags_are_refused_before_anything_is_done(main, songs, tmp_path, flags, message):
    if message == "no_cuda":
        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
        message = "expected a CUDA device"
    with pytest.raises(CallError, match=message):
        main(songs, "-o", "out", *flags)
    assert not (tmp_path / "out").exists()


def test_a_wrong_call_ends_with_code_2(call, weights, songs, tmp_path):
    done = call("-m", "common.denoising", songs / "a.wav", "-o", songs / "A.wav", "--model", weights, code=2)
    assert done.stderr.startswith("error: expected an output other than the input") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("flags, outcome", [(["--bits", "16"], "lowered by 3.52 dB"),
                                            (["--bits", "16", "--clip", "limit"], "samples are limited"),
                                            (["--bits", "float"], "the format holds it")])
def test_a_peak_above_full_scale_is_reported(main, caplog, flags, outcome):
    write_audio("loud.wav", 1.5 * np.sin(np.arange(30_000) / 30)[None].astype(np.float32), 44100, "FLOAT")
    main("loud.wav", "-o", "out.wav", "--strength", 0, *flags)
    assert "3.52 dB above full scale" in caplog.text and outcome in caplog.text


COLLISIONS = {  # files that are there, the call, what the sentence says
    "residual over the input": (["x.removed.wav"], ["x.removed.wav", "-o", "x.wav", "--residual"], "is the input"),
    "the input itself": (["a.wav"], ["a.wav", "-o", "a.wav"], "is the input"),
    "the input by another path": (["d/a.wav"], ["d/a.wav", "-o", "d/../d/a.wav"], "is the input"),
    "the input in its folder": (["d/a.wav"], ["d/a.wav", "-o", "d"], "is the input"),
    "a folder into itself": (["d/a.wav", "d/e/b.flac"], ["d", "-o", "d/"], "is the input"),
    "a pattern into its folder": (["d/a.wav", "d/b.flac"], ["d/*.*", "-o", "d"], "is the input"),
    "another input": (["a.wav", "o/a.flac"], ["a.wav", "o/a.flac", "-o", "o", "--format", "flac"], "is the input"),
    "upper and lower case": (["a.wav"], ["a.wav", "-o", "A.WAV"], "is the input"),
    "composed and decomposed": (["caf\u00e9.wav"], ["caf\u00e9.wav", "-o", "cafe\u0301.wav"], "is the input"),
    "a link to the input": (["a.wav", "soft.wav -> a.wav"], ["a.wav", "-o", "soft.wav"], "is the input"),
    "the input through a link": (["a.wav", "soft.wav -> a.wav"], ["soft.wav", "-o", "a.wav"], "is the input"),
    "a link as input": (["a.wav", "soft.wav -> a.wav"], ["soft.wav", "-o", "soft.wav"], "is the input"),
    "a hard link": (["a.wav", "hard.wav => a.wav"], ["a.wav", "-o", "hard.wav"], "is the input"),
    "a link to the folder": (["d/a.wav", "e -> d"], ["d", "-o", "e"], "is the input"),
    "a residual that is a link": (["a.wav", "b.removed.wav -> a.wav"], ["a.wav", "-o", "b.wav", "--residual"],
                                  "is the input"),
    "one name, two formats": (["d/s.wav", "d/s.mp3"], ["d", "-o", "o"], "d/s.mp3 and d/s.wav would both become"),
    "a stem file and its song": (["d/s.wav", "d/s.stem.flac"], ["d", "-o", "o"], "would both become"),
    "two folders": (["d/s.wav", "e/s.wav"], ["d", "e", "-o", "o"], "d/s.wav and e/s.wav would both become"),
    "one name in two cases": (["d/s.wav", "e/S.wav"], ["d", "e", "-o", "o"], "one name on many systems"),
    "folders in two cases": (["d/x/s.wav", "d/X/s.wav"], ["d", "-o", "o"], "one name on many systems"),
    "a residual and a song": (["d/s.wav", "d/s.removed.wav"], ["d", "-o", "o", "--residual"], "would both become"),
    "a file and a folder": (["d/s.flac", "d/s.wav/t.wav"], ["d", "-o", "o"], "is a file or will be one"),
    "a folder of that name": (["d/s.flac", "o/s.wav/t.txt"], ["d", "-o", "o"], "is a folder"),
    "below a file": (["a.wav", "b"], ["a.wav", "-o", "b/c"], "b is a file"),
    "a file as the folder": (["a.wav", "b"], ["a.wav", "-o", "b"], "b is a file"),
    "below the input": (["a.wav"], ["a.wav", "-o", "a.wav/b.wav"], "a.wav is a file"),
    "a recording beside the song": (["s.mp3", "s.wav"], ["s.mp3", "-o", "."], "did not make it"),
    "what somebody removed": (["s.mp3", "s.removed.wav"], ["s.mp3", "-o", ".", "--residual"], "did not make it"),
}


@pytest.mark.parametrize("there, call, message", COLLISIONS.values(), ids=COLLISIONS)
def test_nothing_is_written_over_an_input_or_twice(main, tmp_path, there, call, message):
    for name in there:
        name, _, source = name.replace("=>", "->").partition(" -> ")
        if source and f"{name} => {source}" in there:
            os.link(source, name)
        elif source:
            os.symlink(source, name)
        elif Path(name).suffix in OUTPUT_SUFFIXES:
            put(name)
        else:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text("something else")
    if message == "one name on many systems" and os.path.exists("D"):
        pytest.skip("this file system knows no case, and has one file where two are needed")
    before = content(tmp_path)
    with pytest.raises(CallError, match=message):
        main(*call)
    assert content(tmp_path) == before


def test_a_file_that_is_found_twice_is_one_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put("d/a.wav", "d/b.wav")
    jobs = batch.plan(["d", "d/a.wav", str(tmp_path / "d" / "a.wav"), "./d/*.wav"], "o")
    assert [str(job.target) for job in jobs] == ["o/a.wav", "o/b.wav"]


FILE, FOLDER = "a file", "a folder"
OUTPUTS = [(["a.wav"], name, FILE) for name in ("x.wav", "x.FLAC", "d/x.y.ogg", "x.mp3", "./x.m4a")]
OUTPUTS += [(["a.wav"], name, FOLDER) for name in ("there", "there.wav", "x", "x/", "x.wav/", "vol.2/", "..", ".x")]
OUTPUTS += [(["a.wav"], name, "ends in .wav, ") for name in ("x.wma", "x.txt", "vol.2", "my.album", "x.wav.bak")]
OUTPUTS += [(inputs, name, FOLDER) for inputs in (["d"], ["d/*"], ["a.wav", "d/b.wav"])
            for name in ("x", "my.album", "vol.2", "St. Anger", "there.wav", "x.wav/")]
OUTPUTS += [(inputs, name, "--format") for inputs in (["d"], ["d/*"], ["a.wav", "d/b.wav"])
            for name in ("x.wav", "x.MP3", "x.wma", "x.aif")]
OUTPUTS += [(["a.wav"], "", "got an empty one"), ([""], "x", "got an empty one")]


@pytest.mark.parametrize("inputs, output, expected", OUTPUTS)
def test_an_output_is_a_file_or_a_folder_or_refused(tmp_path, monkeypatch, inputs, output, expected):
    monkeypatch.chdir(tmp_path)
    put("a.wav", "d/b.wav")
    os.makedirs("there")
    os.makedirs("there.wav")
    if expected in (FILE, FOLDER):
        (job, *_) = batch.plan(inputs, output, None if expected == FILE else ".ogg")
        assert job.named == (expected == FILE) and (str(job.target) == os.path.normpath(output)) == job.named
        assert job.named or job.target.parent == Path(output)
    else:
        with pytest.raises(CallError, match=re.escape(expected)):
            batch.plan(inputs, output)
    assert tree(tmp_path) == ["a.wav", "d/b.wav"]


@pytest.mark.parametrize("call", [("m/s.mp3", "-o", "m"), ("m", "-o", "m"), ("m/*.mp3", "-o", "m"), ("m", "-o", "."),
                                  ("m", "-o", "m/out"), ("m/**/*.*", "-o", "m"), (".", "-o", "."),
                                  ("m", "-o", "m", "--residual"), (".", "-o", "m/out", "--format", "flac")])
def test_results_among_the_songs_are_no_songs_the_next_time(main, tmp_path, caplog, call):
    caplog.set_level("INFO")
    put("m/s.mp3", "m/t/u.ogg")
    main(*call)
    made = {name: data for name, data in content(tmp_path).items() if name not in ("m/s.mp3", "m/t/u.ogg")}
    assert made
    caplog.clear()
    main(*call)
    assert "finished before" in caplog.text and "[1/" not in caplog.text and "left out" not in caplog.text
    main(*call, "--force")
    assert content(tmp_path).keys() == {"m/s.mp3", "m/t/u.ogg", *made}


def test_named_inputs_are_denoised_wherever_they_lie(main, tmp_path):
    put("out/a.wav", "out/sub/b.wav")
    main("out/sub/b.wav", "-o", "out")  # a result from now on
    main("out/b.wav", "-o", "out", "--format", "flac")
    assert tree(tmp_path / "out") == ["a.wav", "b.flac", "b.wav", "sub/b.wav"]


def test_a_call_that_would_do_nothing_is_an_error(main, tmp_path, caplog):
    put("m/s.mp3", "out/a.wav")
    main("m/s.mp3", "-o", "new")
    for call in (["new", "-o", "new"], ["new/*.wav", "-o", "new"]):
        with pytest.raises(CallError, match="all 1 are results"):
            main(*call)
    main(".", "-o", "out")
    assert "1 audio files in the output folder out are left out" in caplog.text


CHANGES = {  # what happens between two calls, with what flags the second comes, and whether the file is made anew
    "nothing": (lambda: None, [], False),
    "a strength": (lambda: None, ["--strength", "0.5"], True),
    "a limit": (lambda: None, ["--attenuation-limit-db", "6"], True),
    "without confidence": (lambda: None, ["--no-confidence"], True),
    "bits": (lambda: None, ["--bits", "24"], True),
    "a clip policy": (lambda: None, ["--clip", "limit"], True),
    "a precision": (lambda: None, ["--precision", "bfloat16"], True),
    "a residual": (lambda: None, ["--residual"], True),
    "force": (lambda: None, ["--force"], True),
    "another input": (lambda: put("d/a.wav", seed=1), [], True),
    "an output that is gone": (lambda: os.remove("o/a.wav"), [], True),
    "no record": (lambda: os.remove(f"o/{RECORDS}"), [], True),
    "a record that is none": (lambda: Path(f"o/{RECORDS}").write_text("[]"), [], True),
    "a torn record": (lambda: Path(f"o/{RECORDS}").write_text("{"), [], True),
    "a kill in the middle": (lambda: record([Path("o/a.wav")], None), [], True),
    "a result that the user changed": (lambda: put("o/a.wav", seed=2), [], False),
}


@pytest.mark.parametrize("change, flags, again", CHANGES.values(), ids=CHANGES)
def test_only_what_was_made_with_the_same_settings_is_skipped(main, tmp_path, caplog, change, flags, again):
    caplog.set_level("INFO")
    put("d/a.wav")
    main("d", "-o", "o")
    change()
    caplog.clear()
    main("d", "-o", "o", *flags)
    assert ("[1/1]" in caplog.text) == again and ("1 of 1 were finished before" in caplog.text) != again
    caplog.clear()
    main("d", "-o", "o", *(flag for flag in flags if flag != "--force"))
    assert "1 of 1 were finished before" in caplog.text


def test_other_weights_under_one_name_make_a_file_anew(main, model, tmp_path, caplog):
    caplog.set_level("INFO")
    put("d/a.wav")
    for score in (1, 2):
        save_weights(model, tmp_path / "w.pth", {"score": score})
        batch.main(["d", "-o", "o", "--model", "w.pth"])
        assert "finished" not in caplog.text


def test_a_named_output_is_always_made(main, tmp_path):
    put("a.wav")
    made = set()
    for strength in (1, 0.5, 0):
        main("a.wav", "-o", "out.wav", "--strength", strength)
        made.add((tmp_path / "out.wav").read_bytes())
    assert len(made) == 3 and sorted(p.name for p in tmp_path.iterdir()) == ["a.wav", "out.wav"]


def test_a_named_output_in_a_folder_with_records_keeps_them_true(main, tmp_path, caplog):
    caplog.set_level("INFO")
    put("d/a.wav")
    main("d", "-o", "o")
    main("d/a.wav", "-o", "o/a.wav", "--strength", 0.5)
    caplog.clear()
    main("d", "-o", "o")
    assert "[1/1]" in caplog.text


ERRORS = [UserError("no song"), CallError("no call"), OSError(28, "No space left"), RuntimeError("two\nlines"),
          UnicodeDecodeError("utf-8", b"\xf6", 0, 1, "no"), AttributeError("None"), ValueError(), KeyError("tag"),
          RecursionError("deep"), AssertionError(), np.linalg.LinAlgError("flat"), PermissionError(13, "Denied", "x"),
          IndexError("13"), ZeroDivisionError(), StopIteration(), EOFError("end"), NotImplementedError("5.1")]


@pytest.mark.parametrize("error, verbose", [(error, False) for error in ERRORS] + [(ERRORS[-1], True)])
def test_one_file_never_ends_a_batch(main, tmp_path, monkeypatch, caplog, error, verbose):
    put("d/a.wav", "d/b.wav", "d/c.wav")
    real = batch.denoise_file
    monkeypatch.setattr(batch, "denoise_file", lambda model, source, *rest: real(model, source, *rest)
                        if source.name != "b.wav" else _raise(error))
    with pytest.raises(UserError, match=r"3 files, but 1 failed \(d/b.wav\)") as found:
        main("d", "-o", "o", *["--verbose"] * verbose)
    assert found.value.exit_code == 1 and tree(tmp_path / "o") == ["a.wav", "c.wav"]
    (failure,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert failure.startswith("failed: ") and "\n" not in failure
    assert ("Traceback" in caplog.text) == verbose


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_ends_a_batch(main, tmp_path, monkeypatch, error):
    put("d/a.wav", "d/b.wav")
    monkeypatch.setattr(batch, "denoise_file", lambda *_: _raise(error()))
    with pytest.raises(error):
        main("d", "-o", "o")


def _raise(error):
    raise error


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know no such names")
def test_names_may_be_any_bytes(call, weights, tmp_path):
    made = set()
    for suffix in (".wav", ".flac", ".ogg", ".mp3", ".m4a"):
        put(tmp_path / f"plain{suffix}")
        name = os.fsdecode(b"caf\xe9 in" + suffix.encode() * 2)
        (tmp_path / "d").mkdir(exist_ok=True)
        os.rename(tmp_path / f"plain{suffix}", tmp_path / "d" / name)
        made |= {name, name.removesuffix(suffix) + ".removed" + suffix}
    command = ["-m", "common.denoising", tmp_path / "d", "-o", tmp_path / "o", "--model", weights, "--like-input",
               "--residual"]
    assert "[5/5]" in call(*command).stderr
    assert set(tree(tmp_path / "o")) == made
    assert "5 of 5 were finished before" in call(*command).stderr


@pytest.mark.parametrize("removed_db, words", [
    (-9.4, "what was removed is 9.4 dB below the input's level"), (2.0, "what was removed is 2.0 dB above the input's "
     "level"), (-np.inf, "nothing was removed"), (np.nan, "the file is silent")])
def test_what_was_removed_is_said_in_words(removed_db, words):
    assert removed_words(removed_db) == words


@pytest.mark.parametrize("name, message", [("hiss", r"names class8 \(siren\), mixed, but hiss does not exist"),
                                           ("siren.pth", "siren.pth does not exist"), ("./mixed", "mixed is a folder"),
                                           ("none/mixed", "does not exist"), ("d", "d is a folder")])
def test_an_unknown_model_gets_the_names(main, model, tmp_path, monkeypatch, name, message):
    monkeypatch.setattr(weights_files, "PRETRAINED", tmp_path / "pretrained")
    for known in ("mixed", "class8"):
        save_weights(model, tmp_path / "pretrained" / f"{known}.pth", {})
        os.makedirs(known)  # must not shadow the weights
    put("d/a.wav")
    for known in ("mixed", "class8", "siren"):
        batch.main(["d", "-o", "o", "--model", known])
    with pytest.raises(CallError, match=message):
        batch.main(["d", "-o", "o", "--model", name])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)])
def test_an_interruption_leaves_no_half_file(weights, tmp_path, rng, number):
    with AudioWriter(tmp_path / "long.wav", 44100, 2) as writer:
        for _ in range(120):
            writer.write((0.1 * rng.standard_normal((2, 44100))).astype(np.float32))
    process = subprocess.Popen([sys.executable, "-m", "common.denoising", tmp_path / "long.wav", "-o",
                                tmp_path / "out.flac", "--model", weights], cwd=ROOT, stderr=subprocess.PIPE, text=True,
                               # Shells let what they start in the background ignore this signal.
                               preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    while not list(tmp_path.glob(".out.flac*")):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    assert list(tmp_path.glob("*.samples")) == []
    os.kill(process.pid, number)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in messages and "Traceback" not in messages
    assert tree(tmp_path) == ["long.wav"]


def test_without_an_output_results_lie_beside_their_inputs(main, tmp_path, caplog):
    put("song.wav", "deep/other.flac", "deep/third.ogg")
    before = content(tmp_path)
    main("song.wav", "deep", "--residual")
    results = {"song.denoised.wav", "deep/other.denoised.flac", "deep/third.denoised.ogg"}
    removed = {name.replace(".denoised", ".denoised.removed") for name in results}
    assert set(tree(tmp_path)) == {*before, *results, *removed}
    assert {name: data for name, data in content(tmp_path).items() if name in before} == before
    caplog.set_level("INFO")
    main("song.wav", "deep", "--residual")  # results are not inputs, and finished ones stay as they are
    assert "3 of 3 were finished before" in caplog.text
    os.remove("deep/other.denoised.flac")
    main("song.wav", "deep", "--residual")
    assert "2 of 3 were finished before" in caplog.text
    main("song.wav", "deep", "--strength", "0.5")
    assert caplog.text.count("finished before") == 2 and set(tree(tmp_path)) == {*before, *results, *removed}


def test_a_folder_that_takes_no_record_is_one_sentence(main, tmp_path, monkeypatch, caplog):
    put("d/a.wav", "d/b.wav")

    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(jobs, "write_text", refused)
    with pytest.raises(UserError, match="2 failed"):
        main("d")
    sentence = f"failed: expected to write {Path('d', RECORDS)}, but the system refused (Permission denied): change"
    assert caplog.text.count(sentence) == 2


def test_with_auto_only_the_weights_that_it_may_take_decide_what_is_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_files, "PRETRAINED", tmp_path)
    for name in ("white", "mixed", "class0"):
        (tmp_path / f"{name}.pth").write_text(name)
    args, seen = batch._parser().parse_args(["song.wav"]), []
    for name in ("none", "class0", "white", "mixed"):
        (tmp_path / f"{name}.pth").write_text("new")
        seen.append(batch._recorded_settings(args, DenoiseSettings())["weights_sha256"])
    assert seen[0] == seen[1] and len(set(seen)) == 3


def test_without_an_output_one_song_leaves_no_other_files(main, tmp_path):
    put("song.wav")
    main("song.wav")
    main("song.wav")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["song.denoised.wav", "song.wav"]


def test_without_an_output_other_settings_make_another_result(main, tmp_path):
    put("song.wav")
    main("song.wav", "--strength", 0)
    unchanged = read_audio("song.denoised.wav")[0]
    main("song.wav")
    assert np.array_equal(unchanged, read_audio("song.wav")[0])
    assert not np.array_equal(unchanged, read_audio("song.denoised.wav")[0])
    main("song.wav", "--format", "flac")
    assert set(tree(tmp_path)) == {"song.wav", "song.denoised.wav", "song.denoised.flac"}


def test_without_an_output_two_inputs_never_become_one_result(main, tmp_path):
    put("song.m4a")
    (tmp_path / "song.mp4").write_bytes((tmp_path / "song.m4a").read_bytes())
    with pytest.raises(CallError, match="would both become"):
        main("song.m4a", "song.mp4")
    assert tree(tmp_path) == ["song.m4a", "song.mp4"]


def test_denoise_py_needs_nothing_but_a_name(call, tmp_path):
    put(str(tmp_path / "song.wav"))
    done = call(ROOT / "denoise.py", tmp_path / "song.wav")
    assert tree(tmp_path) == ["song.denoised.wav", "song.wav"]
    assert re.search(r"song.denoised.wav: 0\.1 s of audio in [\d.]+ s; .*--residual", done.stderr)
    done = call(ROOT / "denoise.py", tmp_path / "nothing.wav", code=2)
    assert len(done.stderr.splitlines()) == 1 and "check the path" in done.stderr
