"""Building a dataset of pairs: songs and a noise source in, INPUT and TARGET files and a manifest out.

Every pair is decided by (seed, song, pair number) alone, so that worker processes, machines, interruptions
and reruns do not change a byte. Workers note in journals what they finished; the manifest appears when all is done.
"""

import hashlib
import json
import logging
import math
import os
import platform
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib
import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from common import mixing
from common.audio import AudioError
from common.errors import CallError, UserError
from common.files import NAMES, write_csv
from common.manifest import (
    CLEAN,
    COLUMNS,
    DATASET,
    JOURNAL,
    JOURNAL_PART,
    MANIFEST,
    SIDES,
    append_row,
    read_dataset,
    read_rows,
    write_dataset,
)
from common.mixing import file_sha256
from common.noises import Noise, NoiseSource, WhiteNoise
from common.signals import RECORDINGS, GaussianNoise, LoopedNoise, SilentError, Song
from common.songs import song_name, songs_for_split
from common.workers import pool, uninterrupted

log = logging.getLogger(__name__)

# Draws after which a pair gives up on finding a noise that can be read and heard.
MAX_DRAWS = 20
FORMATS = ("wav", "flac")


@dataclass(frozen=True)
class MergeSettings:
    """What decides the bytes of a dataset, besides the sources themselves. `snr_db` None: by dynamics.

    clean_target: the target of a training pair is the clean song; the input is the same as without it.
    """

    merger: str
    split: str
    path_songs: str
    path_noises: str | None
    iter_songs: int
    iter_noise: int
    seed: int
    folds: tuple[int, ...] | None = None
    snr_db: tuple[float, float] | None = None
    class_num: int | None = None
    use_cuda: bool = False
    clean_target: bool = False
    format: str = "wav"

    def command(self) -> str:
        """The shell call that makes this dataset, without the output folders and what does not change its bytes."""
        flags = [f"{self.merger}.py"]
        for name, value in asdict(self).items():
            flag = "--iter-white-noise" if (name, self.path_noises) == ("iter_noise", None) else _flag(name)
            if value is True:
                flags += [flag]
            elif name != "merger" and value is not None and value is not False:  # 0 is a class and a seed
                text = value if name == "snr_db" else [",".join(map(str, value)) if name == "folds" else value]
                flags += [flag, *map(str, text)]
        return shlex.join(flags)


def _flag(name):
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class _Job:
    """What a worker needs besides the song."""

    settings: MergeSettings
    source: NoiseSource
    dirs: tuple[Path, Path]


def choose_songs(settings: MergeSettings) -> list[Path]:
    """At most `iter_songs` songs of the split, in an order drawn from the seed."""
    songs = songs_for_split(settings.path_songs, settings.split)
    order = np.random.default_rng(settings.seed).permutation(len(songs))
    return [songs[i] for i in order[: settings.iter_songs]]


def _relative(path, root):
    return Path(os.path.relpath(path, root)).as_posix()


def _realise(noise: Noise, rng, song: Song, settings):
    """The noise as a signal of the song's shape, and its manifest columns."""
    shape = song.channels, song.n_samples
    if isinstance(noise, WhiteNoise):
        columns = {"noise": noise.name, "noise_class": noise.label, "white_seed": noise.seed}
        return GaussianNoise(noise.seed, *shape, song.sample_rate), columns
    recording = RECORDINGS.get(noise.path, song.sample_rate)
    offset = int(rng.integers(recording.shape[-1]))
    try:
        signal = LoopedNoise(recording, *shape, offset, song.sample_rate)
    except SilentError as error:
        raise SilentError(f"expected a noise with signal, but {noise.path} is silent: remove it") from error
    return signal, {"noise": _relative(noise.path, settings.path_noises), "noise_sha256": file_sha256(noise.path),
                    "noise_class": noise.label, "noise_fold": noise.fold, "noise_recording": noise.recording,
                    "noise_offset": offset, "noise_loops": signal.loops}


def _draw_pair(source, rng, song, settings, noisy_target):
    """(noise, signal, columns) of one member, or of two for a noisy target, that could be read and heard."""
    for _ in range(MAX_DRAWS):
        noises = [source.first(rng)]
        if noisy_target:
            noises.append(source.second(rng, noises[0]))
        try:
            return [(noise, *_realise(noise, rng, song, settings)) for noise in noises]
        except (AudioError, SilentError) as error:
            log.warning("drawing other noises: %s", error)
    raise UserError(f"expected usable noises, but {MAX_DRAWS} draws in a row gave silent or unreadable files: "
                    "check --path-noises")


def _make_pair(job, song, song_number, pair_number):
    """Mix and write one pair; returns the manifest columns of the pair and its members."""
    settings, name = job.settings, song_name(song.path)
    name_key = int.from_bytes(hashlib.sha256(name.encode(errors=NAMES)).digest()[:8], "big")
    rng = np.random.default_rng([settings.seed, name_key, pair_number])
    drawn = _draw_pair(job.source, rng, song, settings, settings.split == "train")
    low, high = settings.snr_db or mixing.snr_range_db(song.second_rms)
    snrs = [float(rng.uniform(low, high)) for _ in drawn]
    members = [mixing.at_snr(signal, song, snr) for (_, signal, _), snr in zip(drawn, snrs, strict=True)]
    # With --clean-target too, the gain is that of the noisy pair: the same INPUT for both methods.
    gain = mixing.pair_gain(song, [*members, None][:2], settings.use_cuda)
    if settings.clean_target or len(members) == 1:
        drawn, members = drawn[:1], [members[0], None]
    names = [noise.name for noise, _, _ in drawn] + [CLEAN]
    files = [f"{side.upper()}-S{song_number}N{pair_number}-({noise})-({name}).{settings.format}"
             for side, noise in zip(SIDES, names, strict=False)]
    paths = [d / f for d, f in zip(job.dirs, files, strict=True)]
    realised = mixing.write_pair(song, members, gain, paths, settings.use_cuda)
    row = {"pair_id": f"S{song_number}N{pair_number}", "pair_number": pair_number, "gain": gain}
    for i, side in enumerate(SIDES):
        columns = {"noise": CLEAN} if members[i] is None else drawn[i][2] | {
            "snr_db": snrs[i], "scale": members[i].scale, "realised_snr_db": realised[i]}
        columns |= {"file": files[i], "sha256": file_sha256(paths[i])}
        row |= {f"{side}_{key}": value for key, value in columns.items()}
    return row


def _make_pairs(job, path, song_number, pair_numbers):
    """Some pairs of one song; returns the manifest rows, or the sentence that says why there are none."""
    try:
        song = Song(path)
    except (AudioError, SilentError) as error:
        return str(error)
    shared = {"split": job.settings.split, "song_number": song_number,
              "song": _relative(path, job.settings.path_songs), "song_sha256": file_sha256(path),
              "sample_rate": song.sample_rate, "channels": song.channels, "samples": song.n_samples,
              "song_power": song.power}
    rows = []
    # A journal of its own, so that the pairs of a long song are not lost with it.
    journal = job.dirs[0] / JOURNAL_PART.format(f"S{song_number}N{pair_numbers[0]}-{os.getpid()}")
    for n in pair_numbers:
        with uninterrupted():
            rows.append(shared | _make_pair(job, song, song_number, n))
            append_row(journal, rows[-1])
    return rows


def _work(job, path, song_number, pair_numbers):
    return song_number, _make_pairs(job, path, song_number, pair_numbers)


def _take_over(dirs):
    """Rows of the pairs that earlier runs finished and whose files are still there; their journals become one."""
    manifest, journals = dirs[0] / MANIFEST, sorted(dirs[0].glob(JOURNAL_PART.format("*")))
    found = [row for path in [manifest, dirs[0] / JOURNAL, *journals] for row in read_rows(path)]
    whole = {row["pair_id"]: row for row in found if len(row["target_sha256"] or "") == 64  # not a torn last line
             and all((d / row[f"{s}_file"]).is_file() for d, s in zip(dirs, SIDES, strict=True))}
    write_csv(dirs[0] / JOURNAL, list(whole.values()), COLUMNS)
    for path in journals:
        path.unlink()
    return list(whole.values())


def check_output(directory, prefix):
    """Refuse a folder that holds anything but this tool's own files; remove what a killed run left."""
    directory.mkdir(parents=True, exist_ok=True)
    lists = MANIFEST, DATASET, JOURNAL
    half_written = f".{prefix}-", *(f".{name}." for name in lists)
    for path in sorted(directory.iterdir()):
        if path.name.startswith(half_written) and path.suffix == ".tmp":
            path.unlink(missing_ok=True)
        elif not (path.name.startswith(f"{prefix}-") or path.name in lists
                  or path.match(JOURNAL_PART.format("*"))):
            raise CallError(f"expected an empty folder or an unfinished dataset of the same command, but "
                            f"{directory} holds {path.name}: choose another folder or move the file away")


def _check_settings(settings, input_dir, target_dir):
    """Continue only a dataset of the same settings."""
    stored = read_dataset(input_dir).get("settings")
    if stored is None:
        leftovers = [p for d in (input_dir, target_dir) for p in sorted(d.iterdir())]
        if leftovers:
            raise CallError(f"expected an empty folder or an unfinished dataset of the same command, but "
                            f"{leftovers[0]} belongs to no known dataset: choose another folder")
        return
    current = json.loads(json.dumps(asdict(settings)))
    changed = [f"{k} was {stored.get(k)!r} and is {v!r}" for k, v in current.items() if stored.get(k) != v]
    if changed:
        raise CallError(f"expected the settings with which {input_dir} was begun, but {'; '.join(changed)}: use "
                        "the same ones or other output folders")


def _description(settings, skipped):
    """The content of dataset.json."""
    return {"command": settings.command(), "settings": asdict(settings), "skipped_songs": skipped,
            "sources": {"songs": settings.path_songs, "noises": settings.path_noises},
            "versions": {"python": platform.python_version(), "numpy": np.__version__, "soxr": soxr.__version__,
                         "soundfile": soundfile.__version__}}


def _tasks(songs, done, iter_noise, n_workers):
    """(song number, song, pair numbers) that are still to do; a song is shared out when workers outnumber songs."""
    todo = [(number, song, [n for n in range(1, iter_noise + 1) if (number, n) not in done])
            for number, song in enumerate(songs, 1)]
    todo = [task for task in todo if task[2]]
    size = math.ceil(iter_noise / math.ceil(n_workers / max(1, len(todo))))
    return [(number, song, pairs[i : i + size]) for number, song, pairs in todo for i in range(0, len(pairs), size)]


def build_dataset(settings: MergeSettings, source: NoiseSource, songs: Sequence[Path], input_dir: str | Path,
                  target_dir: str | Path, jobs: int = -1, strict: bool = False,
                  scheduler: str | None = None) -> list[dict]:
    """Write the pairs of all `songs` and return the manifest rows.

    `jobs` worker processes (-1: one per core), or the workers of the Dask cluster at `scheduler`, change the time
    and nothing else. Songs that cannot be read or are silent are skipped with a warning and listed in
    dataset.json, or end the run when `strict`. Raises CallError for unsuitable folders, UserError when no song
    could be used.
    """
    dirs = input_dir, target_dir = Path(input_dir), Path(target_dir)
    if input_dir.resolve() == target_dir.resolve():
        raise CallError(f"expected two output folders, but --input-dir and --target-dir are both {input_dir}")
    for directory, side in zip(dirs, SIDES, strict=True):
        check_output(directory, side.upper())
    _check_settings(settings, input_dir, target_dir)
    songs_here = {_relative(p, settings.path_songs) for p in songs}
    rows = [row for row in _take_over(dirs) if row["song"] in songs_here]
    write_dataset(input_dir, _description(settings, {}))
    skipped = {}
    with pool(jobs, scheduler) as (parallel, n_workers):
        done = {(int(row["song_number"]), int(row["pair_number"])) for row in rows}
        tasks = _tasks(songs, done, settings.iter_noise, n_workers)
        job = _Job(settings, source, tuple(d.absolute() for d in dirs))
        results = parallel(joblib.delayed(_work)(job, song, number, pairs) for number, song, pairs in tasks)
        for number, result in tqdm(results, total=len(tasks), desc=f"mixing {settings.split} songs", unit="song",
                                   disable=None):
            if isinstance(result, str):
                if strict:
                    raise UserError(result)
                log.warning("skipped: %s", result)
                skipped[_relative(songs[number - 1], settings.path_songs)] = result
            else:
                rows += result
    if not rows:
        raise UserError(f"expected at least one usable song in {settings.path_songs}, but all {len(songs)} were "
                        "skipped: see the warnings above")
    for directory, side in zip(dirs, SIDES, strict=True):
        check_output(directory, side.upper())  # a cluster's worker may have died, and another done its work
    rows.sort(key=lambda row: (int(row["song_number"]), int(row["pair_number"])))
    write_csv(input_dir / MANIFEST, rows, COLUMNS)
    write_dataset(input_dir, _description(settings, skipped))
    for path in (input_dir / JOURNAL, *input_dir.glob(JOURNAL_PART.format("*"))):
        path.unlink()
    return rows
