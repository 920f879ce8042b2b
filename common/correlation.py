"""How alike the audio files of two folders are, and whether the noises of their pairs are independent."""

import csv
import os
import re
from pathlib import Path

import numpy as np
from scipy.signal import correlate

from common.audio import AudioError, audio_name, list_audio, read_audio, resample
from common.errors import CallError, UserError
from common.merging import read_manifest

MAX_LAG_SECONDS = 1.0
# A lag is searched at this rate: the noises of a pair are broadband, and a whole song has to fit in memory.
LAG_RATE = 11025
COLUMNS = ("file1", "file2", "pearson", "peak_correlation", "peak_lag_seconds", "log_spectrum_correlation",
           "noise_correlation")


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two arrays of one size; NaN when one is constant."""
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norm) if norm else float("nan")


def peak_correlation(a: np.ndarray, b: np.ndarray, sample_rate: int) -> tuple[float, float]:
    """The largest |normalised cross-correlation| of two (samples,) within MAX_LAG_SECONDS, signed, and its lag in s.

    A positive lag means that `a` comes later than `b`.
    """
    a, b = a - a.mean(), b - b.mean()
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    if not norm:
        return float("nan"), float("nan")
    full = correlate(a, b, "full", "fft") / norm
    lags = np.arange(-len(b) + 1, len(a)) / sample_rate
    near = np.abs(lags) <= MAX_LAG_SECONDS
    best = np.abs(full[near]).argmax()
    return float(full[near][best]), float(lags[near][best])


def log_spectrum_correlation(a: np.ndarray, b: np.ndarray, n_fft: int = 2048) -> float:
    """Pearson correlation of the log magnitudes of two (samples,), frame by frame without overlap."""
    whole = len(a) // n_fft * n_fft
    if not whole:
        return float("nan")
    window = np.hanning(n_fft)
    spectra = [np.log(np.abs(np.fft.rfft(x[:whole].reshape(-1, n_fft) * window)) + 1e-6) for x in (a, b)]
    return pearson(*spectra)


def _matched(dir1, dir2):
    """Couples of files: by what follows INPUT- or TARGET- up to the first bracket, else by name."""
    def key(path):
        pair = re.match(r"(?:INPUT|TARGET)-(S\d+N\d+(?:G\d+)?)-", path.name)
        return pair[1] if pair else audio_name(path)

    first, second = ({key(p): p for p in list_audio(d)} for d in (dir1, dir2))
    shared = [k for k in first if k in second]
    if not shared:
        raise CallError(f"expected files of the same pairs or names in {dir1} and {dir2}, but none match: give an "
                        "input and a target folder")
    return [(first[k], second[k]) for k in shared]


def _noise_correlation(row, audio1, audio2, rate):
    """Correlation of what is left of both members without the song; NaN when a target is clean or the song is gone."""
    if not row or not row["target_noise_class"] or row.get("start_seconds") or not Path(row["song"]).is_file():
        return float("nan")
    song, song_rate = read_audio(row["song"])
    song = resample(song, song_rate, rate) * float(row["gain"])
    if song.shape != audio1.shape:
        return float("nan")
    return pearson(audio1 - song, audio2 - song)


def correlate_folders(dir1: str | Path, dir2: str | Path) -> list[dict]:
    """One row of COLUMNS for every couple of files; the shorter length of the two counts.

    noise_correlation needs a merger's manifest in `dir1` and the songs it names, else it is NaN.
    """
    manifest = {row["input_file"]: row for row in read_manifest(dir1)}
    rows = []
    for path1, path2 in _matched(dir1, dir2):
        (audio1, rate), (audio2, rate2) = read_audio(path1), read_audio(path2)
        if rate2 != rate or len(audio2) != len(audio1):
            raise AudioError(f"expected one sample rate and channel count, but {path1} has {rate} Hz x {len(audio1)} "
                             f"and {path2} {rate2} Hz x {len(audio2)}: convert one of them")
        n = min(audio1.shape[1], audio2.shape[1])
        audio1, audio2 = audio1[:, :n], audio2[:, :n]
        mono1, mono2 = audio1.mean(axis=0), audio2.mean(axis=0)
        slow = [resample(x[None], rate, LAG_RATE)[0] for x in (mono1, mono2)]
        peak, lag = peak_correlation(*slow, LAG_RATE)
        rows.append({"file1": path1.name, "file2": path2.name, "pearson": pearson(audio1, audio2),
                     "peak_correlation": peak, "peak_lag_seconds": lag,
                     "log_spectrum_correlation": log_spectrum_correlation(mono1, mono2),
                     "noise_correlation": _noise_correlation(manifest.get(path1.name), audio1, audio2, rate)})
    return rows


def write_table(rows: list[dict], path: str | Path) -> str:
    """Write the rows as CSV, whole or not at all; returns a summary in a few lines."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"expected an output file, but {path} is a folder: name a .csv file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)
    lines = [f"{len(rows)} couples of files, table in {path}"]
    for column in ("pearson", "peak_correlation", "log_spectrum_correlation", "noise_correlation"):
        values = np.array([row[column] for row in rows])
        values = values[np.isfinite(values)]
        if len(values):
            lines.append(f"{column}: mean {values.mean():+.4f}, largest magnitude {np.abs(values).max():.4f} "
                         f"(n = {len(values)})")
    return "\n".join(lines)
