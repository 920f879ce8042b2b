from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile as sf

from common.audio.reading import AudioReader, list_audio, read_audio, resample
from common.audio.writing import AudioWriter, to_pcm, write_audio
from common.errors import AudioError, CallError


@pytest.mark.parametrize("suffix, subtype", [(".wav", "PCM_16"), (".wav", "PCM_24"), (".wav", "FLOAT"),
                                             (".flac", "PCM_16"), (".flac", "PCM_24")])
def test_a_file_read_and_written_again_keeps_every_sample(tmp_path, rng, suffix, subtype):
    audio = rng.uniform(-1, 1, (2, 5000)).astype(np.float32)
    audio[:, :2] = [[-1, 32767 / 32768], [1, 0]]
    write_audio(tmp_path / f"a{suffix}", audio, 44100, subtype)
    once, rate = read_audio(tmp_path / f"a{suffix}")
    write_audio(tmp_path / f"b{suffix}", once, rate, subtype)
    assert sf.info(tmp_path / f"a{suffix}").subtype == subtype
    assert np.array_equal(once, read_audio(tmp_path / f"b{suffix}")[0])
    assert np.abs(once - np.minimum(audio, 1)).max() <= {"PCM_16": 2**-15, "PCM_24": 2**-23, "FLOAT": 0}[subtype]


def test_pcm_limits_and_counts_what_is_above_full_scale():
    samples, limited = to_pcm(np.array([[2.0, -2.0, 1.0, -1.0, 0.5]]), 16)
    assert samples.tolist() == [[32767, -32768, 32767, -32768, 16384]]
    assert limited == 3


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_output_formats_can_be_read_back(tmp_path, suffix):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)[None].astype(np.float32)
    write_audio(tmp_path / f"t{suffix}", tone, 44100)
    back, rate = read_audio(tmp_path / f"t{suffix}")
    assert rate == 44100 and abs(back.shape[1] - 44100) <= 1
    assert np.abs(back[:, :44000] - tone[:, :44000]).max() < 0.1


@pytest.mark.parametrize("suffix, codec", [(".m4a", "aac"), (".mp4", "aac"), (".mp3", "libmp3lame"),
                                           (".opus", "libopus")])
def test_compressed_songs_are_read_in_time(tmp_path, suffix, codec):
    rate = 48000
    t = np.arange(rate) / rate
    click = (np.exp(-((t - 0.5) / 0.002) ** 2) * np.sin(2 * np.pi * 1000 * t)).astype(np.float32)
    with av.open(str(tmp_path / f"s{suffix}"), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([click, click]), format="fltp", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    audio, read_rate = read_audio(tmp_path / f"s{suffix}")
    assert read_rate == rate and audio.shape[0] == 2
    # The burst stays within 3 ms of where it was: encoder priming is not part of the song.
    assert abs(np.abs(audio[0]).argmax() / rate - 0.5) < 0.003


def test_the_first_stream_of_a_stem_file_is_the_mix(corpus):
    path = corpus[0] / "train" / "Amber.stem.mp4"
    mix, rate = read_audio(path)
    with av.open(str(path)) as container:
        assert len(container.streams.audio) == 5
        stems = []
        for stream in range(1, 5):
            container.seek(0)
            frames = [f.to_ndarray() for f in container.decode(audio=stream)]
            stems.append(np.concatenate(frames, axis=1)[:, : mix.shape[1]])
    assert rate == 44100 and mix.shape[0] == 2
    error = mix - sum(s[:, : mix.shape[1]] for s in stems)
    assert 10 * np.log10(np.square(mix).mean() / np.square(error).mean()) > 10


@pytest.mark.parametrize("block", [7, 1000, 1 << 20])
def test_blocks_are_the_whole_file(corpus, block, tmp_path):
    for path in (corpus[1] / "fold1" / "100100-0-0-0.wav", corpus[0] / "train" / "Amber.stem.mp4"):
        if block == 7 and path.suffix == ".mp4":
            continue
        whole, _ = read_audio(path)
        with AudioReader(path) as reader:
            for _ in range(2):  # a second pass starts anew
                blocks = list(reader.blocks(block))
                assert all(b.shape[1] == block for b in blocks[:-1])
                assert np.array_equal(np.concatenate(blocks, axis=1), whole)


def test_resampling_keeps_a_tone():
    t = np.arange(48000) / 48000
    tone = np.sin(2 * np.pi * 1000 * t)[None].astype(np.float32)
    back = resample(resample(tone, 48000, 44100), 44100, 48000)
    assert back.shape == tone.shape
    assert np.abs(back - tone)[:, 500:-500].max() < 1e-4


@pytest.mark.parametrize("content", [b"", b"not audio at all" * 100, b"RIFF\x00\x00\x00\x00WAVEfmt "])
@pytest.mark.parametrize("suffix", [".wav", ".mp4", ".mp3"])
def test_a_corrupt_file_is_named(tmp_path, content, suffix):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(AudioError, match="bad"):
        read_audio(path)


def test_nan_and_emptiness_are_refused(tmp_path):
    sf.write(tmp_path / "nan.wav", np.array([0.0, np.nan, 0.0]), 44100, "FLOAT")
    sf.write(tmp_path / "empty.wav", np.zeros(0), 44100)
    with pytest.raises(AudioError, match=r"nan\.wav holds NaN"):
        read_audio(tmp_path / "nan.wav")
    with pytest.raises(AudioError, match=r"empty\.wav holds no samples"):
        read_audio(tmp_path / "empty.wav")


def test_missing_folders_and_files_are_wrong_calls(tmp_path):
    for wrong in (lambda: list_audio(tmp_path / "none"), lambda: list_audio(tmp_path),
                  lambda: read_audio(tmp_path / "no.wav"),
                  lambda: write_audio(tmp_path / "a.xyz", np.zeros((1, 1)), 8000)):
        with pytest.raises(CallError, match="expected"):
            wrong()


def test_an_interrupted_write_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), AudioWriter(tmp_path / "a.wav", 44100, 1) as writer:
        writer.write(np.zeros((1, 100)))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_16_bit_wav_is_what_libsndfile_writes(tmp_path, rng, channels):
    audio = (20000 * rng.uniform(-1, 1, (channels, 70_001))).astype(np.int16)
    write_audio(tmp_path / "ours.wav", audio, 48000, "PCM_16")
    assert sf.info(tmp_path / "ours.wav").subtype == "PCM_16"
    samples, rate = sf.read(tmp_path / "ours.wav", dtype="int16", always_2d=True)
    assert rate == 48000 and np.array_equal(samples.T, audio)
    sf.write(tmp_path / "theirs.wav", audio.T, 48000, "PCM_16")
    assert (tmp_path / "theirs.wav").read_bytes()[-audio.nbytes :] == (tmp_path / "ours.wav").read_bytes()[44:]
