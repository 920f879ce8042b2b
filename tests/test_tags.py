"""Tags and pictures are kept in every format that can hold them, and never cost the audio."""

import io
import os
import struct

import av
import mutagen
import numpy as np
import pytest
import soundfile as sf
from mutagen import id3
from mutagen.flac import FLAC, Picture
from PIL import Image

from common.audio import tags as tags_module
from common.audio.formats import OUTPUT_SUFFIXES
from common.audio.reading import AudioReader, read_audio
from common.audio.tags import FRONT_COVER, MAX_FLAC_PICTURE, Tags, read_tags
from common.audio.writing import AudioWriter, write_audio
from common.denoising.files import DenoiseSettings, denoise_file
from common.errors import AudioError


def picture(kind, mode="RGB", size=8):
    """Make a picture file with Pillow's names of a kind and a mode."""
    file = io.BytesIO()
    Image.new(mode, (size, size)).save(file, kind)
    return file.getvalue()


PICTURES = {"png": picture("PNG"), "jpeg": picture("JPEG"), "grey jpeg": picture("JPEG", "L"),
            "cmyk jpeg": picture("JPEG", "CMYK"), "rgba png": picture("PNG", "RGBA"),
            "palette png": picture("PNG", "P"), "one-bit png": picture("PNG", "1"),
            "16-bit png": picture("PNG", "I;16"), "gif": picture("GIF"), "bmp": picture("BMP"),
            "tiff": picture("TIFF"), "webp": picture("WEBP"), "cut jpeg": picture("JPEG")[:40],
            "cut png": picture("PNG")[:20], "no picture": b"hello", "one byte": b"\x89"}
TEXT = {"title": "Ä song", "artist": "Somebody; 某", "album": "An album", "album_artist": "All of them",
        "composer": "C", "track": "3/12", "disc": "1/2", "genre": "Folk", "date": "1999-02-03", "comment": "Good",
        "copyright": "(c)", "lyrics": "La\nla", "musicbrainz_albumid": "f00"}
TAGS = Tags(TEXT, PICTURES["png"], ((4, PICTURES["jpeg"]), (0, PICTURES["cmyk jpeg"])))


def tagged(path, tags, n=3000):
    """Write a short song with these tags; return its path."""
    with AudioWriter(path, 48000, 2, tags=tags) as writer:
        writer.write(0.1 * np.random.default_rng(0).standard_normal((2, n)).astype(np.float32))
    return path


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
@pytest.mark.parametrize("channels", [1, 2])
def test_tags_and_sound_come_back(tmp_path, rng, suffix, channels):
    n, rate = 50_001, 48000
    audio = (0.2 * np.sin(np.cumsum(rng.uniform(0.01, 0.1, (channels, n)), axis=1))).astype(np.float32)
    for name, tags in (("tagged", TAGS), ("plain", Tags())):
        with AudioWriter(tmp_path / f"{name}{suffix}", rate, channels, tags=tags) as writer:
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
    assert found.text == TEXT and found.cover == TAGS.cover
    assert [data for _, data in found.others] == [data for _, data in TAGS.others]
    assert found.others == TAGS.others or suffix == ".m4a"  # which does not say what a picture is of
    assert not read_tags(tmp_path / f"plain{suffix}")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("suffix, rate, channels", [(".mp3", 96000, 2), (".mp3", 44100, 6), (".flac", 44100, 9),
                                                    (".m4a", 44100, 9)])
def test_what_a_format_cannot_hold_is_one_sentence(tmp_path, suffix, rate, channels):
    with pytest.raises(AudioError, match=r"expected .* choose another|write WAV"):
        write_audio(tmp_path / f"x{suffix}", np.zeros((channels, 100), np.float32), rate)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_audio_has_no_tags(tmp_path):
    for content in (b"", b"nothing", apev2([(b"Title", BJOERK)])[-40:], id3v2(9, b"x")):
        (tmp_path / "x.mp3").write_bytes(content)
        assert not read_tags(tmp_path / "x.mp3")


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
@pytest.mark.parametrize("kind", PICTURES)
def test_every_picture_is_copied_or_left_out_with_a_warning(tmp_path, caplog, suffix, kind):
    data = PICTURES[kind]
    path = tagged(tmp_path / f"x{suffix}", Tags({"title": "T"}, data))
    able = kind not in ("no picture", "one byte") and (suffix != ".m4a" or "jpeg" in kind or "png" in kind)
    assert ("without a picture" in caplog.text) == (not able)
    assert read_tags(path) == Tags({"title": "T"}, data if able else b"")
    assert read_audio(path)[0].shape[1] >= 3000


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_a_huge_picture_costs_nothing_but_itself(tmp_path, caplog, suffix):
    data = PICTURES["jpeg"] + bytes(MAX_FLAC_PICTURE if suffix not in (".ogg", ".opus") else 1 << 20)
    path = tagged(tmp_path / f"x{suffix}", Tags({"title": "T"}, data))
    assert read_tags(path) == Tags({"title": "T"}, b"" if suffix == ".flac" else data)
    assert ("without a picture" in caplog.text) == (suffix == ".flac")
    assert read_audio(path)[0].shape[1] >= 3000


def test_pictures_that_others_put_in_go_through_every_format(model, tmp_path):
    """A FLAC file with every picture, some with a wrong or an unknown type, denoised into every format."""
    path = tagged(tmp_path / "in.flac", Tags())
    file = FLAC(path)
    for number, (kind, data) in enumerate(PICTURES.items()):
        block = Picture()
        block.type, block.data = number, data
        block.mime = "image/xyz" if kind == "no picture" else "image/jpeg"
        file.add_picture(block)
    file.save()
    for suffix in OUTPUT_SUFFIXES:
        denoise_file(model, path, tmp_path / f"out{suffix}", DenoiseSettings(strength=0))
        found = read_tags(tmp_path / f"out{suffix}")
        assert len(found.others) >= 8 and found.cover in PICTURES.values()


def id3v2(encoding, data):
    """An ID3v2.4 tag with a title of these bytes."""
    frame = b"TIT2" + struct.pack(">I", len(data) + 1) + bytes([0, 0, encoding]) + data
    return b"ID3\x04\0\0" + bytes([0, 0, len(frame) >> 7, len(frame) & 127]) + frame


def apev2(items):
    """An APEv2 tag with header and footer."""
    body = b"".join(struct.pack("<II", len(value), 0) + key + b"\0" + value for key, value in items)
    ends = [b"APETAGEX" + struct.pack("<IIII", 2000, len(body) + 32, len(items), flags) + bytes(8)
            for flags in (0xA0000000, 0x80000000)]
    return ends[0] + body + ends[1]


def riff_info(data, title):
    """A WAV file with a title of these bytes."""
    chunk = b"INFOINAM" + struct.pack("<I", len(title)) + title + bytes(len(title) % 2)
    data += b"LIST" + struct.pack("<I", len(chunk)) + chunk
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


BJOERK = "Björk".encode("latin-1")
ODD = {"ID3v1": (".mp3", lambda song: song + b"TAG" + BJOERK.ljust(125, b"\0"), "Björk"),
       "ID3v1 with spaces": (".mp3", lambda song: song + b"TAG" + BJOERK.ljust(30) + bytes(95), "Björk"),
       "ID3v1 of all bytes": (".mp3", lambda song: song + b"TAG" + bytes(range(131, 256)), None),
       "ID3v2 Latin-1": (".mp3", lambda song: id3v2(0, BJOERK) + song, "Björk"),
       "ID3v2 not UTF-8": (".mp3", lambda song: id3v2(3, BJOERK) + song, "Björk"),
       "ID3v2 UTF-16 without its mark": (".mp3", lambda song: id3v2(1, "Björk".encode("utf-16-be")) + song, None),
       "ID3v2 UTF-16 cut": (".mp3", lambda song: id3v2(1, "Björk".encode("utf-16")[:-1]) + song, None),
       "ID3v2 UTF-16 half a pair": (".mp3", lambda song: id3v2(1, b"\xff\xfeB\0\0\xd8k\0") + song, None),
       "ID3v2 unknown encoding": (".mp3", lambda song: id3v2(9, BJOERK) + song, None),
       "ID3v2 longer than the file": (".mp3", lambda song: id3v2(3, BJOERK)[:9] + b"\x7f" + song, None),
       "APEv2": (".mp3", lambda song: song + apev2([(b"Title", "Björk".encode()), (b"Year", b"1999")]), "Björk"),
       "APEv2 not UTF-8": (".mp3", lambda song: song + apev2([(b"Title", BJOERK), (b"Year", b"1999")]), None),
       "APEv2 odd names": (".mp3", lambda song: song + apev2([(b"T\xe9", b"x"), (b"Title", b"A\0B")]), None),
       "RIFF INFO": (".wav", lambda song: riff_info(song, BJOERK), "Björk"),
       "RIFF INFO with NUL": (".wav", lambda song: riff_info(song, BJOERK + bytes(3)), "Björk"),
       "Vorbis comment in FLAC": (".flac", lambda song: song.replace(b"BjXrk", BJOERK), "Björk"),
       "atom of MP4": (".m4a", lambda song: song.replace(b"BjXrk", BJOERK), "Björk"),
       "ID3 in AIFF": (".aiff", lambda song: song.replace(b"BjXrk", BJOERK), "Björk"),
       "half a comment": (".flac", lambda song: song.replace(b"title=BjXrk", b"title\xffBjXr\0"), None)}


@pytest.mark.parametrize("kind", ODD)
def test_tags_that_are_not_utf_8_are_kept_as_well_as_can_be(model, tmp_path, kind):
    suffix, change, title = ODD[kind]
    source = tagged(tmp_path / f"in{suffix}", Tags({"title": "BjXrk"} if suffix not in (".mp3", ".wav") else {}))
    if suffix == ".mp3":
        sf.write(source, 0.1 * np.random.default_rng(0).standard_normal((3000, 2)), 48000, format="MP3")
    source.write_bytes(change(source.read_bytes()))
    for number, target in enumerate((suffix, ".wav", ".flac", ".m4a", ".opus")):
        out = tmp_path / f"out{number}{target}"
        denoise_file(model, source, out, DenoiseSettings(strength=0))
        found = read_tags(out).text
        assert "\ufffd" not in "".join(found.values())
        assert title is None or found["title"] == title
        with AudioReader(out) as reader:
            assert reader.channels == 2


def test_comments_that_are_not_utf_8_in_ogg(model, tmp_path):
    """Old encoders wrote such comments. Copying the packets renews the checksum of the page."""
    source = tagged(tmp_path / "in.ogg", Tags())
    with av.open(str(source), metadata_errors="surrogateescape") as old, \
            av.open(str(tmp_path / "latin.ogg"), "w", metadata_errors="surrogateescape") as new:
        stream = new.add_stream_from_template(old.streams.audio[0])
        stream.metadata["title"] = os.fsdecode(BJOERK)
        for packet in old.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    assert BJOERK in (tmp_path / "latin.ogg").read_bytes()
    denoise_file(model, tmp_path / "latin.ogg", tmp_path / "out.ogg", DenoiseSettings(strength=0))
    assert read_tags(tmp_path / "out.ogg").text["title"] == "Björk"


def test_what_describes_the_old_file_stays_behind(tmp_path):
    source = tagged(tmp_path / "in.flac", Tags())
    file = FLAC(source)
    file.tags.update({"replaygain_track_gain": "-7 dB", "encoder": "X", "encoded-by": "X", "iTunSMPB": "0 1 2",
                      "waveformatextensible_channel_mask": "0x3", "tracktotal": "9", "mood": "blue"})
    file.save()
    assert read_tags(source).text == {"tracktotal": "9", "mood": "blue"}


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
@pytest.mark.parametrize("text", [{"title": ""}, {"title": " "}, {"date": "Frühling"}, {"track": "A1"},
                                  {"disc": "1/99999"}, {"comment": "\x01"}, {"title": "x" * 100_000},
                                  {"x" * 1000: "y"}])
def test_odd_texts_cost_neither_the_audio_nor_the_others(tmp_path, suffix, text):
    found = read_tags(tagged(tmp_path / f"x{suffix}", Tags({"artist": "A"} | text)))
    assert found.text["artist"] == "A" and found.text.items() >= {k: v for k, v in text.items() if v.strip()}.items()
    assert read_audio(tmp_path / f"x{suffix}")[0].shape[1] >= 3000


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
@pytest.mark.parametrize("error", [mutagen.MutagenError("odd"), OSError(28, "full"), KeyError("odd")])
def test_tags_that_cannot_be_written_leave_the_audio_whole(tmp_path, monkeypatch, caplog, suffix, error):
    plain = tagged(tmp_path / f"plain{suffix}", Tags())

    def breaking(path):
        path.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(tags_module.mutagen, "File", breaking)
    path = tagged(tmp_path / f"x{suffix}", TAGS)
    assert np.array_equal(read_audio(path)[0], read_audio(plain)[0])
    assert "written without tags" in caplog.text and len(list(tmp_path.iterdir())) == 2


def test_what_other_programs_find(tmp_path):
    """WAV has the texts twice, since many players know only RIFF INFO. The first picture is a front cover."""
    data = tagged(tmp_path / "x.wav", TAGS).read_bytes()
    assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8
    assert b"LIST" in data and b"INAM" + struct.pack("<I", 8) + "Ä song\0".encode() in data
    assert sf.info(tmp_path / "x.wav").frames == 3000
    assert mutagen.File(tmp_path / "x.wav").tags.getall("APIC")[0].type == FRONT_COVER
    assert id3.ID3(tagged(tmp_path / "x.mp3", TAGS))["TPE2"].text == ["All of them"]
    assert mutagen.File(tagged(tmp_path / "x.m4a", TAGS))["trkn"] == [(3, 12)]
    assert mutagen.File(tagged(tmp_path / "x.opus", TAGS))["tracknumber"] == ["3/12"]
