"""A print and its segment share the noise and its gain, and no sample."""

import shutil

import numpy as np
import pytest
from scipy.signal import fftconvolve

from common.audio.reading import read_audio, resample
from common.audio.signals import RECORDINGS, LoopedNoise
from common.audio.writing import write_audio
from common.data.manifest import MANIFEST
from common.data.noises import parse_clip
from common.data.pairs import pairs_in
from common.evaluation import frozen_prints as evaluation_prints
from common.evaluation.frozen_prints import GUARD_SECONDS, build_prints, longest_free, segment_print
from common.network.noise_print import TEST_PRINT_SECONDS
from common.network.stft import SAMPLE_RATE, SEGMENT_SAMPLES
from common.small_files import write_csv

SEGMENT_SECONDS = SEGMENT_SAMPLES / SAMPLE_RATE
FACTOR = {"gain": "0.5", "input_scale": "0.3"}


def _row(noise, rate=SAMPLE_RATE, channels=1, song_seconds=20.0, start_seconds=8.0, offset_seconds=0.0):
    """What a segment's manifest says of its noise."""
    return FACTOR | {"pair_id": "S1N1G1", "input_file": f"INPUT-S1N1G1-({noise})-(song).wav", "sample_rate": str(rate),
                     "channels": str(channels), "samples": str(round(song_seconds * rate)),
                     "start_seconds": str(start_seconds), "input_noise": noise, "input_white_seed": "",
                     "input_noise_offset": str(round(offset_seconds * rate))}


@pytest.fixture
def recording(tmp_path, rng):
    """Write stretches of one long recording of white noise, given as {name: (first second, seconds)}; all clips."""
    whole = (0.1 * rng.standard_normal((1, 60 * SAMPLE_RATE))).astype(np.float32)

    def write(clips, rate=SAMPLE_RATE, channels=1):
        for name, (first, seconds) in clips.items():
            piece = whole[:, round(first * SAMPLE_RATE) : round((first + seconds) * SAMPLE_RATE)]
            write_audio(tmp_path / name, np.repeat(resample(piece, SAMPLE_RATE, rate), channels, 0), rate, "FLOAT")
        return whole, [parse_clip(tmp_path / name, 0) for name in sorted(clips)]
    return write


def _place(whole, noise, rate):
    """The second of the recording that a stretch of it begins with, and the share of it that is found there."""
    noise = resample(noise[:1], rate, SAMPLE_RATE)[0]
    noise = noise / np.linalg.norm(noise)
    found = fftconvolve(whole[0], noise[::-1], mode="valid")
    place = int(found.argmax())
    return place / SAMPLE_RATE, found[place] / np.linalg.norm(whole[0, place : place + len(noise)])


def _heard(row, root, first_second):
    """Seconds of the recording that the segment holds, by looping the clip as the mixing law does."""
    rate = int(row["sample_rate"])
    clip = np.arange(RECORDINGS.get(root / row["input_noise"], rate).shape[-1])
    looped = np.resize(np.roll(clip, -int(row["input_noise_offset"])), int(row["samples"]))
    start = round(float(row["start_seconds"]) * rate)
    return first_second + np.unique(looped[start : start + round(SEGMENT_SECONDS * rate)]) / rate


OWN = {"9-8-0-10.wav": (20.0, 12.0)}
SLICES = {f"9-8-0-{k}.wav": (20 + 2 * k, 4.0) for k in (0, 1, 2, 3, 4, 5, 8, 15)}
CASES = {  # clips, the segment's noise, settings of its row, seconds of the print (0: none), its source
    "rest of the clip": (OWN, "9-8-0-10.wav", {}, 1.5, "9-8-0-10.wav"),
    "a segment that wraps around": (OWN, "9-8-0-10.wav", {"offset_seconds": 10.0, "start_seconds": 12.5}, 1.5, None),
    "the middle is held": ({"a.wav": (3.0, 7.0)}, "a.wav", {"start_seconds": 16.0}, 1.5, "a.wav"),
    "a song that is shorter than the clip": (OWN, "9-8-0-10.wav", {"song_seconds": 6.0, "start_seconds": 1.0,
                                                                   "offset_seconds": 9.0}, 1.5, None),
    "a rest of less than 1.5 s": ({"a.wav": (3.0, 4.8)}, "a.wav", {"start_seconds": 0.0}, 4.8 - SEGMENT_SECONDS
                                  - GUARD_SECONDS, "a.wav"),
    "a rest of less than 0.5 s": ({"a.wav": (3.0, 4.2)}, "a.wav", {}, 0, None),
    "a clip shorter than the segment": ({"a.wav": (3.0, 1.0)}, "a.wav", {}, 0, None),
    "the next slice": (SLICES, "9-8-0-0.wav", {"start_seconds": 0.0}, 1.5, "9-8-0-1.wav"),
    "an earlier slice": (SLICES, "9-8-0-15.wav", {}, 1.5, "9-8-0-8.wav"),
    "slices on both sides": ({k: SLICES[k] for k in ("9-8-0-2.wav", "9-8-0-3.wav", "9-8-0-4.wav")}, "9-8-0-3.wav",
                             {"offset_seconds": 1.0}, 1.5, "9-8-0-2.wav"),
    "a slice that holds hardly more": ({"9-8-0-0.wav": (20.0, 4.0), "9-8-0-1.wav": (22.0, 2.2)}, "9-8-0-0.wav",
                                       {"start_seconds": 0.0}, 0, None),
    "another occurrence": ({"9-8-0-0.wav": (20.0, 2.0), "9-8-1-0.wav": (30.0, 0.4), "9-8-2-0.wav": (40.0, 0.8)},
                           "9-8-0-0.wav", {}, 0.8, "9-8-2-0.wav"),
    "another class or recording": ({"9-8-0-0.wav": (20.0, 2.0), "9-5-1-0.wav": (30.0, 4.0), "7-8-1-0.wav": (40.0, 4.0)},
                                   "9-8-0-0.wav", {}, 0, None),
    "other rates": (OWN, "9-8-0-10.wav", {"rate": 48000, "offset_seconds": 3.0}, 1.5, None),
    "stereo": (OWN, "9-8-0-10.wav", {"channels": 2}, 1.5, None),
}


@pytest.mark.parametrize("clip_rate, clip_channels", [(SAMPLE_RATE, 1), (SAMPLE_RATE, 2), (32000, 1)])
@pytest.mark.parametrize("case", CASES)
def test_a_print_shares_no_sample_with_its_segment(recording, tmp_path, case, clip_rate, clip_channels):
    clips, noise, settings, seconds, source = CASES[case]
    whole, found = recording(clips, clip_rate, clip_channels)
    row = _row(noise, **settings)
    made = segment_print(row, found, tmp_path)
    if not seconds:
        assert made is None
        return
    audio, columns = made
    assert audio.shape == (int(row["channels"]), pytest.approx(seconds * SAMPLE_RATE, abs=10))
    assert source in (None, columns["source"]) and float(columns["seconds"]) == pytest.approx(seconds, abs=1e-3)
    place, share = _place(whole, audio, SAMPLE_RATE)
    assert share > 0.75  # resampling takes the top of white noise
    assert place == pytest.approx(clips[columns["source"]][0] + float(columns["start_seconds"]), abs=2e-3)
    held = _heard(row, tmp_path, clips[noise][0])
    apart = np.abs(np.clip(held, place, place + audio.shape[1] / SAMPLE_RATE) - held).min()
    assert apart > GUARD_SECONDS / 2
    # The same factor from the recording's samples to those of print and segment.
    noise_there = LoopedNoise(RECORDINGS.get(tmp_path / noise, int(row["sample_rate"])), 1, int(row["samples"]),
                              int(row["input_noise_offset"]), int(row["sample_rate"]))
    expected = noise_there.power * (0.5 * 0.3) ** 2
    assert np.square(audio).mean() == pytest.approx(expected, rel=0.15 if int(row["sample_rate"]) == 48000 else 0.05)


def test_slices_are_told_apart_from_where_they_overlap(recording, tmp_path):
    """What a neighbour holds beyond the segment is a print, if only just: the slices' own times decide."""
    whole, found = recording({"9-8-0-0.wav": (20.0, 4.0), "9-8-0-1.wav": (22.0, 3.0)})
    audio, columns = segment_print(_row("9-8-0-0.wav", start_seconds=0.0), found, tmp_path)
    assert columns["source"] == "9-8-0-1.wav"
    assert _place(whole, audio, SAMPLE_RATE)[0] == pytest.approx(20 + SEGMENT_SECONDS + GUARD_SECONDS, abs=1e-3)
    assert audio.shape[1] / SAMPLE_RATE == pytest.approx(5 - SEGMENT_SECONDS - GUARD_SECONDS, abs=1e-3)


def test_a_print_may_pass_full_scale(recording, tmp_path):
    _, found = recording({"9-8-0-0.wav": (20.0, 8.0)})
    row = _row("9-8-0-0.wav") | {"input_scale": "30"}
    (tmp_path / "c/input").mkdir(parents=True)
    write_csv(tmp_path / "c/input" / MANIFEST, [row])
    made = build_prints(tmp_path / "c", found, tmp_path)
    audio, _ = read_audio(tmp_path / "c/print" / made[0]["print_file"])
    assert np.abs(audio).max() > 2 and np.array_equal(audio, segment_print(row, found, tmp_path)[0])


def test_silence_is_no_print(recording, tmp_path):
    _, found = recording({"9-8-0-0.wav": (20.0, 2.0), "9-8-1-0.wav": (40.0, 4.0)})
    write_audio(tmp_path / "9-8-1-0.wav", np.zeros((1, 4 * SAMPLE_RATE), np.float32), SAMPLE_RATE)
    assert segment_print(_row("9-8-0-0.wav"), found, tmp_path) is None


@pytest.mark.parametrize("n, held, expected", [
    (100, [(0, 100)], 0), (100, [], (0, 100)), (100, [(40, 50)], (52, 100)), (100, [(50, 60)], (0, 48)),
    (100, [(90, 100), (0, 30)], (32, 88)), (100, [(0, 30), (20, 40)], (42, 100)), (100, [(-50, -10)], (0, 100)),
    (100, [(150, 190)], (0, 100)), (100, [(-20, 40)], (42, 100)), (100, [(101, 190)], (0, 99))])
def test_the_longest_free_stretch(n, held, expected):
    first, end = longest_free(n, held, 2)
    assert (first, end) == expected if expected else end <= first


@pytest.mark.parametrize("rate, channels", [(44100, 1), (48000, 2), (22050, 1)])
def test_white_noise_is_drawn_anew_at_its_level(rate, channels):
    row = _row("white", rate, channels) | {"input_white_seed": str(2**62 + 5)}
    audio, columns = segment_print(row, [], ".")
    assert audio.shape == (channels, round(TEST_PRINT_SECONDS * SAMPLE_RATE)) and columns["source"] == "white"
    band = min(1, SAMPLE_RATE / rate)  # what resampling leaves of its power
    assert 10 * np.log10(np.square(audio).mean() / (0.15**2 * band)) == pytest.approx(0, abs=0.4)
    assert np.array_equal(audio, segment_print(row, [], ".")[0])
    other = segment_print(row | {"input_white_seed": "7"}, [], ".")[0]
    own = np.random.default_rng(2**62 + 5).standard_normal((channels, round(20 * rate)), dtype=np.float32)
    for signal in (other, resample(own[:, : 2 * rate], rate, SAMPLE_RATE)[:, : audio.shape[1]]):
        assert abs(np.corrcoef(audio[0], signal[0])[0, 1]) < 0.03


def test_a_set_has_prints_where_it_can(recording, tmp_path, monkeypatch):
    """Files that pair with their segments, in a folder that is whole or not there."""
    _, found = recording({"9-8-0-0.wav": (20.0, 8.0), "9-4-0-0.wav": (2.0, 3.0)})
    rows = [_row("9-8-0-0.wav"), _row("9-4-0-0.wav") | {"pair_id": "S1N2G1",
                                                      "input_file": "INPUT-S1N2G1-(9-4-0-0)-(song).wav"}]
    write_audio(tmp_path / "c/target/TARGET-S1N1G1-(CLEAN)-(song).wav", np.zeros((1, 9), np.float32), SAMPLE_RATE)
    write_audio(tmp_path / "c/target/TARGET-S1N2G1-(CLEAN)-(song).wav", np.zeros((1, 9), np.float32), SAMPLE_RATE)
    for row in rows:
        write_audio(tmp_path / "c/input" / row["input_file"], np.zeros((1, 9), np.float32), SAMPLE_RATE)
    write_csv(tmp_path / "c/input" / MANIFEST, [row | {"song": "song", "target_noise": "CLEAN"} for row in rows])
    assert [pair.noise_print for pair in pairs_in(tmp_path / "c")] == [None, None]
    with monkeypatch.context() as broken:
        broken.setattr(evaluation_prints, "write_csv", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_prints(tmp_path / "c", found, tmp_path)
    assert not (tmp_path / "c/print").exists()
    made = build_prints(tmp_path / "c", found, tmp_path)
    assert [row["pair_id"] for row in made] == ["S1N1G1"]
    with_print, without = pairs_in(tmp_path / "c")
    assert without.noise_print is None and with_print.noise_print.name == made[0]["print_file"]
    audio, rate = read_audio(with_print.noise_print)
    expected, _ = segment_print(rows[0], found, tmp_path)
    assert rate == SAMPLE_RATE and np.array_equal(audio, expected)
    shutil.rmtree(tmp_path / "c/print")
    assert build_prints(tmp_path / "c", found, tmp_path) == made  # the same bytes
    monkeypatch.setattr(evaluation_prints, "segment_print", None)  # what is there is kept
    assert build_prints(tmp_path / "c", found, tmp_path) == made
