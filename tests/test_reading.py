"""All sound of a file is read once and in order, also from files with wrong headers, joined parts or damage."""

import logging
import os

import av
import numpy as np
import pytest
import soundfile as sf
from scipy.signal import fftconvolve

from common.audio.reading import AudioReader, list_audio, read_audio
from common.denoising.auto import PROBES, probe_windows
from common.errors import AudioError
from common.network.confidence import WINDOW_SAMPLES
from common.training.pair_batches import _read_crop
from tests.encoding import encode

RATE = 44100
CODECS = {"mp3": "libmp3lame", "aac": "aac", "m4a": "aac"}


def noise(seconds=1.0, channels=2, rate=RATE, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal((channels, round(seconds * rate)))


def tone(seconds=1.0, channels=2, rate=RATE, hertz=1000):
    return np.tile(0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate), (channels, 1))


def peak_hertz(samples, rate):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return spectrum.argmax() * rate / len(samples)


def alike(part, audio):
    """Whether audio holds the part somewhere. After a break, a decoder may change it a little."""
    return fftconvolve(audio, part[::-1], mode="valid").max() > 0.9 * np.square(part).sum()


def written(path, samples, rate=RATE, subtype=None, kind=None):
    sf.write(path, samples.T, rate, subtype, format=kind)
    return path.read_bytes()


def opus(path, samples):
    return written(path, samples, 48000, "OPUS", "OGG")


def intact(folder, kind, samples):
    """Write a file of a kind; return its path and its samples."""
    path = folder / f"a.{kind}"
    if kind in CODECS:
        encode(path, CODECS[kind], samples)
    else:
        opus(path, samples) if kind == "opus" else written(path, samples)
    return path, read_audio(path)[0]


def read_twice(path):
    with AudioReader(path) as reader:
        once, again = (np.concatenate(list(reader.blocks(n)), 1) for n in (1 << 20, 1000))
        assert np.array_equal(once, again) and reader.seconds == once.shape[1] / reader.sample_rate
        return once, reader.sample_rate


@pytest.mark.parametrize("seconds", [0.0001, 0.01, 0.3, 2])
@pytest.mark.parametrize("links", [1, 2, 5])
@pytest.mark.parametrize("kind", ["ogg", "opus", "flac"])
def test_all_links_of_a_chained_ogg_file_are_read(tmp_path, kind, links, seconds):
    path, samples = tmp_path / ("a.opus" if kind == "opus" else "a.ogg"), noise(seconds)
    if kind == "flac":
        encode(path, "flac", samples)
        data = path.read_bytes()
    else:
        data = (opus if kind == "opus" else written)(path, samples)
    one, _ = read_twice(path)
    if kind != "flac":
        assert np.abs(one - sf.read(path, always_2d=True)[0].T).max() < 1e-5
    path.write_bytes(data * links)
    audio, _ = read_twice(path)
    assert one.shape == samples.shape and np.array_equal(audio, np.tile(one, links))


JOINTS = {"ogg": lambda path, x, rate: written(path, x, rate), "opus": lambda path, x, rate: opus(path, x),
          "mp3": lambda path, x, rate: encode(path, "libmp3lame", x, rate),
          "aac": lambda path, x, rate: encode(path, "aac", x, rate),
          "ts": lambda path, x, rate: encode(path, "mp2", x, rate)}


@pytest.mark.parametrize("kind", JOINTS)
@pytest.mark.parametrize("first, second", [((44100, 2), (22050, 1)), ((22050, 1), (44100, 2)), ((44100, 1), (44100, 2)),
                                           ((48000, 2), (44100, 2))])
def test_a_file_that_changes_its_form_keeps_pitch_level_and_length(tmp_path, caplog, kind, first, second):
    path, data = tmp_path / f"a.{kind}", b""
    for rate, channels in (first, second):
        rate = 48000 if kind == "opus" else rate
        JOINTS[kind](path, tone(2, channels, rate), rate)
        data += path.read_bytes()
    path.write_bytes(data)
    audio, rate = read_twice(path)
    assert (rate, len(audio)) == (48000 if kind == "opus" else first[0], first[1])
    assert audio.shape[1] / rate == pytest.approx(4, abs=0.15)
    for start in (0.3, 2.4):
        part = audio[:, round(start * rate) : round((start + 1.2) * rate)]
        assert all(abs(peak_hertz(row, rate) - 1000) < 3 for row in part)
        assert np.abs(part).max(axis=1) == pytest.approx(0.3, rel=0.12)
    if kind != "opus" or first[1] != second[1]:
        assert len(caplog.records) == 1 and "changes" in caplog.text and ("2.0" in caplog.text or "2.1" in caplog.text)


LIES = {"nothing": lambda n: 0, "half": lambda n: n // 2, "a little": lambda n: n - 400, "double": lambda n: 2 * n,
        "the most": None}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind, subtype", [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAVEX", "PCM_24"),
                                           ("AIFF", "PCM_16"), ("AIFF", "PCM_24"), ("RF64", "PCM_16"),
                                           ("W64", "PCM_16")])
def test_a_wrong_size_in_a_header_changes_nothing(tmp_path, kind, subtype, lie, both):
    path, samples = tmp_path / ("a.aiff" if kind == "AIFF" else "a.wav"), noise(0.3)
    data = bytearray(written(path, samples, RATE, subtype, kind))
    whole, _ = read_audio(path)
    order, (place, width) = ("big" if kind == "AIFF" else "little"), {
        "AIFF": (data.find(b"SSND") + 4, 4), "RF64": (data.find(b"ds64") + 16, 8), "W64": (data.find(b"data") + 16, 8)
    }.get(kind, (data.find(b"data") + 4, 4))
    said = int.from_bytes(data[place : place + width], order)
    value = (LIES[lie](said) if LIES[lie] else 256**width - 1).to_bytes(width, order)
    data[place : place + width] = value
    if both and width == 4:
        data[4:8] = value
    if kind == "AIFF":
        frames = data.find(b"COMM") + 10
        data[frames : frames + 4] = bytes(4)
    path.write_bytes(data)
    assert whole.shape == samples.shape and np.array_equal(read_twice(path)[0], whole)


def test_what_is_appended_to_a_wav_file_is_no_sound(tmp_path):
    path, samples = tmp_path / "a.wav", noise(0.1)
    data = written(path, samples)
    for tail in (b"", bytes(20000), b"TAG" + bytes(125), b"<html><body>Not found</body></html>", b"\0",
                 b"LIST\x04\0\0\0INFO"):
        path.write_bytes(data + tail)
        assert read_audio(path)[0].shape == samples.shape
    path.write_bytes(data[:-4000])
    assert read_audio(path)[0].shape[1] == samples.shape[1] - 1000
    for tail in (b"", b"LIST\x04\0\0\0INFO"):
        written(path, samples[:, :0])
        path.write_bytes(path.read_bytes() + tail)
        with pytest.raises(AudioError, match="holds no samples"):
            read_audio(path)


@pytest.mark.parametrize("count", [0, 1, 1000, 10**6, 2**36 - 1])
def test_a_wrong_count_in_a_flac_header_changes_nothing(tmp_path, count):
    path, samples = tmp_path / "a.flac", noise()
    data = bytearray(written(path, samples))
    whole, _ = read_audio(path)
    data[21] = data[21] & 0xF0 | count >> 32
    data[22:26] = (count % 2**32).to_bytes(4, "big")
    path.write_bytes(data)
    assert whole.shape == samples.shape and np.array_equal(read_twice(path)[0], whole)
    if count == 0:
        start = int(0.5 * (RATE - 999))
        assert np.array_equal(_read_crop(path, 0.5, 0.0, 1000), whole[0, start : start + 1000])


@pytest.mark.parametrize("seconds", [1, 30, 140])
def test_windows_to_listen_to_need_no_length_in_the_header(tmp_path, seconds, monkeypatch):
    path = tmp_path / "a.wav"
    written(path, noise(seconds, 1, 8000), 8000)
    expected = list(probe_windows(path, 8000))
    whole = seconds * 8000 // WINDOW_SAMPLES
    assert len(expected) == (whole if 1 <= whole < PROBES else len(expected)) and 1 <= len(expected) < 2 * PROBES
    opened = AudioReader.__init__
    for wrong in (0.0, 0.1, 1e9):
        monkeypatch.setattr(AudioReader, "__init__", lambda self, path, wrong=wrong: (
            opened(self, path), setattr(self, "seconds", wrong))[0])
        assert all(map(np.array_equal, expected, probe_windows(path, 8000)))


def test_aac_whose_length_is_guessed_from_silence_is_listened_to(tmp_path):
    samples = np.concatenate([np.zeros((1, 4 * RATE)), noise(8, 1)], 1)
    encode(tmp_path / "a.aac", "aac", samples, b="256000")
    with AudioReader(tmp_path / "a.aac") as reader:
        assert reader.seconds > 100
        assert len(list(probe_windows(reader.path, RATE))) == 12 * RATE // WINDOW_SAMPLES
        assert reader.count_samples() == pytest.approx(12 * RATE, abs=3000)
        assert reader.seconds == pytest.approx(12, abs=0.1) and 60_000 < reader.bit_rate < 300_000


@pytest.mark.parametrize("name, codec, bits, subtype", [
    ("a.m4a", "alac", 24, "PCM_24"), ("b.m4a", "alac", 16, "PCM_16"), ("c.flac", "flac", 24, "PCM_24"),
    ("d.flac", "flac", 20, "PCM_24"), ("e.flac", "flac", 32, "PCM_32"), ("f.wv", "wavpack", 32, "PCM_32"),
    ("g.tta", "tta", 24, "PCM_24"), ("h.mka", "flac", 24, "PCM_24"), ("i.mov", "pcm_s24le", 24, "PCM_24"),
    ("j.wav", "pcm_s32le", 32, "PCM_32"), ("k.mov", "pcm_f64le", 32, "DOUBLE"), ("l.flac", "flac", 16, "PCM_16")])
def test_the_depth_of_lossless_files_is_told_and_kept(tmp_path, name, codec, bits, subtype):
    samples = (noise(0.2) * 2**31).astype(np.int32) >> 32 - bits << 32 - bits
    kind = {("alac", 16): "s16p", ("flac", 16): "s16"}.get((codec, bits))
    options = {"bits_per_raw_sample": str(bits), "strict": "-2"} if codec == "flac" and bits != 16 else {}
    encode(tmp_path / name, codec, samples, kind=kind, **options)
    with AudioReader(tmp_path / name) as reader:
        assert (reader.subtype, reader.bit_rate, reader.codec, reader.layout) == (subtype, None, codec, "stereo")
        assert np.array_equal(np.concatenate(list(reader.blocks(1000, "float64")), 1), samples / 2**31)
        assert np.array_equal(np.concatenate(list(reader.blocks(1000)), 1), (samples / 2**31).astype(np.float32))


@pytest.mark.parametrize("kind, subtype, told, codec", [
    ("WAV", "PCM_U8", "PCM_16", "pcm_u8"), ("WAV", "PCM_16", "PCM_16", "pcm_s16le"),
    ("WAV", "FLOAT", "FLOAT", "pcm_f32le"), ("WAV", "DOUBLE", "DOUBLE", "pcm_f64le"),
    ("WAV", "ULAW", None, "pcm_mulaw"), ("AIFF", "PCM_S8", "PCM_16", "pcm_s8"), ("AIFF", "FLOAT", "FLOAT", "pcm_f32be"),
    ("AIFF", "PCM_24", "PCM_24", "pcm_s24be"), ("FLAC", "PCM_24", "PCM_24", "flac"), ("OGG", "VORBIS", None, "vorbis")])
def test_samples_are_those_of_libsndfile(tmp_path, kind, subtype, told, codec):
    path = tmp_path / f"a.{kind.lower()}"
    written(path, noise(0.2), RATE, subtype, kind)
    with AudioReader(path) as reader:
        assert (reader.subtype, reader.codec, reader.layout) == (told, codec, "stereo")
        for dtype in ("float32", "float64"):
            block, = reader.blocks(1 << 20, dtype)
            expected = sf.read(path, dtype=dtype)[0].T
            assert block.dtype == dtype and np.abs(block - expected).max() <= (3e-7 if codec == "vorbis" else 0)


@pytest.mark.parametrize("codec, name, rate", [("libmp3lame", "a.mp3", 192_000), ("aac", "a.m4a", 128_000)])
def test_the_rate_of_lossy_files_is_told(tmp_path, codec, name, rate):
    encode(tmp_path / name, codec, noise(3), b=str(rate))
    with AudioReader(tmp_path / name) as reader:
        list(reader.blocks(1 << 20))
        assert reader.subtype is None and reader.bit_rate == pytest.approx(rate, rel=0.1)
        assert reader.codec == {"libmp3lame": "mp3"}.get(codec, codec)


# The places of the channels of WAV in a Vorbis (Vorbis I, section 4.3.9) or Opus file (RFC 7845).
VORBIS = {3: [0, 2, 1], 4: [0, 1, 2, 3], 5: [0, 2, 1, 3, 4], 6: [0, 2, 1, 5, 3, 4], 7: [0, 2, 1, 6, 5, 3, 4],
          8: [0, 2, 1, 7, 5, 6, 3, 4]}
LAYOUTS = {3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


@pytest.mark.parametrize("channels", VORBIS)
def test_channels_come_in_the_order_of_wav(tmp_path, channels):
    samples = np.concatenate([tone(0.5, 1, 48000, 60 + 12 * k) for k in range(channels)])  # an LFE passes these
    opus(tmp_path / "a.opus", samples)
    written(tmp_path / "a.ogg", samples, 48000)
    for name, order in (("a.ogg", VORBIS[channels]), ("a.opus", VORBIS[channels])):
        audio, rate = read_audio(tmp_path / name)
        found = [round((peak_hertz(row[2000:22000], rate) - 60) / 12) for row in audio]
        assert found == order
        assert AudioReader(tmp_path / name).layout == LAYOUTS[channels]
    written(tmp_path / "a.flac", samples, 48000)
    assert np.abs(read_audio(tmp_path / "a.flac")[0] - samples).max() < 1e-4


def test_layouts_of_many_channels(tmp_path):
    encode(tmp_path / "a.m4a", "aac", noise(0.2, 8), layout="7.1")
    assert read_audio(tmp_path / "a.m4a")[0].shape[0] == 8 and AudioReader(tmp_path / "a.m4a").layout == "7.1"
    opus(tmp_path / "a.opus", noise(0.2, 12, 48000))
    assert read_audio(tmp_path / "a.opus")[0].shape == (12, 9600) and AudioReader(tmp_path / "a.opus").layout is None
    written(tmp_path / "b.wav", noise(0.1, 6))
    assert AudioReader(tmp_path / "b.wav").layout is None
    encode(tmp_path / "c.wav", "pcm_s24le", noise(0.1, 6), layout="5.1(side)")
    assert AudioReader(tmp_path / "c.wav").layout == "5.1(side)"


def test_an_order_of_channels_of_its_own_is_undone(tmp_path):
    samples = np.concatenate([tone(0.5, 1, RATE, 500 + 300 * k) for k in range(6)])
    data = written(tmp_path / "a.caf", samples[[0, 2, 1, 4, 5, 3]], RATE, "PCM_16", "CAF")
    chunk = b"chan" + (12).to_bytes(8, "big") + (123 << 16 | 6).to_bytes(4, "big") + bytes(8)  # L C R Ls Rs LFE
    (tmp_path / "a.caf").write_bytes(data[:52] + chunk + data[52:])
    for _ in range(3):
        assert np.abs(read_audio(tmp_path / "a.caf")[0] - samples).max() < 1e-4
    assert AudioReader(tmp_path / "a.caf").layout == "5.1(side)"


RUBBISH = {"zeros": bytes(20000), "lyrics": b"LYRICSBEGIN" + b"IND00002\r\n" * 200 + b"000200LYRICS200",
           "html": b"<html>" + b"<p>hello</p>" * 500,
           "ape": b"APETAGEX" + bytes(24) + b"x" * 90000 + b"APETAGEX" + bytes(24),
           "id3v1": b"TAG" + "Björk".encode("latin-1").ljust(125, b"\0"),
           "noise": np.random.default_rng(3).bytes(20000)}


@pytest.mark.parametrize("kind", ["mp3", "aac", "m4a", "flac", "ogg", "opus", "wav"])
@pytest.mark.parametrize("what", RUBBISH)
def test_rubbish_behind_intact_audio_is_no_reason_to_refuse_it(tmp_path, caplog, kind, what):
    if (kind, what) == ("wav", "noise"):
        pytest.skip("noise looks like the sound of a recorder that crashed")
    path, whole = intact(tmp_path, kind, noise())
    with open(path, "ab") as file:
        file.write(RUBBISH[what])
    audio, _ = read_twice(path)
    # PyAV before 18 loses a frame of FLAC with what is glued to it.
    n = whole.shape[1] - (4096 if kind == "flac" and int(av.__version__.split(".")[0]) < 18 else 0)
    assert np.array_equal(audio[:, :n], whole[:, :n]) and -1 < audio.shape[1] - n < 4096 and len(caplog.records) <= 1


@pytest.mark.parametrize("kind", ["mp3", "aac", "ogg", "opus"])
@pytest.mark.parametrize("what", ["zeros", "html", "lyrics"])
def test_rubbish_in_front_is_passed_over(tmp_path, kind, what):
    path, whole = intact(tmp_path, kind, noise())
    path.write_bytes(RUBBISH[what] + path.read_bytes())
    audio, _ = read_twice(path)
    assert 0 <= audio.shape[1] - whole.shape[1] < 2000 and alike(whole[0, 5000:-5000], audio[0])


@pytest.mark.parametrize("kind", ["mp3", "aac", "m4a", "flac", "ogg", "opus"])
def test_damage_in_the_middle_is_left_out_with_one_warning(tmp_path, caplog, kind):
    path, whole = intact(tmp_path, kind, noise(4))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = np.random.default_rng(1).bytes(400)
    path.write_bytes(data)
    audio, _ = read_twice(path)
    with AudioReader(path) as reader:
        list(reader.blocks(1000))
    assert len(caplog.records) == 1 and "cannot be decoded" in caplog.text and path.name in caplog.text
    n = whole.shape[1] // 4
    assert np.array_equal(audio[:, :n], whole[:, :n]) and 0.6 < audio.shape[1] / whole.shape[1] < 1.01
    assert kind == "opus" or alike(whole[0, -n // 4 : -2000], audio[0])


@pytest.mark.parametrize("kind", ["mp3", "aac", "m4a", "flac", "ogg", "opus", "wav", "aiff", "mp4"])
@pytest.mark.parametrize("content", [b"", b"\0" * 5000, np.random.default_rng(2).bytes(5000), b"hello " * 1000])
def test_a_file_of_which_nothing_decodes_gets_one_sentence(tmp_path, kind, content):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=rf"{path.name} could not be decoded \([^\n]*\): replace or remove it"):
        read_audio(path)


@pytest.mark.parametrize("suffix, codec", [("oga", "flac"), ("aifc", "pcm_s16be"), ("wma", "wmav2"), ("wv", "wavpack"),
                                           ("caf", "pcm_s16le"), ("mka", "flac"), ("mp2", "mp2"), ("aac", "aac")])
def test_rarer_kinds_of_files_are_songs_of_a_folder(tmp_path, suffix, codec):
    sound = 0.3 * np.sin(np.arange(RATE) / 20)[None]
    kind = "s16" if "pcm" in codec or codec in ("flac", "mp2") else None
    encode(tmp_path / f"a.{suffix}", codec, sound, kind=kind, **({"b": "64000"} if codec == "wmav2" else {}))
    (found,) = list_audio(tmp_path)
    audio, rate = read_audio(found)
    assert rate == RATE and abs(audio.shape[1] - RATE) < 5000 and 0.25 < np.abs(audio[:, 5000:-5000]).max() < 0.35


@pytest.mark.parametrize("name", [b"caf\xe9", b"a:b", b"http:x", b"100%d 'x',,y", "é".encode()])
@pytest.mark.parametrize("kind", ["wav", "ogg", "mp3"])
def test_any_file_name_is_read(tmp_path, caplog, name, kind):
    path = tmp_path / f"{os.fsdecode(name)}.{kind}"
    encode(tmp_path / "x.mp3", "libmp3lame", noise(0.5))
    for other in ("x.wav", "x.ogg"):
        written(tmp_path / other, noise(0.5))
    path.write_bytes(2 * (tmp_path / "x.ogg").read_bytes() if kind == "ogg" else (tmp_path / f"x.{kind}").read_bytes()
                     + bytes(20000))
    assert path in list_audio(tmp_path)
    assert read_audio(path)[0].shape[1] >= RATE // 2
    caplog.text.encode()
    path.write_bytes(b"no audio")
    with pytest.raises(AudioError) as error:
        read_audio(path)
    str(error.value).encode()


def test_links_to_folders_are_followed_once(tmp_path, caplog):
    for name in ("songs/real/a.wav", "songs/z.wav", "elsewhere/x/c.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    songs, elsewhere = tmp_path / "songs", tmp_path / "elsewhere"
    for link, target in (("alias", songs / "real"), ("real/loop", songs), ("linked", elsewhere),
                         ("self", songs / "self"), ("../elsewhere/x/back", songs), ("gone", tmp_path / "no"),
                         ("twice", elsewhere / "x")):
        (songs / link).symlink_to(target)
    (songs / "m.wav").symlink_to(elsewhere / "x" / "c.wav")
    found = [path.relative_to(songs).as_posix() for path in list_audio(songs)]
    assert found == ["linked/x/c.wav", "m.wav", "real/a.wav", "z.wav"]


def test_a_warning_comes_once_though_a_file_is_read_often(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    data = bytearray(written(tmp_path / "a.wav", noise(0.1)))
    data[40:44] = bytes(4)
    (tmp_path / "a.wav").write_bytes(data)
    for _ in range(2):
        read_twice(tmp_path / "a.wav")
    assert len(caplog.records) == 1 and "counts 0 bytes" in caplog.text
