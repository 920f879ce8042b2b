"""Tags and compressed formats: what goes in comes out, in every format that can hold it."""

import struct
import zlib

import numpy as np
import pytest

from common.audio import OUTPUT_SUFFIXES, AudioError, AudioWriter, read_audio, write_audio
from common.tags import Tags, read_tags


def png(size=8):
    """A black PNG picture, by hand."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(3 * size)) * size)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


TAGS = Tags({"title": "Ä song", "artist": "Somebody", "album": "An album"}, png())


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
@pytest.mark.parametrize("channels", [1, 2])
def test_tags_and_sound_come_back(tmp_path, rng, suffix, channels):
    n = 50_001
    audio = (0.2 * np.sin(np.cumsum(rng.uniform(0.01, 0.1, (channels, n)), axis=1))).astype(np.float32)
    for name, tags in (("tagged", TAGS), ("plain", Tags())):
        with AudioWriter(tmp_path / f"{name}{suffix}", 44100, channels, tags=tags) as writer:
            writer.write(audio[:, :20_000])
            writer.write(audio[:, 20_000:])
    tagged, plain = (read_audio(tmp_path / f"{name}{suffix}")[0] for name in ("tagged", "plain"))
    assert np.array_equal(tagged, plain)
    if suffix == ".m4a":  # AAC ends on a whole frame
        assert n <= tagged.shape[1] < n + 1024
        tagged = tagged[:, :n]
    assert tagged.shape == audio.shape
    assert 10 * np.log10(np.square(audio).mean() / np.square(tagged - audio).mean()) > 20  # and not shifted
    found = read_tags(tmp_path / f"tagged{suffix}")
    assert found.text.items() >= TAGS.text.items()
    assert found.cover == (b"" if suffix == ".wav" else TAGS.cover)
    assert not read_tags(tmp_path / f"plain{suffix}").text.keys() & TAGS.text.keys()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("suffix, rate, channels", [(".mp3", 96000, 2), (".m4a", 44100, 6), (".mp3", 44100, 6),
                                                    (".flac", 44100, 9)])
def test_what_a_format_cannot_hold_is_one_sentence(tmp_path, suffix, rate, channels):
    with pytest.raises(AudioError, match=r"expected .* choose another|write WAV"):
        write_audio(tmp_path / f"x{suffix}", np.zeros((channels, 100), np.float32), rate)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_audio_has_no_tags(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"nothing")
    assert not read_tags(tmp_path / "x.wav")
