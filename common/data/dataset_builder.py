"""Build a dataset of pairs: songs and noises in, INPUT and TARGET files and a manifest out.

The seed, the song and the number of a pair decide the pair, so that worker processes, machines, interruptions and
further runs change no byte. Workers note finished pairs in journals; the manifest is written when all pairs are made.
"""

import io
import json
import logging
import math
import os
import platform
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib
import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from common.audio.signals import RECORDINGS, GaussianNoise, LoopedNoise, SilentError, Song
from common.cli import check_range, setting
from common.data import manifest, mixing_law
from common.data.noises import SPLITS, NoiseSource, WhiteNoise
from common.data.resuming import check_output, finished_pairs
from common.data.silence import MAX_SNR_DB
from common.data.songs import name_digest, song_name, songs_for_split
from common.errors import CallError, UnusableError, UserError, one_of_many
from common.locks import locked
from common.small_files import write_csv
from common.workers import uninterrupted, worker_processes

log = logging.getLogger(__name__)

# Number of draws after which a pair without usable noises ends the run.
MAX_DRAWS = 20
FORMATS = ("wav", "flac")
# File systems take names of 255 bytes. The names of unfinished files and of segments are a little longer than these.
MAX_NAME_BYTES = 220


def fold_numbers(text: str) -> tuple[int, ...]:
    """Read fold numbers that are separated by commas."""
    return tuple(sorted({int(part) for part in text.split(",")}))


@dataclass(frozen=True)
class MergeSettings:
    """What decides the bytes of a dataset besides the bytes of its sources. path_noises: None for white noise alone."""

    merger: str
    path_songs: str
    path_noises: str | None
    iter_noise: int
    split: str = setting("train", "train: the target is the song with another noise; validation and test: the target "
                         "is the clean song", choices=SPLITS)
    iter_songs: int = setting(100, "largest number of songs")
    seed: int = setting(0, "number that decides the choice of songs, noises and levels")
    folds: tuple[int, ...] | None = setting(
        None, "noise folds to use, as 1,2,3 (default: 1-8 for train, 9 for validation, 10 for test)",
        type=fold_numbers, nargs=None, metavar="FOLDS")
    snr_db: tuple[float, float] | None = setting(
        None, "range of the SNR in dB (default: 2 to 27, 4 to 30 for very dynamic songs, 0 to 25 for flat ones)")
    clean_target: bool = setting(False, "make clean targets for training too, beside the same INPUT files, to compare "
                                 "Noise2Noise with Noise2Clean")
    format: str = setting("wav", "format of the 16-bit output files; flac takes less space and more time",
                          choices=FORMATS)
    class_num: int | None = None
    use_cuda: bool = False

    def __post_init__(self):
        for name in ("iter_songs", "iter_noise"):
            if getattr(self, name) < 1:
                raise CallError(f"expected {name} of at least 1, got {getattr(self, name)}: raise it")
        if self.folds and not set(self.folds) <= set(range(1, 11)):
            raise CallError(f"expected --folds between 1 and 10, got {list(self.folds)}: name folds fold1 to fold10")
        if self.snr_db:
            check_range("--snr-db", self.snr_db, -MAX_SNR_DB, MAX_SNR_DB)
        if self.seed < 0:
            raise CallError(f"expected --seed >= 0, got {self.seed}: choose another number")

    def command(self) -> str:
        """Return the shell command for this dataset, without the output folders and flags that change no byte of it."""
        words = [f"{self.merger}.py"]
        for name, value in list(asdict(self).items())[1:]:
            if value is None or value is False:  # 0 is a class and a seed
                continue
            white_only = name == "iter_noise" and self.path_noises is None
            words.append("--iter-white-noise" if white_only else "--" + name.replace("_", "-"))
            if name == "folds":
                words.append(",".join(map(str, value)))
            elif value is not True:
                words += map(str, value if name == "snr_db" else [value])
        return shlex.join(words)


def choose_songs(settings: MergeSettings) -> list[Path]:
    """Return at most `iter_songs` songs of the split, in an order that the seed decides."""
    songs = songs_for_split(settings.path_songs, settings.split)
    order = np.random.default_rng(settings.seed).permutation(len(songs))
    return [songs[i] for i in order[: settings.iter_songs]]


@dataclass(frozen=True)
class _Job:
    """What a worker needs besides the song. dirs: absolute folders of the INPUT and the TARGET files."""

    settings: MergeSettings
    source: NoiseSource
    dirs: tuple[Path, Path]
    strict: bool


def _relative(path, root):
    return Path(os.path.relpath(path, root)).as_posix()


def _noise_signal(noise, rng, song, settings):
    """A noise as a signal of the song's shape, and its manifest columns.

    Raises UnusableError for a file that cannot be read or is silent, SilentError for a silent part of a good file.
    """
    shape = song.channels, song.n_samples
    if isinstance(noise, WhiteNoise):
        columns = {"noise": noise.name, "noise_class": noise.label, "white_seed": noise.seed}
        return GaussianNoise(noise.seed, *shape, song.sample_rate), columns
    with one_of_many(noise.path):
        recording, sha256 = RECORDINGS.get(noise.path, song.sample_rate), manifest.file_sha256(noise.path)
    offset = int(rng.integers(recording.shape[-1]))
    try:
        signal = LoopedNoise(recording, *shape, offset, song.sample_rate)
    except SilentError:
        try:  # a short song may need only a silent part of the recording
            LoopedNoise(recording, song.channels, recording.shape[-1], 0, song.sample_rate)
        except SilentError as error:
            raise UnusableError(f"expected a noise with signal, but {noise.path} is silent: remove it") from error
        raise
    return signal, {"noise": _relative(noise.path, settings.path_noises), "noise_sha256": sha256,
                    "noise_class": noise.label, "noise_fold": noise.fold, "noise_recording": noise.recording,
                    "noise_offset": offset, "noise_loops": signal.loops}


def _draw_noises(job, rng, song):
    """Draw the noises of a pair: two for training, otherwise one.

    Returns a list of (noise, signal, manifest columns), and the reasons why other noises could not be used, by path.
    With `strict` an unusable noise is an error.
    """
    settings, skipped = job.settings, {}
    for _ in range(MAX_DRAWS):
        noises = [job.source.first(rng)]
        if settings.split == "train":
            noises.append(job.source.second(rng, noises[0]))
        drawn = []
        try:
            for noise in noises:
                drawn.append((noise, *_noise_signal(noise, rng, song, settings)))
            return drawn, skipped
        except UnusableError as error:
            if job.strict:
                raise
            skipped[_relative(noise.path, settings.path_noises)] = str(error)
        except SilentError:
            continue
    raise UserError(f"expected usable noises, but {MAX_DRAWS} draws in a row gave silent or unreadable files: "
                    "check --path-noises")


def _shortened(name, n_bytes):
    """A name cut to `n_bytes` bytes of UTF-8; a byte that is no character becomes _."""
    return re.sub("[\ud800-\udfff]", "_", name).encode()[:n_bytes].decode(errors="ignore")


def _file_name(side, pair_id, noise, song, suffix):
    """The file name of a pair's member. Long names are cut to what file systems take: the pair id is unique."""
    head, between, tail = f"{side.upper()}-{pair_id}-(", ")-(", f").{suffix}"
    room = MAX_NAME_BYTES - len(head + between + tail)
    noise = _shortened(noise, max(room // 2, room - len(_shortened(song, room).encode())))
    return head + noise + between + _shortened(song, room - len(noise.encode())) + tail


def _make_pair(job, song, pair_id, pair_number):
    """Mix and write one pair; returns the journal's columns of the pair and its members."""
    settings, name = job.settings, song_name(song.path)
    name_key = int.from_bytes(name_digest(name)[:8], "big")
    rng = np.random.default_rng([settings.seed, name_key, pair_number])
    drawn, skipped = _draw_noises(job, rng, song)
    low, high = settings.snr_db or mixing_law.snr_range_db(song.second_rms)
    snrs = [float(rng.uniform(low, high)) for _ in drawn]
    members = [mixing_law.at_snr(signal, song, snr) for (_, signal, _), snr in zip(drawn, snrs, strict=True)]
    # --clean-target keeps the gain of the noisy pair, so that both methods have the same INPUT.
    gain = mixing_law.pair_gain(song, [*members, None][:2], settings.use_cuda)
    if settings.clean_target or len(members) == 1:
        drawn, members = drawn[:1], [members[0], None]
    names = [*(noise.name for noise, _, _ in drawn), manifest.CLEAN][:2]
    paths = [folder / _file_name(side, pair_id, noise, name, settings.format)
             for folder, side, noise in zip(job.dirs, manifest.SIDES, names, strict=True)]
    realised = mixing_law.write_pair(song, members, gain, paths, settings.use_cuda)
    row = {"pair_id": pair_id, "pair_number": pair_number, "gain": gain, "skipped_noises": json.dumps(skipped)}
    for i, side in enumerate(manifest.SIDES):
        columns = {"noise": manifest.CLEAN} if members[i] is None else drawn[i][2] | {
            "snr_db": snrs[i], "scale": members[i].scale, "realised_snr_db": realised[i]}
        columns |= {"file": paths[i].name, "sha256": manifest.file_sha256(paths[i])}
        row |= {f"{side}_{key}": value for key, value in columns.items()}
    return row


def _make_pairs(job, path, song_number, pair_numbers):
    """Make some pairs of one song; returns the journal's rows, or the sentence that says why there are none."""
    try:
        with one_of_many(path):
            song, sha256 = Song(path), manifest.file_sha256(path)
            # Not every format takes every rate and number of channels.
            soundfile.SoundFile(io.BytesIO(), "w", song.sample_rate, song.channels, "PCM_16",
                                format=job.settings.format.upper()).close()
    except UnusableError as error:
        return str(error)
    shared = {"split": job.settings.split, "song_number": song_number,
              "song": _relative(path, job.settings.path_songs), "song_sha256": sha256,
              "sample_rate": song.sample_rate, "channels": song.channels, "samples": song.n_samples,
              "song_power": song.power}
    rows = []
    # Noted one by one, so that an interruption of a long song loses no finished pair.
    journal = job.dirs[0] / manifest.JOURNAL.format(f"S{song_number}N{pair_numbers[0]}-{os.getpid()}")
    for n in pair_numbers:
        with uninterrupted():
            rows.append(shared | _make_pair(job, song, f"S{song_number}N{n}", n))
            manifest.append_row(journal, rows[-1])
    return rows


def _pair_place(row):
    return manifest.number_in(row, "song_number", int), manifest.number_in(row, "pair_number", int)


def _tasks(songs, rows, iter_noise, n_workers):
    """(song, song number, pair numbers) that are missing in `rows`; with more workers than songs, parts of songs."""
    done = {_pair_place(row) for row in rows}
    missing = [(song, number, [n for n in range(1, iter_noise + 1) if (number, n) not in done])
               for number, song in enumerate(songs, 1)]
    missing = [task for task in missing if task[2]]
    size = math.ceil(iter_noise / math.ceil(n_workers / max(1, len(missing))))
    return [(song, number, pairs[i : i + size]) for song, number, pairs in missing for i in range(0, len(pairs), size)]


def build_dataset(settings: MergeSettings, source: NoiseSource, songs: Sequence[Path],
                  output_dirs: Sequence[str | Path], jobs: int = -1, strict: bool = False,
                  scheduler: str | None = None) -> list[dict]:
    """Write the pairs of all `songs` and return the manifest rows. An interrupted run is completed.

    output_dirs: folders of the INPUT and of the TARGET files. jobs, scheduler: see common.workers; they change no byte.
    strict: a song or noise that cannot be used is an error; otherwise it is skipped with a warning and listed in
    dataset.json. Raises CallError for unsuitable folders and when the settings, songs or noises are not those with
    which the dataset was begun, UserError when no song can be used.
    """
    dirs = tuple(map(Path, output_dirs))
    files = {"songs": [_relative(path, settings.path_songs) for path in songs],
             "noises": [_relative(clip.path, settings.path_noises) for clip in source.clips]}
    description = {"command": settings.command(), "settings": asdict(settings),
                   "sources": {"songs": settings.path_songs, "noises": settings.path_noises, "files": files},
                   "versions": {"python": platform.python_version(), "numpy": np.__version__, "soxr": soxr.__version__,
                                "soundfile": soundfile.__version__}}
    with locked(*dirs):
        rows = finished_pairs(dirs, settings, files)
        skipped_songs, skipped_noises = {}, manifest.read_dataset(dirs[0]).get("skipped_noises", {})
        description |= {"skipped_songs": skipped_songs, "skipped_noises": skipped_noises}
        manifest.write_dataset(dirs[0], description)
        job = _Job(settings, source, tuple(folder.absolute() for folder in dirs), strict)
        for path, result in _run(job, songs, rows, jobs, scheduler):
            if isinstance(result, str):
                log.warning("skipped: %s", result)
                skipped_songs[_relative(path, settings.path_songs)] = result
            else:
                rows += result
        if not rows:
            raise UserError(f"expected at least one usable song in {settings.path_songs}, but all {len(songs)} were "
                            "skipped: see the warnings above")
        check_output(dirs)  # removes what a killed worker of a cluster left
        rows.sort(key=_pair_place)
        for row in rows:
            skipped_noises |= json.loads(row.pop("skipped_noises") or "{}")
        for reason in skipped_noises.values():
            log.warning("skipped: %s", reason)
        write_csv(dirs[0] / manifest.MANIFEST, rows, manifest.COLUMNS)
        manifest.write_dataset(dirs[0], description)
        for path in dirs[0].glob(manifest.ALL_JOURNALS):
            path.unlink()
    return rows


def _run(job, songs, rows, jobs, scheduler):
    """Make the missing pairs; yields each song with its new rows or with the reason why there are none."""
    with worker_processes(jobs, scheduler) as parallel:
        tasks = _tasks(songs, rows, job.settings.iter_noise, joblib.effective_n_jobs(parallel.n_jobs))
        results = parallel(joblib.delayed(_make_pairs)(job, *task) for task in tasks)
        results = tqdm(results, total=len(tasks), desc=f"mixing {job.settings.split} songs", unit="song", disable=None)
        for (path, _, _), result in zip(tasks, results, strict=True):
            if job.strict and isinstance(result, str):
                raise UserError(result)
            yield path, result
