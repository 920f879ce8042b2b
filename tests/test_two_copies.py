"""Two noisy copies of one performance: alignment, pairs, refusals, and the improvement against a second copy."""

import json

import numpy as np
import pytest
import soxr
from scipy.ndimage import map_coordinates
from scipy.signal import lfilter

from common.audio.reading import read_audio
from common.audio.writing import write_audio
from common.data import alignment, copy_matching
from common.data.couple import align
from common.data.pairs import pairs_in
from common.data.two_copies import build
from common.demo import synth
from common.errors import UserError
from common.evaluation import second_copy
from common.training.pair_batches import pair_sources
from tests.conftest import measured_snr_db

RATE, SECONDS = 44100, 40


@pytest.fixture(scope="module")
def song():
    return sum(synth.song(4, SECONDS).values()).astype(np.float64)


def delay(seconds, start, ppm, drift_ppm_per_minute=0.0):
    return start + 1e-6 * ppm * seconds + 0.5e-6 / 60 * drift_ppm_per_minute * seconds**2


def played(song, start, ppm, drift=0.0):
    """The song as copy B has it: what A has at t is at t + delay(t)."""
    times = np.arange(int(song.shape[1] + RATE * max(0, start))) / RATE
    in_a = times - start
    for _ in range(6):
        in_a = times - delay(in_a, start, ppm, drift)
    fine = soxr.resample(song.T, RATE, 2 * RATE).T
    return np.stack([map_coordinates(channel, [in_a * 2 * RATE], order=5) for channel in fine])


def noisy(song, snr_db, seed, class_id=None):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(song.shape)
    if class_id is not None:
        clip = synth.noise(class_id, seed, 4.0)[0]
        noise = np.tile(clip, -(-song.shape[1] // len(clip)))[None, : song.shape[1]].repeat(len(song), 0)
    return song + noise * np.sqrt(np.square(song).mean() / np.square(noise).mean() / 10 ** (snr_db / 10))


def write(path, audio):
    write_audio(path, (0.3 * audio).astype(np.float32), RATE)
    return path


@pytest.mark.parametrize("start, ppm, drift, snr_db, classes", [
    (1.0, 1000, 0, 10, (None, None)), (-7.3, -450, 200, 15, (0, 5)), (12.0, 30, -200, 10, (None, 7))])
def test_the_delay_is_followed_to_a_fraction_of_a_sample(song, start, ppm, drift, snr_db, classes):
    copies = noisy(song, snr_db, 1, classes[0]), -0.4 * noisy(played(song, start, ppm, drift), snr_db, 2, classes[1])
    curve, delays, wow = alignment.follow(*(soxr.resample(x.mean(0).astype(np.float32), RATE, alignment.ANALYSIS_RATE)
                                            for x in copies))
    times = np.linspace(delays.seconds[0], delays.seconds[-1], 200)
    error = RATE * (curve(times) - delay(times, start, ppm, drift))
    assert np.sqrt(np.square(error).mean()) < 0.1 and wow * RATE < 0.3


def test_the_filter_gives_back_level_polarity_and_equalisation(song):
    tilted = -0.3 * lfilter([1, -0.6], [1], song)
    first, second = noisy(song, 10, 1), noisy(tilted, 10, 2)
    length = copy_matching.BLOCK_SAMPLES + copy_matching.OVERLAP
    blocks = ((first[:, at : at + length], second[:, at : at + length])
              for at in range(0, song.shape[1] - length, copy_matching.BLOCK_SAMPLES))
    taps = copy_matching.matching_filter(copy_matching.measure(blocks, RATE))
    pieces = [tilted[:, :50_001], tilted[:, 50_001:50_100], tilted[:, 50_100:]]
    back = np.concatenate(list(copy_matching.filtered(pieces, taps)), axis=1)
    assert back.shape == song.shape
    inner = slice(4096, -4096)
    assert measured_snr_db(song[:, inner], (back - song)[:, inner]) > 30


def test_two_tapes_become_pairs_in_both_directions(song, tmp_path):
    first, second = (tmp_path / f"{name}.wav" for name in "ab")
    write(first, noisy(song, 15, 1))
    write(second, noisy(played(0.5 * song.mean(0, keepdims=True), 2.0, 200), 12, 2, class_id=0))
    build([(first, second)], tmp_path / "set")
    source, validation = pair_sources(tmp_path / "set" / "train", tmp_path / "set" / "validation")
    assert len(source.pairs) == 2 and len(validation.pairs) == 2
    assert not source.clean_target and all(pair.noisy_target for pair in validation.pairs)
    there, back = source.pairs
    (a, rate), (b, _) = read_audio(there.input), read_audio(there.target)
    assert np.array_equal(read_audio(back.input)[0], b) and np.array_equal(read_audio(back.target)[0], a)
    assert rate == RATE and len(a) == 1 and 24 < a.shape[1] / rate < 32
    start = float(there.row["start_seconds"])
    clean = 0.3 * float(there.row["gain"]) * song.mean(0)[round(start * RATE) :][: a.shape[1]]
    assert measured_snr_db(clean, a[0] - clean) == pytest.approx(18, abs=1)  # 15 dB in each of two channels
    assert measured_snr_db(clean, b[0] - clean) == pytest.approx(12, abs=1)  # at A's level, in A's time
    report = json.loads(next((tmp_path / "set" / "reports").glob("*.json")).read_text())
    assert report["speed_difference_ppm"] == pytest.approx(200, abs=1)
    assert next((tmp_path / "set" / "reports").glob("*.png")).stat().st_size > 10_000


@pytest.mark.parametrize("change", ["cut of 1000 samples", "silence"])
def test_what_only_one_copy_has_is_left_out(song, tmp_path, change):
    mono, at = song.mean(0, keepdims=True), 17 * RATE
    second = noisy(mono, 15, 2)
    if change == "silence":
        second[:, at : at + 3 * RATE] = 0
    else:
        second = np.delete(second, np.arange(at, at + 1000), axis=1)
    build([(write(tmp_path / "a.wav", noisy(mono, 15, 1)), write(tmp_path / "b.wav", second))], tmp_path / "set")
    pairs = [pair for split in ("train", "validation") for pair in pairs_in(tmp_path / "set" / split)]
    assert len(pairs) == 6
    for pair in pairs[::2]:
        target = read_audio(pair.target)[0]
        clean = 0.3 * float(pair.row["gain"]) * mono[:, round(float(pair.row["start_seconds"]) * RATE) :]
        clean = clean[:, : target.shape[1]]
        assert measured_snr_db(clean, target - clean) == pytest.approx(15, abs=1.5)


def test_what_cannot_teach_is_refused_in_one_sentence(song, tmp_path):
    first = write(tmp_path / "a.wav", noisy(song, 15, 1))
    copy = write(tmp_path / "b.mp3", noisy(song, 15, 1))
    other = write(tmp_path / "c.wav", noisy(sum(synth.song(9, SECONDS).values()), 15, 3))
    times = np.arange(song.shape[1]) / RATE
    wobbling = times + 2e-4 * np.sin(2 * np.pi * times)
    wobbling = np.stack([map_coordinates(channel, [wobbling * RATE], order=5) for channel in song])
    wow = write(tmp_path / "d.wav", noisy(wobbling, 15, 4))
    silent = write(tmp_path / "e.wav", np.zeros((1, RATE)))
    for second, words in ((copy, "the same noise"), (other, "too little in common"), (wow, "wow"),
                          (silent, "at least 16 s with sound")):
        with pytest.raises(UserError, match=words):
            align(first, second)
    with pytest.raises(UserError):
        build([(first, copy)], tmp_path / "set")
    assert not list((tmp_path / "set").iterdir())


def test_the_improvement_against_a_second_copy_is_the_true_one(song):
    first, second = noisy(song, 8, 1), noisy(song, 8, 2)
    noise = first - song
    for left in (0.3, 0.9, 1.2):
        denoised = 0.98 * song + left * noise
        cut = [x.reshape(2, 20, -1).transpose(1, 0, 2) for x in (first, denoised, second)]
        sums = np.array([second_copy.products(*parts) for parts in zip(*cut, strict=True)])
        truth = measured_snr_db(song, denoised - song) - measured_snr_db(song, noise)
        low, high = second_copy.interval_db(sums)
        assert second_copy.improvement_db(sums) == pytest.approx(truth, abs=0.1)
        assert low - 0.05 < truth < high + 0.05 and high - low < 1
