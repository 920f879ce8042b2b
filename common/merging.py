"""Building a dataset of pairs: songs and a noise source in, INPUT and TARGET files and a manifest out.

Every pair is decided by (seed, song, pair number) alone, so that worker processes, interruptions and
reruns do not change a byte. Finished songs are noted in a journal; the manifest appears when all is done.
"""

import csv
import hashlib
import json
import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib
import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from common import mixing
from common.audio import AudioError, audio_name, list_audio, read_audio, resample, to_pcm, write_audio
from common.errors import CallError, UserError
from common.noises import SPLITS, Noise, NoiseClip, NoiseSource, WhiteNoise

log = logging.getLogger(__name__)

MANIFEST, DATASET, JOURNAL = "manifest.csv", "dataset.json", "journal.csv"
NOISE_COLUMNS = ("noise", "noise_class", "noise_fold", "noise_recording", "noise_offset", "noise_loops",
                 "white_seed", "snr_db", "realised_snr_db", "file", "sha256")
COLUMNS = ("pair_id", "split", "song_number", "pair_number", "song", "song_sha256", "sample_rate", "channels",
           "samples", "gain", *(f"input_{c}" for c in NOISE_COLUMNS), *(f"target_{c}" for c in NOISE_COLUMNS))
# Draws after which a pair gives up on finding a noise that can be read and heard.
MAX_DRAWS = 20
CLEAN = "CLEAN"


@dataclass(frozen=True)
class MergeSettings:
    """What decides the bytes of a dataset, besides the sources themselves. `snr_db` None: by dynamics."""

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


def songs_for_split(folder: str | Path, split: str) -> list[Path]:
    """The songs that `split` may use.

    A folder with sub-folders train, validation or test (as MUSDB18's) is taken at its word, and so is a
    folder that is itself named after the split. Any other folder is divided by song name, about 70 : 15 : 15,
    so that no song is ever in two splits; files with one name (a song and its stem file) count as one song.
    """
    folder = Path(folder)
    named = {s: folder / s for s in SPLITS if (folder / s).is_dir()}
    if named:
        if split not in named:
            raise CallError(f"expected a folder {folder / split} beside {', '.join(map(str, named.values()))}, "
                            f"but there is none: put the songs of split {split} there")
        return list_audio(named[split])
    songs = list_audio(folder)
    own = folder.resolve().name
    if own in SPLITS:
        if own != split:
            raise CallError(f"expected songs for split {split}, but {folder} is named after split {own}: give "
                            "its parent folder or another one")
        return songs
    # Ranked by a hash, so that the division has nothing to do with the alphabet.
    names = sorted({audio_name(p) for p in songs}, key=lambda n: hashlib.sha256(n.encode()).digest())
    n_held_out = max(1, round(0.15 * len(names)))
    part = {"test": names[:n_held_out], "validation": names[n_held_out : 2 * n_held_out],
            "train": names[2 * n_held_out :]}[split]
    if not part:
        raise CallError(f"expected at least 3 songs in {folder} to divide into train, validation and test, got "
                        f"{len(names)}: add songs, or sort them into sub-folders {', '.join(SPLITS)}")
    log.info("%s has no sub-folders %s: divided by name, split %s gets %d of %d songs", folder,
             "/".join(SPLITS), split, len(part), len(names))
    return [p for p in songs if audio_name(p) in set(part)]


def choose_songs(settings: MergeSettings) -> list[Path]:
    """At most `iter_songs` songs of the split, in an order drawn from the seed."""
    songs = songs_for_split(settings.path_songs, settings.split)
    order = np.random.default_rng(settings.seed).permutation(len(songs))
    return [songs[i] for i in order[: settings.iter_songs]]


def file_sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _realise(noise: Noise, rng, song, sample_rate):
    """The noise as an array like `song`, and its manifest columns."""
    channels, n_samples = song.shape
    if isinstance(noise, WhiteNoise):
        return mixing.white_noise(noise.seed, channels, n_samples), {"white_seed": noise.seed}
    audio, rate = read_audio(noise.path)
    audio = resample(audio, rate, sample_rate)
    offset = int(rng.integers(audio.shape[-1]))
    columns = {"noise_fold": noise.fold, "noise_recording": noise.recording, "noise_offset": offset,
               "noise_loops": -(-(n_samples + offset) // audio.shape[-1])}
    try:
        return mixing.fit_noise(audio, channels, n_samples, offset), columns
    except mixing.SilentError as error:
        raise mixing.SilentError(f"expected a noise with signal, but {noise.path} is silent: remove it") from error


def _draw_pair(source, rng, song, sample_rate, paired):
    """Two noises (the second None unless `paired`) that could be read and are not silent."""
    for _ in range(MAX_DRAWS):
        noises = [source.first(rng)]
        if paired:
            noises.append(source.second(rng, noises[0]))
        try:
            members = [(noise, *_realise(noise, rng, song, sample_rate)) for noise in noises]
        except (AudioError, mixing.SilentError) as error:
            log.warning("drawing other noises: %s", error)
            continue
        return members if paired else [*members, None]
    raise UserError(f"expected usable noises, but {MAX_DRAWS} draws in a row gave silent or unreadable files: "
                    "check --path-noises")


def _member_columns(side, member, snr_db, realised, path):
    if member is None:
        columns = {"noise": CLEAN}
    else:
        noise, _, columns = member
        path_text = str(noise.path) if isinstance(noise, NoiseClip) else noise.name
        columns = {**columns, "noise": path_text, "noise_class": noise.label, "snr_db": snr_db,
                   "realised_snr_db": realised}
    columns = {**columns, "file": path.name, "sha256": file_sha256(path)}
    return {f"{side}_{name}": value for name, value in columns.items()}


def _make_pair(settings, source, song, rate, song_path, song_number, pair_number, dirs):
    """Mix and write one pair; returns its manifest row without the song's own columns."""
    name = audio_name(song_path)
    name_key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    rng = np.random.default_rng([settings.seed, name_key, pair_number])
    members = _draw_pair(source, rng, song, rate, settings.split == "train")
    low, high = settings.snr_db or mixing.snr_range_db(song, rate)
    snrs = [float(rng.uniform(low, high)), float(rng.uniform(low, high)) if members[1] else None]
    (_, noise, _), second = members[0], members[1] and members[1][1]
    pair = mixing.mix_pair(song, noise, snrs[0], second, snrs[1], settings.use_cuda)
    row = {"gain": pair.gain}
    scaled_song = song * pair.gain
    for side, directory, audio, member, snr in zip(("input", "target"), dirs, (pair.input, pair.target), members,
                                                   snrs, strict=True):
        noise_name = member[0].name if member else CLEAN
        path = directory / f"{side.upper()}-S{song_number}N{pair_number}-({noise_name})-({name}).wav"
        write_audio(path, audio, rate, "PCM_16")
        written = to_pcm(audio, 16)[0] / 32768
        realised = mixing.snr_db(song, (written - scaled_song) / pair.gain) if member else None
        row |= _member_columns(side, member, snr, realised, path)
    return row


def _make_song(settings, source, song_path, song_number, input_dir, target_dir):
    """All pairs of one song; returns the manifest rows, or the sentence that says why there are none."""
    try:
        song, rate = read_audio(song_path)
        if mixing.power(song) < mixing.SILENT_RMS**2:
            raise mixing.SilentError(f"expected a song with signal, but {song_path} is silent: remove it")
    except (AudioError, mixing.SilentError) as error:
        return str(error)
    shared = {"split": settings.split, "song_number": song_number, "song": str(song_path),
              "song_sha256": file_sha256(song_path), "sample_rate": rate, "channels": song.shape[0],
              "samples": song.shape[1]}
    rows = []
    for n in range(1, settings.iter_noise + 1):
        row = _make_pair(settings, source, song, rate, song_path, song_number, n, (input_dir, target_dir))
        rows.append({"pair_id": f"S{song_number}N{n}", "pair_number": n} | shared | row)
    return rows


def _write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_manifest(directory: str | Path) -> list[dict[str, str]]:
    """The manifest rows of a dataset's input folder, all values as text; empty when there is none."""
    path = Path(directory) / MANIFEST
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _journal_rows(path, dirs):
    """Rows of whole songs from an interrupted run whose files are still there."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["target_sha256"]]  # a torn last line lacks it
    return [row for row in rows if all((d / row[f"{s}_file"]).is_file()
                                       for d, s in zip(dirs, ("input", "target"), strict=True))]


def _check_output(directory, prefix):
    """Refuse a folder that holds anything but this tool's own files; remove what a killed run left."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in sorted(directory.iterdir()):
        if path.name.startswith(f".{prefix}-") and path.suffix == ".tmp":
            path.unlink()
        elif not (path.name.startswith(f"{prefix}-") or path.name in (MANIFEST, DATASET, JOURNAL)):
            raise CallError(f"expected an empty folder or an unfinished dataset of the same command, but "
                            f"{directory} holds {path.name}: choose another folder or move the file away")


def _check_settings(settings, input_dir, target_dir):
    """Continue only a dataset of the same settings."""
    path = input_dir / DATASET
    if not path.is_file():
        leftovers = [p for d in (input_dir, target_dir) for p in sorted(d.iterdir())]
        if leftovers:
            raise CallError(f"expected an empty folder or an unfinished dataset of the same command, but "
                            f"{leftovers[0]} belongs to no known dataset: choose another folder")
        return
    stored = json.loads(path.read_text(encoding="utf-8"))["settings"]
    current = json.loads(json.dumps(asdict(settings)))
    changed = [f"{k} was {stored.get(k)!r} and is {v!r}" for k, v in current.items() if stored.get(k) != v]
    if changed:
        raise CallError(f"expected the settings with which {input_dir} was begun, but {'; '.join(changed)}: use "
                        "the same ones or other output folders")


def _write_dataset(settings, input_dir, skipped):
    versions = {"python": platform.python_version(), "numpy": np.__version__, "soxr": soxr.__version__,
                "soundfile": soundfile.__version__}
    content = {"settings": asdict(settings), "versions": versions, "skipped_songs": skipped}
    temporary = input_dir / f".INPUT-{DATASET}.tmp"
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, input_dir / DATASET)


def build_dataset(settings: MergeSettings, source: NoiseSource, songs: Sequence[Path], input_dir: str | Path,
                  target_dir: str | Path, jobs: int = -1, strict: bool = False) -> list[dict]:
    """Write the pairs of all `songs` and return the manifest rows.

    `jobs` worker processes (-1: one per core) change the time and nothing else. Songs that cannot be read
    or are silent are skipped with a warning and listed in dataset.json, or end the run when `strict`.
    Raises CallError for unsuitable folders, UserError when no song could be used.
    """
    dirs = input_dir, target_dir = Path(input_dir), Path(target_dir)
    if input_dir.resolve() == target_dir.resolve():
        raise CallError(f"expected two output folders, but --input-dir and --target-dir are both {input_dir}")
    _check_output(input_dir, "INPUT")
    _check_output(target_dir, "TARGET")
    _check_settings(settings, input_dir, target_dir)
    if (input_dir / MANIFEST).is_file():
        rows = _journal_rows(input_dir / MANIFEST, dirs)
    else:
        rows = _journal_rows(input_dir / JOURNAL, dirs)
        _write_dataset(settings, input_dir, [])
    counts = {str(p): sum(row["song"] == str(p) for row in rows) for p in songs}
    todo = [(n, p) for n, p in enumerate(songs, 1) if counts[str(p)] < settings.iter_noise]
    rows = [row for row in rows if counts.get(row["song"]) == settings.iter_noise]
    skipped = {}
    with open(input_dir / JOURNAL, "w", newline="", encoding="utf-8") as journal:
        writer = csv.DictWriter(journal, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        work = (joblib.delayed(_make_song)(settings, source, p, n, input_dir, target_dir) for n, p in todo)
        results = joblib.Parallel(n_jobs=jobs, return_as="generator")(work)
        progress = tqdm(results, total=len(todo), desc=f"mixing {settings.split} songs", unit="song", disable=None)
        for (_, path), result in zip(todo, progress, strict=True):
            if isinstance(result, str):
                if strict:
                    raise UserError(result)
                skipped[str(path)] = result
                log.warning("skipped: %s", result)
                continue
            rows += result
            writer.writerows(result)
            journal.flush()
    if not rows:
        raise UserError(f"expected at least one usable song in {settings.path_songs}, but all {len(songs)} were "
                        "skipped: see the warnings above")
    rows.sort(key=lambda row: (int(row["song_number"]), int(row["pair_number"])))
    temporary = input_dir / f".INPUT-{MANIFEST}.tmp"
    _write_csv(temporary, rows)
    os.replace(temporary, input_dir / MANIFEST)
    _write_dataset(settings, input_dir, skipped)
    (input_dir / JOURNAL).unlink()
    return rows
