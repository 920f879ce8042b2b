"""The stretch in which the noise is heard alone, on generated songs."""

import numpy as np
import pytest

from common.audio.reading import AudioReader
from common.audio.writing import write_audio
from common.demo import synth
from common.denoising.chunks import resampled
from common.denoising.print_finding import LEAST_SECONDS, find_noise
from common.network.stft import STFT

RATE = 44100


@pytest.fixture(scope="module")
def song():
    """12 s without a pause: chords, voice and drums from the first sample to the last."""
    return sum(stem.mean(0) for stem in synth.song(3, 14).values())[RATE : 13 * RATE]


def noise_of(kind, n):
    rng = np.random.default_rng(1)
    white = rng.standard_normal(n)
    if kind == "hiss":
        white = np.diff(white, prepend=0)
    if kind == "rumble":
        spectrum = np.fft.rfft(white)
        white = np.fft.irfft(spectrum / np.sqrt(1 + np.arange(len(spectrum))), n)
    if kind == "hum":
        t = np.arange(n) / RATE
        white = 0.3 * white + sum(np.sin(2 * np.pi * 50 * k * t) / k for k in range(1, 12))
    if kind == "ventilation":
        white = np.resize(synth.noise(0, 5, 4.0), n)
    return white / white.std()


def recording(song, where, kind="white", snr_db=12.0, seconds=1.5):
    """(samples,), and the seconds between which there is no music."""
    silence, alone = np.zeros(RATE), np.zeros(int(seconds * RATE))
    parts = {"start": [alone, song], "end": [song, alone], "pause": [song[: 5 * RATE], alone, song[5 * RATE :]],
             "after silence": [silence, alone, song], "before silence": [song, alone, silence]}[where]
    music = np.concatenate(parts)
    noisy = music + noise_of(kind, len(music)) * song.std() * 10 ** (-snr_db / 20)
    at = 0.0
    for part in parts:
        if part is silence:
            noisy[int(at * RATE) : int((at + 1) * RATE)] = 0
        if part is alone:
            first = at
        at += len(part) / RATE
    return noisy.astype(np.float32), (first, first + seconds)


WHERE = "start", "end", "pause", "after silence", "before silence"
NOISES = "white", "hiss", "rumble", "hum", "ventilation"


@pytest.mark.parametrize("where, kind, snr_db, seconds",
                         [(where, "white", 12, 1.5) for where in WHERE] + [("start", kind, 12, 1.5) for kind in NOISES]
                         + [("end", "hiss", snr_db, 1.5) for snr_db in (3, 8, 25, 40)]
                         + [("pause", "white", 12, seconds) for seconds in (0.7, 1.0, 3.0)])
def test_noise_alone_is_found(song, where, kind, snr_db, seconds):
    audio, (first, last) = recording(song, where, kind, snr_db, seconds)
    start, end = find_noise([audio[None]], STFT())
    assert end - start >= LEAST_SECONDS
    # A window that touches the music by a frame may still look like noise.
    assert start > first - 0.05 and end < last + 0.05


def faded(song, seconds):
    n = int(seconds * RATE)
    return np.concatenate([song[:n] * np.linspace(0, 1, n) ** 2, song[n:]])


NO_NOISE = {
    "a song": lambda song: song, "with noise": lambda song: recording(song, "end")[0][: len(song)],
    "after silence": lambda song: np.concatenate([np.zeros(RATE), song]),
    "a fade-in": lambda song: faded(song, 2), "a fade-out": lambda song: faded(song[::-1], 3)[::-1],
    "a quiet start": lambda song: np.concatenate([0.1 * song[: 3 * RATE], song[3 * RATE :]]),
    "noise alone": lambda song: noise_of("white", 3 * RATE), "silence": lambda song: np.zeros(3 * RATE),
    "silence inside": lambda song: np.concatenate([song[: 4 * RATE], np.zeros(RATE), song[4 * RATE :]]),
    "a tone": lambda song: np.sin(np.arange(4 * RATE) / 20), "less than a window": lambda song: song[:20000],
    "one sample": lambda song: song[:1], "nothing": lambda song: song[:0],
    "a click": lambda song: np.eye(1, 2 * RATE)[0],
}


@pytest.mark.parametrize("make", NO_NOISE.values(), ids=NO_NOISE)
def test_nothing_is_found_where_no_noise_is_alone(song, make):
    assert find_noise([make(song).astype(np.float32)[None]], STFT()) is None


@pytest.mark.parametrize("gain_db", [-40, 20])
@pytest.mark.parametrize("block", [997, 44100])
def test_neither_level_nor_blocks_nor_hop_count(song, gain_db, block):
    audio = recording(song, "after silence")[0] * np.float32(10 ** (gain_db / 20))
    blocks = [np.stack([audio[i : i + block], -0.5 * audio[i : i + block]]) for i in range(0, len(audio), block)]
    plain = find_noise([recording(song, "after silence")[0][None]], STFT())
    assert find_noise(blocks, STFT()) == plain == find_noise(blocks, STFT(hop_length=1024))


@pytest.mark.parametrize("suffix, rate", [(".mp3", 44100), (".m4a", 48000), (".ogg", 22050)])
def test_a_codecs_silence_is_passed_over(song, tmp_path, suffix, rate):
    audio, (first, last) = recording(song, "after silence")
    write_audio(tmp_path / f"a{suffix}", np.concatenate(list(resampled([0.5 * audio[None]], RATE, rate)), 1), rate)
    with AudioReader(tmp_path / f"a{suffix}") as reader:
        start, end = find_noise(resampled(reader.blocks(rate), rate, RATE), STFT())
    assert first - 0.05 < start < end < last + 0.05
