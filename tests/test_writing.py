"""Written files as other programs see them: sample formats, bit rates, channel layouts and sizes."""

import os
import struct

import av
import numpy as np
import pytest
import soundfile as sf

from common.audio import encoders, formats
from common.audio import writing as audio_module
from common.audio.formats import OUTPUT_SUFFIXES
from common.audio.reading import AudioReader, read_audio
from common.audio.tags import Tags, read_tags
from common.audio.writing import AudioWriter, write_audio
from common.denoising.files import DenoiseSettings, denoise_file
from common.errors import AudioError, UserError
from tests.encoding import encode

BITS = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 32}


def decode(path):
    """Return (samples as floats of shape (channels, samples), codec, layout), read by FFmpeg alone."""
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        resampler = av.AudioResampler("dbl")
        parts = [part.to_ndarray().reshape(-1, stream.channels) for frame in file.decode(audio=0)
                 for part in resampler.resample(frame)]
        return np.concatenate(parts).T, stream.codec_context.codec.canonical_name, stream.layout.name


def lossless_file(folder, rng, suffix, subtype):
    """Write a file of random bits in a sample format; return its path and its samples."""
    n, path = 3001, folder / f"in{suffix}"
    if subtype in BITS:
        words = rng.integers(-(2**31), 2**31, (2, n)).astype(np.int32) >> (32 - BITS[subtype]) << (32 - BITS[subtype])
        samples = words / 2.0**31
    else:
        samples = 0.2 * rng.standard_normal((2, n)).astype("f4" if subtype == "FLOAT" else "f8")
    if suffix in (".wav", ".aiff"):
        sf.write(path, (words if subtype in BITS else samples).T, 44100, subtype)
    else:
        bits = BITS[subtype]
        kind = "s16" if bits == 16 else "s32"
        options = {"bits_per_raw_sample": str(bits), "strict": "experimental"}
        if suffix == ".m4a":
            encode(path, "alac", words, kind=f"{kind}p", **options)
        else:
            encode(path, "flac", words, kind=kind, **options)
    return path, samples.astype(float)


LOSSLESS = [(".wav", s) for s in (*BITS, "FLOAT", "DOUBLE")] + [(".aiff", s) for s in (*BITS, "FLOAT", "DOUBLE")] + [
    (".flac", s) for s in BITS] + [(".ogg", "PCM_16"), (".ogg", "PCM_24"), (".m4a", "PCM_16"), (".m4a", "PCM_24")]


@pytest.mark.parametrize("suffix, subtype", LOSSLESS)
def test_strength_0_keeps_every_bit_of_every_lossless_format(model, rng, tmp_path, suffix, subtype):
    source, samples = lossless_file(tmp_path, rng, suffix, subtype)
    exact = {suffix, ".wav", ".aiff"} | ({".flac"} if subtype in BITS else set())
    for target in exact:
        out = tmp_path / f"out{target}"
        denoise_file(model, source, out, DenoiseSettings(strength=0))
        found, codec, _ = decode(out)
        assert np.array_equal(found, samples), target
        assert codec == {".flac": "flac", ".ogg": "flac", ".m4a": "alac"}.get(target, codec)


@pytest.mark.parametrize("source, subtype, target", [(".wav", "FLOAT", ".flac"), (".wav", "DOUBLE", ".flac"),
                                                     (".aiff", "FLOAT", ".flac")])
def test_bits_that_a_format_cannot_hold_are_told(rng, tmp_path, caplog, source, subtype, target):
    source, samples = lossless_file(tmp_path, rng, source, subtype)
    with AudioReader(source) as reader, AudioWriter(tmp_path / f"out{target}", 44100, 2, like=reader) as writer:
        writer.write(samples)
    assert writer.bits == 24 and "bits are lost" in caplog.text
    assert np.abs(decode(writer.path)[0] - samples).max() <= 2.0**-24


def test_32_bit_alac_gets_24_with_a_warning(tmp_path, caplog):
    class Input:  # FFmpeg does not write such files
        path, codec, subtype, layout, seconds, bit_rate = tmp_path / "in.m4a", "alac", "PCM_32", None, 1, None

    with AudioWriter(tmp_path / "out.m4a", 44100, 2, like=Input) as writer:
        writer.write(np.zeros((2, 100)))
    assert writer.bits == 24 and "bits are lost" in caplog.text and decode(writer.path)[1] == "alac"


def test_lossless_is_kept_between_files_of_one_kind_only(rng, tmp_path):
    """M4A made from MP4 with FLAC is ALAC, but M4A made from FLAC is AAC, as users expect."""
    words = rng.integers(-(2**15), 2**15, (2, 3000)).astype(np.int16)
    for name in ("in.mp4", "in.flac"):
        encode(tmp_path / name, "flac", words, kind="s16")
    codecs = []
    for source in ("in.mp4", "in.flac"):
        with AudioReader(tmp_path / source) as reader, \
                AudioWriter(tmp_path / "out.m4a", 44100, 2, like=reader) as writer:
            writer.write(words / 2**15)
        codecs.append(decode(writer.path)[1])
    assert codecs == ["alac", "aac"]


def music(seconds, channels, rate=48000):
    """Tones with some noise: an encoder needs about as many bits for it as for music."""
    rng, t = np.random.default_rng(1), np.arange(seconds * rate) / rate
    tones = sum(np.sin(2 * np.pi * f * t + channel) for channel in range(channels) for f in (220, 911, 2917)) / 20
    return (tones + 0.02 * rng.standard_normal((channels, seconds * rate))).astype(np.float32)


@pytest.mark.parametrize("suffix, codec, bit_rate", [
    (".mp3", "libmp3lame", 96_000), (".mp3", "libmp3lame", 192_000), (".mp3", "vbr", None), (".m4a", "aac", 96_000),
    (".mp4", "aac", 192_000), (".aac", "aac", 128_000), (".ogg", "vorbis", 0.2), (".ogg", "vorbis", 0.7),
    (".opus", "opus", 0.75), (".opus", "opus", 0.5), (".ogg", "opus", 0.8)])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_lossy_file_keeps_its_codec_and_about_its_rate(tmp_path, suffix, codec, bit_rate, channels):
    source, sound = tmp_path / f"in{suffix}", music(3, channels)
    if codec in ("vorbis", "opus"):
        sf.write(source, sound.T, 48000, codec.upper(), format="OGG", compression_level=bit_rate)
    elif codec == "vbr":
        sf.write(source, sound.T, 48000, "MPEG_LAYER_III", format="MP3", bitrate_mode="VARIABLE", compression_level=0.3)
    else:
        encode(source, codec, sound, 48000, b=str(bit_rate))
    target = tmp_path / f"out{formats.NEAREST.get(suffix, suffix)}"
    with AudioReader(source) as reader, AudioWriter(target, 48000, channels, like=reader) as writer:
        writer.write(sound)
    assert decode(target)[1] == decode(source)[1]
    assert target.stat().st_size == pytest.approx(source.stat().st_size, rel=0.25)


def speakers(layout, rate=48000):
    """One second with another tone in every channel; the tone of the low-frequency channel is low."""
    names, t = [channel.name for channel in av.AudioLayout(layout).channels], np.arange(rate) / rate
    tones = [40 if name == "LFE" else 2000 + 250 * place for place, name in enumerate(names)]
    return np.stack([0.2 * np.sin(2 * np.pi * tone * t) for tone in tones]).astype(np.float32), tones


class Surround:
    """The attributes of the reader of a WAV file that AudioWriter uses."""

    codec, subtype, bit_rate, seconds = "pcm_s16le", "PCM_16", None, 1

    def __init__(self, folder, layout):
        self.path, self.layout = folder / "in.wav", layout


LAYOUTS = ["3.0", "quad", "5.0", "5.0(side)", "5.1", "5.1(side)", "6.1", "7.1"]
HELD = [(suffix, layout, layout.replace("(side)", "") if suffix in (".ogg", ".opus", ".m4a") else layout)
        for suffix in (".wav", ".flac", ".ogg", ".opus", ".m4a") for layout in LAYOUTS]
OTHER_LAYOUTS = ["2.1", "4.0", "6.0", "6.1(back)", "7.1(wide)", "hexagonal"]
HELD += [(suffix, layout, layout) for suffix in (".wav", ".flac") for layout in OTHER_LAYOUTS]
HELD += [(".m4a", "4.0", "4.0"), (".ogg", "6.1(back)", "6.1"), (".opus", "6.1(back)", "6.1")]


@pytest.mark.parametrize("suffix, layout, held", HELD)
def test_every_channel_stays_in_its_place(tmp_path, suffix, layout, held):
    sound, tones = speakers(layout)
    with AudioWriter(tmp_path / f"out{suffix}", 48000, len(tones), like=Surround(tmp_path, layout)) as writer:
        writer.write(sound)
    found, _, found_layout = decode(writer.path)
    order = formats.place_channels(formats.Codec("", "", (), (held,)), writer.path, len(tones), layout)[1]
    spectra = np.abs(np.fft.rfft(found[:, :48000]))
    assert spectra.argmax(axis=1).tolist() == [tones[channel] for channel in order]
    assert spectra.max(axis=1).min() > 0.2 * 24000 * 0.7  # and none of them loses its level
    assert found_layout == held or (suffix, layout) == (".m4a", "6.1")  # which FFmpeg's AAC decoder has no name for


@pytest.mark.parametrize("suffix", [".ogg", ".opus", ".m4a", ".flac", ".wav", ".aiff"])
@pytest.mark.parametrize("channels", range(3, 9))
def test_channels_without_a_layout_are_taken_in_wav_order(tmp_path, suffix, channels):
    sound, tones = speakers(formats.DEFAULT_LAYOUTS[channels])
    write_audio(tmp_path / f"out{suffix}", sound, 48000)
    found = sf.read(tmp_path / f"out{suffix}", always_2d=True)[0].T if suffix == ".aiff" else \
        decode(tmp_path / f"out{suffix}")[0]
    assert np.abs(np.fft.rfft(found[:, :48000])).argmax(axis=1).tolist() == tones


@pytest.mark.parametrize("suffix, layout", [(".ogg", "6.0"), (".opus", "2.1"), (".ogg", "7.1(wide)"), (".m4a", "6.0"),
                                            (".ogg", "4.0"), (".mp3", "3.0"), (".mp3", "5.1"), (".opus", None)])
def test_a_layout_that_a_format_does_not_know_is_refused_before_computing(tmp_path, suffix, layout):
    channels = av.AudioLayout(layout).nb_channels if layout else 12
    with pytest.raises(AudioError, match="write WAV or FLAC"):
        AudioWriter(tmp_path / f"out{suffix}", 48000, channels, like=Surround(tmp_path, layout))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("subtype", [*BITS, "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("layout", [None, "mono", "stereo", "5.1", "5.1(side)", "7.1"])
@pytest.mark.parametrize("limit", [1 << 31, 1000])
def test_wav_files_of_every_size_and_sample_format(tmp_path, rng, monkeypatch, subtype, layout, limit):
    """A WAV file of more than 4 GiB is RF64. Here it begins at 1000 bytes, and its samples move in small pieces."""
    monkeypatch.setattr(encoders, "MAX_BYTES", limit)
    monkeypatch.setattr(encoders, "COPY_BYTES", 777)
    channels = av.AudioLayout(layout).nb_channels if layout else 6
    samples = np.round(rng.uniform(-1, 0.99, (channels, 1111)) * 2**15) / 2**15
    path = tmp_path / "out.wav"
    with AudioWriter(path, 48000, channels, subtype, like=Surround(tmp_path, layout)) as writer:
        writer.write(samples)
    data = path.read_bytes()
    assert data[:4] == (b"RIFF" if limit > 1000 else b"RF64")
    tag, mask = struct.unpack_from("<H", data, data.index(b"fmt ") + 8)[0], data.index(b"fmt ") + 28
    if layout and channels > 2:
        assert tag == 0xFFFE
        assert struct.unpack_from("<I", data, mask)[0] == {"5.1": 0x3F, "5.1(side)": 0x60F, "7.1": 0x63F}[layout]
    else:
        assert tag == (1 if subtype in BITS else 3)
    back, rate = sf.read(path, dtype="float64", always_2d=True)
    assert rate == 48000 and np.array_equal(back.T, samples) and sf.info(path).subtype == subtype
    by_ffmpeg, _, found_layout = decode(path)
    assert np.array_equal(by_ffmpeg, samples)
    assert found_layout == layout or not layout or channels <= 2


@pytest.mark.parametrize("suffix", [".aiff", ".aif"])
def test_an_aiff_file_beyond_4_gib_is_refused_before_computing(tmp_path, suffix):
    long = Surround(tmp_path, None)
    long.seconds = 7 * 3600
    AudioWriter(tmp_path / f"half{suffix}", 44100, 1, like=long).__exit__(None)
    with pytest.raises(AudioError, match="less than 4 GiB"):
        AudioWriter(tmp_path / f"out{suffix}", 44100, 2, like=long)
    with AudioWriter(tmp_path / f"out{suffix}", 44100, 2) as writer, pytest.raises(AudioError, match="less than 4 GiB"):
        writer._free = 1000
        writer.write(np.zeros((2, 600)))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("n", [1, 960, 50_001])
def test_opus_is_48_khz_and_as_long_as_the_input(tmp_path, rate, n):
    sound = 0.3 * np.sin(2 * np.pi * 300 * np.arange(n) / rate)[None].astype(np.float32)
    write_audio(tmp_path / "out.opus", sound, rate)
    found, back_rate = read_audio(tmp_path / "out.opus")
    assert back_rate == 48000 and abs(found.shape[1] - n * 48000 / rate) < 1
    if n > 10_000:
        spectrum = np.abs(np.fft.rfft(found[0]))
        assert spectrum.argmax() * 48000 / found.shape[1] == pytest.approx(300, abs=1)
        assert np.abs(found[0, 1000:-1000]).max() == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("suffix, codec", [(suffix, None) for suffix in OUTPUT_SUFFIXES if suffix != ".opus"]
                         + [(".m4a", "alac")])
@pytest.mark.parametrize("n", [1, 10, 100, 1023, 1024, 1025, 3001])
def test_no_sample_is_lost_at_the_end(tmp_path, suffix, codec, n):
    like = Surround(tmp_path, None)
    like.path, like.codec = tmp_path / "in.m4a", codec
    with AudioWriter(tmp_path / f"out{suffix}", 44100, 1, like=like if codec else None) as writer:
        writer.write(np.zeros((1, n)))
    found = decode(writer.path)[0].shape[1] if suffix == ".m4a" else read_audio(writer.path)[0].shape[1]
    if (suffix, codec) == (".m4a", None):  # whole frames of AAC
        assert n <= found < n + 1024
    else:  # MP3 has a least length
        assert found == (max(n, 47) if suffix == ".mp3" else n)


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_names_as_long_as_a_folder_takes_them_and_of_any_bytes(tmp_path, suffix):
    for name in (b"x" * (255 - len(suffix)), "ä".encode() * ((255 - len(suffix)) // 2), b"caf\xe9"):
        path = tmp_path / os.fsdecode(name + suffix.encode())
        with AudioWriter(path, 44100, 1, clip="rescale") as writer:
            writer.write(np.zeros((1, 5000)))
        assert path.stat().st_size > 50
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
@pytest.mark.parametrize("name", ["Requiem: Kyrie", "http:x", "-", "100% of 'it'"])
def test_a_bare_name_is_no_protocol(tmp_path, monkeypatch, caplog, suffix, name):
    monkeypatch.chdir(tmp_path)
    for clip in ("rescale", "limit"):
        with AudioWriter(name + suffix, 44100, 1, clip=clip, tags=Tags({"title": "Kyrie"})) as writer:
            writer.write(np.full((1, 5000), 0.1))
    assert [path.name for path in tmp_path.iterdir()] == [name + suffix]
    assert read_audio(name + suffix)[0].shape[1] >= 5000 and read_tags(name + suffix).text["title"] == "Kyrie"
    assert not caplog.text


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
@pytest.mark.parametrize("folder", ["file", "/proc", "/proc/none"])
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, suffix, folder):
    if folder != "file" and not os.path.isdir("/proc/self"):
        pytest.skip("no /proc")
    (tmp_path / "file").touch()
    path = tmp_path / folder / f"x{suffix}"
    with pytest.raises(AudioError, match=f"expected to write {path}, but the system refused .*: change"):
        AudioWriter(path, 44100, 1, clip="rescale")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
@pytest.mark.parametrize("method", ["write", "close"])
def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch, suffix, method):
    opened = audio_module.open_encoder

    def failing(*args):
        encoder = opened(*args)

        def full(*_):
            raise OSError(28, "No space left on device")

        setattr(encoder, method, full)
        return encoder

    monkeypatch.setattr(audio_module, "open_encoder", failing)
    with pytest.raises(AudioError, match="free some disk space"), AudioWriter(tmp_path / f"x{suffix}", 44100, 2) as out:
        out.write(np.zeros((2, 1000)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix, rate, settings", [(".mp3", 96000, {}), (".wav", 44100, {"clip": "none"}),
                                                    (".xyz", 44100, {})])
def test_what_cannot_be_written_is_refused_before_the_sound_is_read(tmp_path, monkeypatch, model, suffix, rate,
                                                                    settings):
    write_audio(tmp_path / "in.wav", np.full((1, 5000), 0.1), rate)
    monkeypatch.setattr(AudioReader, "blocks", lambda *_: pytest.fail("the sound was read"))
    with pytest.raises(UserError, match="choose"):
        denoise_file(model, tmp_path / "in.wav", tmp_path / f"out{suffix}", DenoiseSettings(**settings))
    assert [path.name for path in tmp_path.iterdir()] == ["in.wav"]
