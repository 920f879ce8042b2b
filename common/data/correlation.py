"""How alike the members of pairs are, and whether their two noises are independent.

Noise2Noise needs the second: the song is common to both members, so that the members themselves correlate in any
case, and hide what their noises do. With a merger's manifest the noises are made again and compared alone.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import joblib
import numpy as np
from scipy import fft
from tqdm import tqdm

from common.audio.reading import AudioReader, audio_name, list_audio
from common.audio.signals import pieces
from common.data.manifest import Sources, number_in, read_manifest
from common.data.pairs import pair_key
from common.errors import AudioError, CallError, UnusableError, UserError, one_of_many
from common.files import write_csv, write_text
from common.workers import pool

log = logging.getLogger(__name__)

MAX_LAG_SECONDS = 0.05
BLOCK_SAMPLES = 1 << 16
# Names of |r| from their lower ends on.
CLASSES = (("near zero", 0.0), ("low", 0.1), ("medium", 0.5), ("high", 0.8))
# peak_correlation: the cross-correlation within MAX_LAG_SECONDS that is largest in magnitude, at peak_lag_seconds
# (positive: file1 comes later). noise_correlation: of the two noises alone, from the manifest. noise_bound_*:
# between these it lies by what the two signals alone tell.
COLUMNS = ("pair", "file1", "file2", "sample_rate", "channels", "samples", "pearson", "covariance", "power1", "power2",
           "peak_correlation", "peak_lag_seconds", "noise_correlation", "noise_bound_low", "noise_bound_high")
MEASURES = ("pearson", "peak_correlation", "noise_correlation", "noise_bound_low", "noise_bound_high")
SUFFIXES = (".txt", ".csv", ".json")


class Moments:
    """Sums over two streams of blocks of one shape, from which means, powers and correlations follow."""

    def __init__(self):
        self.n, self.sums = 0, np.zeros(5)

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Count two blocks of one shape."""
        a, b = a.astype(np.float64, copy=False).ravel(), b.astype(np.float64, copy=False).ravel()
        self.n += a.size
        self.sums += (a.sum(), b.sum(), (a * a).sum(), (b * b).sum(), (a * b).sum())

    @property
    def means(self) -> np.ndarray:
        """Mean of a, b, a*a, b*b and a*b."""
        return self.sums / self.n

    @property
    def variances(self) -> np.ndarray:
        """Variances of a and b."""
        m = self.means
        return np.array([m[2] - m[0] ** 2, m[3] - m[1] ** 2])

    @property
    def covariance(self) -> float:
        """Of a and b."""
        m = self.means
        return float(m[4] - m[0] * m[1])

    @property
    def pearson(self) -> float:
        """Correlation coefficient; NaN when one of both is constant."""
        norm = float(np.sqrt(np.maximum(self.variances, 0).prod()))
        return self.covariance / norm if norm > 1e-20 else float("nan")


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
        """Count two blocks of (channels, up to BLOCK_SAMPLES)."""
        joined = [np.concatenate([t, x], axis=-1) for t, x in zip(self._tails, (a, b), strict=True)]
        self._spectrum += self._product(*joined)
        if self._tails[0].size:  # the products within the tails were counted with the block before
            self._spectrum -= self._product(*self._tails)
        self._tails = [x[:, max(0, x.shape[-1] - self.max_lag) :] for x in joined]

    def sums(self) -> np.ndarray:
        """For every lag from -max_lag to max_lag."""
        circular = fft.irfft(self._spectrum, self._n_fft)
        return np.concatenate([circular[-self.max_lag :], circular[: self.max_lag + 1]])


def noise_bounds(power1: float, power2: float, covariance: float, n_points: int = 2000) -> tuple[float, float]:
    """Between what the correlation of two noises n1, n2 lies, when x = s + n1 and y = s + n2 are all that is known.

    If song s and noises do not correlate, then x has the power S + N1, y has S + N2, and their covariance is
    S + rho sqrt(N1 N2), with S unknown: three equations, four unknowns, so that rho is not identifiable. Every S
    between 0 and the smaller power gives one rho; the bounds are the least and the greatest within -1..1.
    """
    if not min(power1, power2) > 0:
        return float("nan"), float("nan")
    s = np.linspace(0, min(power1, power2), n_points, endpoint=False)
    rho = (covariance - s) / np.sqrt((power1 - s) * (power2 - s))
    # rho is continuous in S: where it leaves -1..1, it has touched the end.
    return float(max(-1.0, rho.min())), float(min(1.0, rho.max()))


def noise_correlation(row: dict, sources: Sources, start: int = 0, length: int | None = None) -> float:
    """Pearson correlation of the two noises of a manifest row, made again; NaN for a clean target.

    `start` and `length` in samples at the song's rate choose a stretch. Raises UserError when a source is gone.
    """
    noises = [sources.noise(row, side) for side in ("input", "target")]
    if None in noises:
        return float("nan")
    moments = Moments()
    streams = [pieces(noise.blocks(), [start], length) if length else noise.blocks() for noise in noises]
    for a, b in zip(*streams, strict=True):
        moments.add(a, b)
    return moments.pearson


def _noise_columns(row, sources, measured):
    if row is None or sources is None:
        return float("nan")
    rate = number_in(row, "sample_rate", int)
    start = round(number_in(row, "start_seconds") * rate) if row.get("start_seconds") else 0
    length = round(measured["samples"] / measured["sample_rate"] * rate)
    whole = start == 0 and length >= number_in(row, "samples", int)
    return noise_correlation(row, sources, start, None if whole else length)


def compare_files(path1: Path, path2: Path) -> dict:
    """The columns that two files alone give, read block by block.

    Raises AudioError when one cannot be read, or when rate, channels or length differ.
    """
    with AudioReader(path1) as first, AudioReader(path2) as second:
        formats = [(r.sample_rate, r.channels) for r in (first, second)]
        if formats[0] != formats[1]:
            (rate1, channels1), (rate2, channels2) = formats
            raise AudioError(f"expected one sample rate and channel count, but {path1} has {rate1} Hz x {channels1} "
                             f"and {path2} {rate2} Hz x {channels2}: convert one of them")
        rate, channels = formats[0]
        moments, cross = Moments(), CrossCorrelation(round(MAX_LAG_SECONDS * rate), channels)
        try:
            for a, b in zip(first.blocks(BLOCK_SAMPLES), second.blocks(BLOCK_SAMPLES), strict=True):
                moments.add(a, b)
                cross.add(a, b)
        except ValueError as error:
            raise AudioError(f"expected one length, but {path1} and {path2} differ: cut the longer one") from error
    if not moments.n:
        raise AudioError(f"expected audio, but {path1} and {path2} hold no samples: remove them")
    n = moments.n // channels
    lags = np.arange(-cross.max_lag, cross.max_lag + 1)
    norm = moments.n * np.sqrt(np.maximum(moments.variances, 0).prod())
    means = moments.means
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (cross.sums() - channels * np.maximum(n - np.abs(lags), 0) * means[0] * means[1]) / norm
    best = int(np.abs(values).argmax()) if norm > 0 else None
    low, high = noise_bounds(*moments.variances, moments.covariance)
    return {"file1": path1.name, "file2": path2.name, "sample_rate": rate, "channels": channels, "samples": n,
            "pearson": moments.pearson, "covariance": moments.covariance, "power1": float(means[2]),
            "power2": float(means[3]),
            "peak_correlation": float("nan") if best is None else float(values[best]),
            "peak_lag_seconds": float("nan") if best is None else float(lags[best] / rate),
            "noise_bound_low": low, "noise_bound_high": high}


def match(dir1: str | Path, dir2: str | Path) -> tuple[list[tuple[str, Path, Path]], list[Path]]:
    """Couples (name, file1, file2) of two folders by their pair id, else by their file name; and files without one.

    Raises CallError when there is no couple at all.
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
    return sorted(couples, key=lambda c: _natural(c[0])), alone


def _natural(name):
    """A sort key by which S2N10 comes after S2N9."""
    digits = "".join(c if c.isdigit() else " " for c in name).split()
    return [int(d) for d in digits], name


def _couple_row(name, path1, path2, row, sources):
    """One row of COLUMNS, or the sentence that says why there is none."""
    try:
        with one_of_many(path1):
            measured = compare_files(path1, path2)
            return {"pair": name} | measured | {"noise_correlation": _noise_columns(row, sources, measured)}
    except UnusableError as error:
        return str(error)


def _noise_sources(directory, rows, path_noises):
    """The manifest's sources if they are there; else None, and a line that says so."""
    if not rows:
        return None
    sources = Sources.of(directory, noises=path_noises)
    row = next((r for r in rows if r.get("target_noise_recording")), None)
    try:
        if row:
            sources.noise(row, "input")
    except UserError as error:
        log.warning("the noises are not compared: %s", error)
        return None
    return sources


def correlate_folders(dir1: str | Path, dir2: str | Path, jobs: int = -1,
                      path_noises: str | None = None) -> tuple[list[dict], list[Path]]:
    """A row of COLUMNS for every couple of files, and the files without a partner.

    Couples that cannot be compared are left out with a warning. noise_correlation needs a merger's manifest in
    `dir1` and its noises (where dataset.json says, or in `path_noises`), else it is NaN. Raises CallError when no
    files match, UserError when no couple could be compared.
    """
    couples, alone = match(dir1, dir2)
    manifest = {row["pair_id"]: row for row in read_manifest(dir1) if "input_scale" in row}
    sources = _noise_sources(dir1, list(manifest.values()), path_noises)
    rows = []
    with pool(jobs) as (parallel, _):
        work = (joblib.delayed(_couple_row)(key, a, b, manifest.get(key), sources) for key, a, b in couples)
        for result in tqdm(parallel(work), total=len(couples), desc="comparing", unit="pair", disable=None):
            if isinstance(result, str):
                log.warning("left out: %s", result)
            else:
                rows.append(result)
    if not rows:
        raise UserError(f"expected couples that can be compared in {dir1} and {dir2}, but all {len(couples)} were left "
                        "out: see the warnings above")
    return sorted(rows, key=lambda row: _natural(row["pair"])), alone


def class_counts(values: Iterable[float]) -> dict[str, int]:
    """How many |values| fall into each of CLASSES; NaN counts nowhere."""
    magnitudes = np.abs(np.array(list(values), float))
    ends = [*(low for _, low in CLASSES), np.inf]
    return {name: int(((magnitudes >= low) & (magnitudes < high)).sum())
            for (name, _), (low, high) in zip(CLASSES, pairwise(ends), strict=True)}


def report(rows: Sequence[dict], alone: Sequence[Path]) -> str:
    """The readable summary: statistics of every measure, classes, and the couples with the most alike noises."""
    return "\n".join(_report_lines(rows, alone)) + "\n"


def _report_lines(rows, alone) -> Iterator[str]:
    yield f"{len(rows)} couples of files compared, {len(alone)} files without a partner"
    yield from (f"  without a partner: {path}" for path in alone)
    yield ""
    yield f"{'measure':<20} {'n':>6} {'mean':>8} {'std':>8} {'min':>8} {'median':>8} {'max':>8}"
    columns = {m: np.array([row[m] for row in rows], float) for m in MEASURES}
    for measure, values in columns.items():
        values = values[np.isfinite(values)]
        if len(values):
            numbers = values.mean(), values.std(), values.min(), np.median(values), values.max()
            yield f"{measure:<20} {len(values):>6} " + " ".join(f"{x:>+8.4f}" for x in numbers)
    yield ""
    yield f"{'|r|':<20} " + " ".join(f"{name + (f' >= {low}' if low else ''):>16}" for name, low in CLASSES[::-1])
    for measure in ("pearson", "peak_correlation", "noise_correlation"):
        if np.isfinite(columns[measure]).any():
            counts = class_counts(columns[measure])
            yield f"{measure:<20} " + " ".join(f"{counts[name]:>16}" for name, _ in CLASSES[::-1])
    yield ""
    noise = columns["noise_correlation"]
    if np.isfinite(noise).any():
        yield "The members share their song, so that they correlate anyway; what Noise2Noise needs is that the noises,"
        yield "made again from the manifest, do not. The most correlated noises:"
        for i in np.argsort(-np.nan_to_num(np.abs(noise)))[:10]:
            yield f"  {noise[i]:+.4f}  {rows[i]['file1']} | {rows[i]['file2']}"
    else:
        yield "The correlation of the two noises is not identifiable from two signals that share a song of unknown"
        yield "power; it lies between noise_bound_low and noise_bound_high if song and noises do not correlate. With a"
        yield "merger's manifest of training pairs and its noise folder it is computed."


def write_results(rows: Sequence[dict], alone: Sequence[Path], path: str | Path) -> None:
    """Write the report (.txt) or the rows (.csv, .json), whole or not at all. Raises CallError for another suffix."""
    path = check_output_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".txt":
        write_text(path, report(rows, alone))
    elif path.suffix == ".json":
        plain = [{k: None if v != v else v for k, v in row.items()} for row in rows]  # JSON knows no NaN
        write_text(path, json.dumps({"couples": plain, "without_partner": [str(p) for p in alone]}, indent=1))
    else:
        write_csv(path, rows, COLUMNS)


def check_output_name(path: str | Path) -> Path:
    """The path, if results can be written under this name; else a CallError."""
    path = Path(path)
    if path.suffix not in SUFFIXES or path.is_dir():
        raise CallError(f"expected an output file ending in {', '.join(SUFFIXES)}, got {path}: choose one of these")
    return path
