"""Building a dataset of pairs: songs and a noise source in, INPUT and TARGET files and a manifest out.

Every pair is decided by (seed, song, pair number) alone, so that worker processes, machines, interruptions
and reruns do not change a byte. Workers note in journals what they finished; the manifest appears when all is done.
What earlier runs left is the matter of common.data.continuing.
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
from common.data import mixing
from common.data.continuing import check_output, check_unchanged, finished_pairs, take_over
from common.data.manifest import (
    CLEAN,
    COLUMNS,
    JOURNAL,
    JOURNAL_PART,
    MANIFEST,
    SIDES,
    append_row,
    number_in,
    read_dataset,
    write_dataset,
)
from common.data.mixing import file_sha256
from common.data.noises import Noise, NoiseSource, WhiteNoise
from common.data.songs import name_digest, song_name, songs_for_split
from common.errors import UnusableError, UserError, one_of_many
from common.files import write_csv
from common.locks import locked
from common.outputs import check_folders
from common.workers import pool, uninterrupted

log = logging.getLogger(__name__)

# Draws after which a pair gives up on finding a noise that can be read and heard.
MAX_DRAWS = 20
FORMATS = ("wav", "flac")
# File systems take names of 255 bytes; unfinished files and segments have names that are somewhat longer.
MAX_NAME_BYTES = 220


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
    strict: bool


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
    with one_of_many(noise.path):
        recording, sha256 = RECORDINGS.get(noise.path, song.sample_rate), file_sha256(noise.path)
    offset = int(rng.integers(recording.shape[-1]))
    try:
        signal = LoopedNoise(recording, *shape, offset, song.sample_rate)
    except SilentError:
        try:  # a short song may meet silence where the recording as a whole has none
            LoopedNoise(recording, song.channels, recording.shape[-1], 0, song.sample_rate)
        except SilentError as error:
            raise UnusableError(f"expected a noise with signal, but {noise.path} is silent: remove it") from error
        raise
    return signal, {"noise": _relative(noise.path, settings.path_noises), "noise_sha256": sha256,
                    "noise_class": noise.label, "noise_fold": noise.fold, "noise_recording": noise.recording,
                    "noise_offset": offset, "noise_loops": signal.loops}


def _draw_pair(job, rng, song, noisy_target):
    """(noise, signal, columns) of one member, or of two for a noisy target, that could be read and heard.

    And why other noises could not, by their paths; when `strict` that is an error.
    """
    settings, skipped = job.settings, {}
    for _ in range(MAX_DRAWS):
        noises = [job.source.first(rng)]
        if noisy_target:
            noises.append(job.source.second(rng, noises[0]))
        drawn = []
        try:
            for noise in noises:
                drawn.append((noise, *_realise(noise, rng, song, settings)))
            return drawn, skipped
        except UnusableError as error:
            if job.strict:
                raise
            skipped[_relative(noise.path, settings.path_noises)] = str(error)
        except SilentError:
            pass  # other noises are drawn
    raise UserError(f"expected usable noises, but {MAX_DRAWS} draws in a row gave silent or unreadable files: "
                    "check --path-noises")


def _shortened(name, n_bytes):
    """A name cut to `n_bytes` bytes of UTF-8; a byte that is no character becomes _."""
    return re.sub("[\ud800-\udfff]", "_", name).encode()[:n_bytes].decode(errors="ignore")


def _file_name(side, pair_id, noise, song, suffix):
    """The name of a pair's member, as long as a file system can take: the pair id alone tells files apart."""
    head, between, tail = f"{side.upper()}-{pair_id}-(", ")-(", f").{suffix}"
    room = MAX_NAME_BYTES - len(head + between + tail)
    noise = _shortened(noise, max(room // 2, room - len(_shortened(song, room).encode())))
    return head + noise + between + _shortened(song, room - len(noise.encode())) + tail


def _make_pair(job, song, song_number, pair_number):
    """Mix and write one pair; returns the journal's columns of the pair and its members."""
    settings, name = job.settings, song_name(song.path)
    name_key = int.from_bytes(name_digest(name)[:8], "big")
    rng = np.random.default_rng([settings.seed, name_key, pair_number])
    drawn, skipped = _draw_pair(job, rng, song, settings.split == "train")
    low, high = settings.snr_db or mixing.snr_range_db(song.second_rms)
    snrs = [float(rng.uniform(low, high)) for _ in drawn]
    members = [mixing.at_snr(signal, song, snr) for (_, signal, _), snr in zip(drawn, snrs, strict=True)]
    # With --clean-target too, the gain is that of the noisy pair: the same INPUT for both methods.
    gain = mixing.pair_gain(song, [*members, None][:2], settings.use_cuda)
    if settings.clean_target or len(members) == 1:
        drawn, members = drawn[:1], [members[0], None]
    names = [noise.name for noise, _, _ in drawn] + [CLEAN]
    pair_id = f"S{song_number}N{pair_number}"
    files = [_file_name(side, pair_id, noise, name, settings.format) for side, noise in zip(SIDES, names, strict=False)]
    paths = [d / f for d, f in zip(job.dirs, files, strict=True)]
    realised = mixing.write_pair(song, members, gain, paths, settings.use_cuda)
    row = {"pair_id": pair_id, "pair_number": pair_number, "gain": gain, "skipped_noises": json.dumps(skipped)}
    for i, side in enumerate(SIDES):
        columns = {"noise": CLEAN} if members[i] is None else drawn[i][2] | {
            "snr_db": snrs[i], "scale": members[i].scale, "realised_snr_db": realised[i]}
        columns |= {"file": files[i], "sha256": file_sha256(paths[i])}
        row |= {f"{side}_{key}": value for key, value in columns.items()}
    return row


def _make_pairs(job, path, song_number, pair_numbers):
    """Some pairs of one song; returns the journal's rows, or the sentence that says why there are none."""
    try:
        with one_of_many(path):
            song, sha256 = Song(path), file_sha256(path)
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
    # A journal of its own, so that the pairs of a long song are not lost with it.
    journal = job.dirs[0] / JOURNAL_PART.format(f"S{song_number}N{pair_numbers[0]}-{os.getpid()}")
    for n in pair_numbers:
        with uninterrupted():
            rows.append(shared | _make_pair(job, song, song_number, n))
            append_row(journal, rows[-1])
    return rows


def _work(job, path, song_number, pair_numbers):
    return song_number, _make_pairs(job, path, song_number, pair_numbers)


def _description(settings, files, skipped_songs, skipped_noises):
    """The content of dataset.json."""
    return {"command": settings.command(), "settings": asdict(settings), "skipped_songs": skipped_songs,
            "skipped_noises": skipped_noises,
            "sources": {"songs": settings.path_songs, "noises": settings.path_noises, "files": files},
            "versions": {"python": platform.python_version(), "numpy": np.__version__, "soxr": soxr.__version__,
                         "soundfile": soundfile.__version__}}


def _place(row):
    return number_in(row, "song_number", int), number_in(row, "pair_number", int)


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
    and nothing else. Songs and noises that cannot be read or are silent are skipped with a warning and listed in
    dataset.json, or end the run when `strict`. Raises CallError for unsuitable folders and for other settings, songs or
    noises than those of the pairs that are there, UserError when no song could be used.
    """
    dirs = input_dir, target_dir = Path(input_dir), Path(target_dir)
    check_folders({"--input-dir": input_dir, "--target-dir": target_dir})
    with locked(*dirs):
        return _build(settings, source, songs, dirs, jobs, strict, scheduler)


def _build(settings, source, songs, dirs, jobs, strict, scheduler):
    input_dir, _ = dirs
    for directory, side in zip(dirs, SIDES, strict=True):
        check_output(directory, side.upper())
    files = {"songs": [_relative(path, settings.path_songs) for path in songs],
             "noises": [_relative(clip.path, settings.path_noises) for clip in source.clips]}
    rows = finished_pairs(dirs)
    check_unchanged(dirs, settings, files, rows)
    take_over(dirs, rows)
    skipped, skipped_noises = {}, read_dataset(input_dir).get("skipped_noises", {})
    write_dataset(input_dir, _description(settings, files, skipped, skipped_noises))
    with pool(jobs, scheduler) as (parallel, n_workers):
        done = {_place(row) for row in rows}
        tasks = _tasks(songs, done, settings.iter_noise, n_workers)
        job = _Job(settings, source, tuple(d.absolute() for d in dirs), strict)
        results = parallel(joblib.delayed(_work)(job, song, number, pairs) for number, song, pairs in tasks)
        for number, result in tqdm(results, total=len(tasks), desc=f"mixing {settings.split} songs", unit="song",
                                   disable=None):
            if isinstance(result, str):
                if strict:
                    raise UserError(result)
                log.warning("skipped: %s", result)
                skipped[files["songs"][number - 1]] = result
            else:
                rows += result
    if not rows:
        raise UserError(f"expected at least one usable song in {settings.path_songs}, but all {len(songs)} were "
                        "skipped: see the warnings above")
    for directory, side in zip(dirs, SIDES, strict=True):
        check_output(directory, side.upper())  # a cluster's worker may have died, and another done its work
    rows.sort(key=_place)
    for row in rows:
        skipped_noises |= json.loads(row.pop("skipped_noises") or "{}")
    for reason in skipped_noises.values():
        log.warning("skipped: %s", reason)
    write_csv(input_dir / MANIFEST, rows, COLUMNS)
    write_dataset(input_dir, _description(settings, files, skipped, skipped_noises))
    for path in (input_dir / JOURNAL, *input_dir.glob(JOURNAL_PART.format("*"))):
        path.unlink()
    return rows
