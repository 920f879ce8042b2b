"""A noise print for every segment of a set: another stretch of the segment's noise, at the same gain.

The print comes from the rest of the noise's clip, or from another clip of the same recording and class, and shares no
sample with the segment. UrbanSound8K's slices of a recording overlap, so that the segment's stretch is excluded from
neighbouring slices too. White noise is drawn anew. SET/<condition>/print/ holds the prints, named like their pairs, and
a manifest; a segment whose recording has too little noise left has no print.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from common.audio.reading import resample
from common.audio.signals import MIN_SIGNAL_RMS, RECORDINGS, GaussianNoise, with_channels
from common.data.manifest import MANIFEST, file_sha256, read_manifest
from common.data.noises import NoiseClip, parse_clip
from common.data.pairs import PRINT_FOLDER
from common.data.segments import segment_length
from common.labels import WHITE
from common.network.noise_print import TEST_PRINT_SECONDS
from common.network.stft import SAMPLE_RATE
from common.seeds import stream
from common.small_files import write_csv

# Shortest print.
SHORTEST_SECONDS = 0.5
# Distance between a print and the segment's stretch: resampling smears a sample over a few milliseconds.
GUARD_SECONDS = 0.05
PRINT_COLUMNS = ("pair_id", "source", "start_seconds", "seconds", "print_file", "print_sha256")


def held_stretches(row: dict, n_samples: int) -> list[tuple[int, int]]:
    """Return the stretches of the noise's clip in a segment, as (first, end) samples; two where the clip wraps around.

    row: a row of the segments' manifest; n_samples: length of the clip; both at the song's rate.
    """
    rate = int(row["sample_rate"])
    length = segment_length(rate)
    if length >= n_samples:
        return [(0, n_samples)]
    first = (int(row["input_noise_offset"]) + round(float(row["start_seconds"]) * rate)) % n_samples
    end = first + length
    return [(first, end)] if end <= n_samples else [(first, n_samples), (0, end - n_samples)]


def longest_free(n_samples: int, held: Sequence[tuple[int, int]], guard: int) -> tuple[int, int]:
    """Return the longest stretch (first, end) of `n_samples` that is `guard` samples away from every held one."""
    free, first = [], 0
    for begin, end in [*sorted(held), (n_samples + guard, n_samples + guard)]:
        free.append((first, min(begin - guard, n_samples)))
        first = max(first, end + guard)
    return max(free, key=lambda stretch: stretch[1] - stretch[0])


def _sources(own: NoiseClip, clips: Sequence[NoiseClip]) -> list[NoiseClip]:
    """Return the clip and the others of its recording and class, nearest first."""
    def distance(clip):
        occurrence, seconds = clip.place
        return occurrence != own.place[0], abs(seconds - own.place[1]), occurrence, seconds
    others = [clip for clip in clips if own.place and clip.name != own.name
              and (clip.recording, clip.class_id) == (own.recording, own.class_id)]
    return [own, *sorted(others, key=distance)]


def _stretch(row, own, clip, held):
    """Return the longest print from a clip, (channels, samples) at the song's rate without gain, and its first sample.

    The print is empty where nothing of the clip is left, or only silence.
    """
    rate = int(row["sample_rate"])
    recording = with_channels(RECORDINGS.get(clip.path, rate), int(row["channels"]))
    if clip is not own:
        shift = round((own.place[1] - clip.place[1]) * rate)
        held = [(first + shift, end + shift) for first, end in held if clip.place[0] == own.place[0]]
    first, end = longest_free(recording.shape[-1], held, round(GUARD_SECONDS * rate))
    piece = recording[:, first : max(first, min(end, first + round(TEST_PRINT_SECONDS * rate)))]
    piece = piece - recording.mean(axis=-1, keepdims=True)
    return piece if piece.size and np.sqrt(np.square(piece).mean()) > MIN_SIGNAL_RMS else piece[:, :0], first


def _longest(row, own, clips):
    """Return (print, first sample, clip) of the longest print, from the nearest clip of several; None without any."""
    rate = int(row["sample_rate"])
    held = held_stretches(row, RECORDINGS.get(own.path, rate).shape[-1])
    best, n_best = None, round(SHORTEST_SECONDS * rate) - 1
    for clip in _sources(own, clips):
        piece, first = _stretch(row, own, clip, held)
        if piece.shape[-1] > n_best:
            best, n_best = (piece, first, clip), piece.shape[-1]
        if n_best == round(TEST_PRINT_SECONDS * rate):
            break
    return best


def segment_print(row: dict, clips: Sequence[NoiseClip], noises: str | Path) -> tuple[np.ndarray, dict] | None:
    """Return the print of a segment, (channels, samples) at SAMPLE_RATE, and its source, start_seconds and seconds.

    row: a row of the segments' manifest; clips: all clips, to find others of the recording; noises: the folder to which
    the manifest's noises are relative. None where no clip has a stretch of SHORTEST_SECONDS with signal.
    """
    rate = int(row["sample_rate"])
    if row["input_white_seed"]:
        seed = int(stream(int(row["input_white_seed"]), "noise print").integers(2**63))
        n_samples = round(TEST_PRINT_SECONDS * rate)
        piece = next(GaussianNoise(seed, int(row["channels"]), n_samples, n_samples).blocks())
        first, source = 0, WHITE
    else:
        found = _longest(row, parse_clip(Path(noises) / row["input_noise"], 0), clips)
        if found is None:
            return None
        piece, first, clip = found
        source = Path(os.path.relpath(clip.path, noises)).as_posix()
    piece = piece * np.float32(float(row["gain"]) * float(row["input_scale"]))
    columns = {"source": source, "start_seconds": f"{first / rate:.3f}", "seconds": f"{piece.shape[-1] / rate:.3f}"}
    return resample(piece, rate, SAMPLE_RATE), columns


def build_prints(condition: str | Path, clips: Sequence[NoiseClip], noises: str | Path) -> list[dict]:
    """Write `condition`/print for the segments of `condition`/input unless it exists; returns its manifest's rows.

    clips, noises: see segment_print. A segment without a print has no row.
    """
    folder = Path(condition) / PRINT_FOLDER
    if not folder.is_dir():
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        rows = []
        for row in read_manifest(Path(condition) / "input"):
            found = segment_print(row, clips, noises)
            if found:
                name = row["input_file"].replace("INPUT", "PRINT", 1)
                # Floats, since a print may pass full scale. libsndfile would write the time into such a file.
                wavfile.write(partial / name, SAMPLE_RATE, found[0].T.astype(np.float32))
                rows.append({"pair_id": row["pair_id"], **found[1], "print_file": name,
                             "print_sha256": file_sha256(partial / name)})
        write_csv(partial / MANIFEST, rows, PRINT_COLUMNS)
        os.replace(partial, folder)
    return read_manifest(folder)
