"""Files damaged at random end in audio or in one sentence."""

import numpy as np
import pytest
import soundfile as sf
import torch

from common.audio import reading as audio
from common.audio.reading import AudioReader
from common.errors import AudioError, UserError
from common.network.checkpoints import load_weights, weights_content
from common.network.dcunet import DCUNet20
from common.network.model import Denoiser
from common.network.stft import STFT
from tests.encoding import encode

KINDS = {"a.wav": "PCM_16", "b.wav": "FLOAT", "c.flac": "PCM_16", "d.ogg": "VORBIS", "e.opus": "OPUS",
         "f.aiff": "PCM_24", "g.mp3": "libmp3lame", "h.m4a": "aac", "i.aac": "aac", "j.m4a": "alac"}
PER_KIND = 40


def intact(folder, rng):
    """Return a small file of every kind as bytes."""
    for name, subtype in KINDS.items():
        samples = 0.1 * rng.standard_normal((2, 6000))
        if subtype.islower():
            encode(folder / name, subtype, samples)
        else:
            kind = {"opus": "OGG"}.get(name.split(".")[1], name.split(".")[1].upper())
            sf.write(folder / name, samples.T, 48000, subtype, format=kind)
    return {name: (folder / name).read_bytes() for name in KINDS}


def damaged(data, rng):
    """Change, zero, cut out, insert, double or cut off bytes, once or a few times."""
    for _ in range(rng.integers(1, 4)):
        size = max(2, len(data))
        # Headers are small and break most: half of the places lie in the first bytes.
        start = int(rng.integers(min(size, 200)) if rng.random() < 0.5 else rng.integers(size))
        length = int(rng.choice([1, 4, 50, 1000]))
        piece, rest = data[:start], data[start + length :]
        data = [piece + rng.bytes(length) + rest, piece + bytes(length) + rest, piece + b"\xff" * length + rest,
                piece + rest, piece + rng.bytes(length) + data[start:], data[: start + length] + data[start:],
                piece][rng.integers(7)]
    return data


def outcome(path):
    """Return how reading ended: twice with the same samples, without samples, or with AudioError."""
    try:
        with AudioReader(path) as reader:
            first = [block.sum(dtype=np.float64) for block in reader.blocks(5000)]
            assert [block.sum(dtype=np.float64) for block in reader.blocks(5000)] == first
            return "audio" if first else "nothing"
    except AudioError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return "refused"


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_end_in_audio_or_in_one_sentence(tmp_path, name, monkeypatch):
    monkeypatch.setattr(audio, "_WARNED", set())
    rng = np.random.default_rng(len(name) + ord(name[0]))
    data, found = intact(tmp_path, rng)[name], []
    path = tmp_path / name
    for _ in range(PER_KIND):
        path.write_bytes(damaged(data, rng))
        found.append(outcome(path))
    assert "audio" in found and {"audio", "nothing", "refused"} >= set(found)


class _Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def weights_outcome(path, state):
    """Return how loading ended: with the written weights, with other weights, or with UserError."""
    try:
        found = load_weights(path)[0].state_dict()
    except UserError as error:
        assert str(path) in str(error) or "confidence" in str(error)
        return "refused"
    return "same" if all(torch.equal(found[name], value) for name, value in state.items()) else "others"


def weights_files(folder):
    """Return the state, the bytes of three files, and a path that code in the third file would make.

    The files: zipped weights, weights without checksums, and weights that would run code.
    """
    torch.manual_seed(0)
    model = Denoiser(DCUNet20(1), STFT())
    content, mark = weights_content(model, {"noise": "white"}), folder / "run"
    for name, extra, zipped in (("zip", {}, True), ("old", {}, False), ("bad", {"info": _Harmful(mark)}, False)):
        torch.save(content | extra, folder / name, _use_new_zipfile_serialization=zipped)
    return model.state_dict(), {name: (folder / name).read_bytes() for name in ("zip", "old", "bad")}, mark


def test_damaged_weights_are_refused_and_run_nothing(tmp_path):
    rng = np.random.default_rng(1)
    state, files, mark = weights_files(tmp_path)
    found = {}
    for name, data in files.items():
        found[name] = set()
        for _ in range(12):
            (tmp_path / "m.pth").write_bytes(damaged(data, rng))
            found[name].add(weights_outcome(tmp_path / "m.pth", state))
    assert not mark.exists() and "refused" in found["zip"] and "others" not in found["zip"]
    assert found["bad"] == {"refused"}
