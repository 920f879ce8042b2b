"""How much the members of pairs correlate, and whether their two noises are independent, as Noise2Noise needs.

The members share their song and correlate in any case, which hides the correlation of their noises. With a merger's
manifest the noises are made again and compared alone.
"""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import joblib
import numpy as np
from scipy import fft
from tqdm import tqdm

from common.audio.reading import AudioReader, audio_name, list_audio
from common.audio.signals import pieces
from common.data.manifest import CLEAN, Sources, number_in, read_manifest
from common.data.pairs import pair_key
from common.errors import AudioError, CallError, UnusableError, UserError, one_of_many
from common.small_files import write_csv, write_text
from common.workers import worker_processes

log = logging.getLogger(__name__)

MAX_LAG_SECONDS = 0.05
BLOCK_SAMPLES = 1 << 16
# Classes of |r| and their lower ends.
CLASSES = (("near zero", 0.0), ("low", 0.1), ("medium", 0.5), ("high", 0.8))
# peak_correlation: the largest cross-correlation (in magnitude) within MAX_LAG_SECONDS; peak_lag_seconds: its lag,
# positive when file1 comes later. noise_correlation: correlation of the two noises alone, from the manifest.
# noise_bound_*: bounds of the same from the two signals alone.
COLUMNS = ("pair", "file1", "file2", "sample_rate", "channels", "samples", "pearson", "covariance", "power1", "power2",
           "peak_correlation", "peak_lag_seconds", "noise_correlation", "noise_bound_low", "noise_bound_high")
MEASURES = ("pearson", "peak_correlation", "noise_correlation", "noise_bound_low", "noise_bound_high")
SUFFIXES = (".txt", ".csv", ".json")


def block_sums(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the number of samples of two blocks of one shape, and the sums of a, b, a*a, b*b and a*b: (6,)."""
    a, b = a.astype(np.float64, copy=False).ravel(), b.astype(np.float64, copy=False).ravel()
    return np.array([a.size, a.sum(), b.sum(), (a * a).sum(), (b * b).sum(), (a * b).sum()])


def moments(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Return of two signals: variances (2,), product of the standard deviations, covariance and Pearson correlation.

    sums: block_sums, added up over all blocks. The correlation is NaN when one signal is constant.
    """
    a, b, aa, bb, ab = sums[1:] / sums[0]
    variances, covariance = np.array([aa - a**2, bb - b**2]), float(ab - a * b)
    norm = float(np.sqrt(np.maximum(variances, 0).prod()))
    return variances, norm, covariance, covariance / norm if norm > 1e-20 else float("nan")


class CrossCorrelation:
    """Sums of a[n + lag] * b[n] over two streams of blocks and their channels, for |lag| <= `max_lag` samples."""

    def __init__(self, max_lag: int, channels: int):
        self.max_lag = max_lag
        self._n_fft = fft.next_fast_len(BLOCK_SAMPLES + 2 * max_lag + 1, real=True)
        self._spectrum = np.zeros(self._n_fft // 2 + 1, np.complex128)
        self._tails = [np.zeros((channels, 0), np.float32)] * 2

    def _product(self, a, b):
        a, b = (fft.rfft(x, self._n_fft, axis=-1) for x in (a, b))
        return (a * b.conj()).sum(axis=0)

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Add two blocks of shape (channels, up to BLOCK_SAMPLES)."""
        joined = [np.concatenate([t, x], axis=-1) for t, x in zip(self._tails, (a, b), strict=True)]
        self._spectrum += self._product(*joined)
        if self._tails[0].size:  # their products were counted with the block before
            self._spectrum -= self._product(*self._tails)
        self._tails = [x[:, max(0, x.shape[-1] - self.max_lag) :] for x in joined]

    def sums(self) -> np.ndarray:
        """Return the sums for the lags from -max_lag to max_lag, (2 max_lag + 1,)."""
        circular = fft.irfft(self._spectrum, self._n_fft)
        return np.concatenate([circular[-self.max_lag :], circular[: self.max_lag + 1]])


def noise_bounds(power1: float, power2: float, covariance: float) -> tuple[float, float]:
    """Return the least and the greatest correlation of two noises n1, n2 when only x = s + n1 and y = s + n2 are known.

    If the song s does not correlate with the noises, x has the power S + N1, y the power S + N2, and their covariance
    is S + rho sqrt(N1 N2). These are three equations with four unknowns: rho is not identifiable. Each song power S
    from 0 to the smaller power gives one rho; the bounds are the extremes within -1..1.
    """
    if not min(power1, power2) > 0:
        return float("nan"), float("nan")
    s = np.linspace(0, min(power1, power2), 2000, endpoint=False)
    rho = (covariance - s) / np.sqrt((power1 - s) * (power2 - s))
    # rho is continuous in S: where it leaves -1..1, it has touched the end.
    return float(max(-1.0, rho.min())), float(min(1.0, rho.max()))


def _noise_correlation(row, sources, seconds):
    """Pearson correlation of the two noises of a couple of files, made again; NaN when they are not known."""
    streams = sources.noise_streams(row)
    if not streams:
        return float("nan")
    rate = number_in(row, "sample_rate", int)
    start = round(number_in(row, "start_seconds") * rate) if row.get("start_seconds") else 0
    length = round(seconds * rate)
    if start > 0 or length < number_in(row, "samples", int):  # a segment of the pair
        streams = [pieces(blocks, [start], length) for blocks in streams]
    return moments(sum(block_sums(a, b) for a, b in zip(*streams, strict=True)))[-1]


def compare_files(path1: Path, path2: Path) -> dict:
    """Return the columns that two files alone give; the files are read block by block.

    Raises AudioError when one cannot be read, and when their rates, channels or lengths differ.
    """
    with AudioReader(path1) as first, AudioReader(path2) as second:
        rate, channels = first.sample_rate, first.channels
        if (rate, channels) != (second.sample_rate, second.channels):
            raise AudioError(f"expected one sample rate and channel count, but {path1} has {rate} Hz x {channels} and "
                             f"{path2} {second.sample_rate} Hz x {second.channels}: convert one of them")
        sums, cross = np.zeros(6), CrossCorrelation(round(MAX_LAG_SECONDS * rate), channels)
        try:
            for a, b in zip(first.blocks(BLOCK_SAMPLES), second.blocks(BLOCK_SAMPLES), strict=True):
                sums += block_sums(a, b)
                cross.add(a, b)
        except ValueError as error:
            raise AudioError(f"expected one length, but {path1} and {path2} differ: cut the longer one") from error
    if not sums[0]:
        raise AudioError(f"expected audio, but {path1} and {path2} hold no samples: remove them")
    n, means = int(sums[0]) // channels, sums[1:] / sums[0]
    variances, norm, covariance, pearson = moments(sums)
    lags = np.arange(-cross.max_lag, cross.max_lag + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = cross.sums() - channels * np.maximum(n - np.abs(lags), 0) * means[0] * means[1]
        values /= sums[0] * norm
    best = int(np.abs(values).argmax())
    peak, lag = (values[best], lags[best]) if norm > 0 else (np.nan, np.nan)
    low, high = noise_bounds(*variances, covariance)
    return {"file1": path1.name, "file2": path2.name, "sample_rate": rate, "channels": channels, "samples": n,
            "pearson": pearson, "covariance": covariance, "power1": float(means[2]), "power2": float(means[3]),
            "peak_correlation": float(peak), "peak_lag_seconds": float(lag / rate),
            "noise_bound_low": low, "noise_bound_high": high}


def match(dir1: str | Path, dir2: str | Path) -> tuple[list[tuple[str, Path, Path]], list[Path]]:
    """Match the files of two folders by pair id, or by name where there is none.

    Returns couples (name, file1, file2), and the files without a partner. Raises CallError when there is no couple.
    """
    found, alone = [{}, {}], []
    for own, folder in zip(found, (dir1, dir2), strict=True):
        for path in list_audio(folder):
            if path is not own.setdefault(pair_key(path.name) or audio_name(path), path):
                alone.append(path)  # a namesake
    couples = [(key, path, found[1][key]) for key, path in found[0].items() if key in found[1]]
    if not couples:
        raise CallError(f"expected files of the same pairs or names in {dir1} and {dir2}, but none match: give an "
                        "input and a target folder")
    alone += [path for own, other in (found, found[::-1]) for key, path in own.items() if key not in other]
    return sorted(couples, key=_natural_order), alone


def _natural_order(couple):
    """A sort key by which S2N10 comes after S2N9."""
    return [int(digits) for digits in re.findall(r"\d+", couple[0])], couple[0]


def _couple_row(name, path1, path2, row, sources):
    """One row of COLUMNS, or the sentence that says why there is none."""
    try:
        with one_of_many(path1):
            measured = compare_files(path1, path2)
            seconds = measured["samples"] / measured["sample_rate"]
            return {"pair": name} | measured | {"noise_correlation": _noise_correlation(row, sources, seconds)}
    except UnusableError as error:
        return str(error)


def correlate_folders(dir1: str | Path, dir2: str | Path, jobs: int = -1,
                      path_noises: str | None = None) -> tuple[list[dict], list[Path]]:
    """Return a row of COLUMNS for every couple of files, and the files without a partner.

    path_noises: folder of the noises; None for the one that dataset.json names. Without a merger's manifest in `dir1`
    and its noises noise_correlation is NaN. Couples that cannot be compared are left out with a warning. Raises
    CallError when no files match, UserError when no couple can be compared.
    """
    couples, alone = match(dir1, dir2)
    manifest = {row["pair_id"]: row for row in read_manifest(dir1) if "input_scale" in row}
    sources, rows = Sources.of(dir1, noises=path_noises), []
    with worker_processes(jobs) as parallel:
        results = parallel(joblib.delayed(_couple_row)(name, path1, path2, manifest.get(name, {}), sources)
                           for name, path1, path2 in couples)
        for result in tqdm(results, total=len(couples), desc="comparing", unit="pair", disable=None):
            if isinstance(result, str):
                log.warning("left out: %s", result)
            else:
                rows.append(result)
    if not rows:
        raise UserError(f"expected couples that can be compared in {dir1} and {dir2}, but all {len(couples)} were left "
                        "out: see the warnings above")
    has_noises = any(row["target_noise"] != CLEAN for row in manifest.values())
    if has_noises and all(np.isnan(row["noise_correlation"]) for row in rows):
        log.warning("the noises of %s cannot be made again and are not compared: say with --path-noises where they are",
                    dir1)
    return rows, alone


def report(rows: Sequence[dict], alone: Sequence[Path]) -> str:
    """Return a summary as text: statistics of every measure, classes, and the couples with the most alike noises."""
    lines = [f"{len(rows)} couples of files compared, {len(alone)} files without a partner",
             *(f"  without a partner: {path}" for path in alone), "",
             f"{'measure':<20} {'n':>6} {'mean':>8} {'std':>8} {'min':>8} {'median':>8} {'max':>8}"]
    columns = {measure: np.array([row[measure] for row in rows], float) for measure in MEASURES}
    known = {measure: values[np.isfinite(values)] for measure, values in columns.items()}
    known = {measure: values for measure, values in known.items() if len(values)}
    for measure, values in known.items():
        numbers = values.mean(), values.std(), values.min(), np.median(values), values.max()
        lines.append(f"{measure:<20} {len(values):>6} " + " ".join(f"{x:>+8.4f}" for x in numbers))
    names = [name + (f" >= {low}" if low else "") for name, low in CLASSES]
    lines += ["", f"{'|r|':<20} " + " ".join(f"{name:>16}" for name in names[::-1])]
    for measure in (name for name in known if not name.startswith("noise_bound")):
        counts = np.histogram(np.abs(known[measure]), [*(low for _, low in CLASSES), np.inf])[0]
        lines.append(f"{measure:<20} " + " ".join(f"{count:>16}" for count in counts[::-1]))
    if "noise_correlation" in known:
        noise = columns["noise_correlation"]
        lines += ["", "The members share their song, so that they correlate anyway; what Noise2Noise needs is that the "
                  "noises,", "made again from the manifest, do not. The most correlated noises:"]
        lines += [f"  {noise[i]:+.4f}  {rows[i]['file1']} | {rows[i]['file2']}"
                  for i in np.argsort(-np.nan_to_num(np.abs(noise)))[:10]]
    else:
        lines += ["", "The correlation of the two noises is not identifiable from two signals that share a song of "
                  "unknown", "power; it lies between noise_bound_low and noise_bound_high if song and noises do not "
                  "correlate. With a", "merger's manifest of training pairs and its noise folder it is computed."]
    return "\n".join(lines) + "\n"


def write_results(rows: Sequence[dict], alone: Sequence[Path], path: Path) -> None:
    """Write the report (.txt) or the rows (.csv, .json), whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".txt":
        write_text(path, report(rows, alone))
    elif path.suffix == ".json":
        plain = [{k: None if v != v else v for k, v in row.items()} for row in rows]  # JSON knows no NaN
        write_text(path, json.dumps({"couples": plain, "without_partner": [str(p) for p in alone]}, indent=1))
    else:
        write_csv(path, rows, COLUMNS)
