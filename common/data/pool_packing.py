"""Make pools from folders of songs and noises, and write pools as small files for another machine and back.

Songs are split as in the mergers, noises by fold (common.data.noises) or by sub-folders train, validation and test. The
label of a noise comes from its UrbanSound8K name, otherwise from its folder.
"""

import io
import json
import logging
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import soundfile as sf
from tqdm import tqdm

from common.audio.reading import list_audio, read_audio
from common.audio.signals import MIN_SIGNAL_RMS
from common.data.noises import SPLITS, clips_for_split, folds_by_split, parse_clip, separate_namesakes
from common.data.pairs import check_disjoint
from common.data.pool import CLIP_PEAK, INDEX, SAMPLES, SONG, Clip, Pool, write_index
from common.data.songs import song_name, songs_for_split
from common.errors import CallError, UnusableError, UserError, one_of_many
from common.labels import CLASS_NAMES
from common.locks import LOCK, locked
from common.network.stft import SAMPLE_RATE
from common.workers import worker_processes

log = logging.getLogger(__name__)

# Opus has no 44.1 kHz. The samples are coded as if they were at 48 kHz, which saves two resamplings and only changes
# the codec's idea of their frequencies.
OPUS_RATE = 48000
# Bits per second and channel at libsndfile's compression levels 0 and 1; the level in between is linear.
OPUS_BITS_PER_SECOND = (256_000, 6_000)
# Bytes beside the coded audio of each member (headers, tags, start of the stream, zip) and of each second (packet
# lengths, page headers), and the largest relative error of the codec's rate.
MEMBER_BYTES, SECOND_BYTES, RATE_ERROR = 800, 80, 0.03
_NUMBERED_FOLDER = re.compile(r"(\d)-.*")


def noise_files(folder: str | Path, split: str) -> list[Path]:
    """Return the noises of a split: those of its sub-folder if `folder` has any such, otherwise those of its folds."""
    folder = Path(folder)
    if any((folder / name).is_dir() for name in SPLITS):
        return list_audio(folder / split) if (folder / split).is_dir() else []
    return [clip.path for clip in clips_for_split(folder, split, folds_by_split(folder)[split])]


def _label(clip):
    """The class name of a noise from its file name, otherwise from its folder ("3-dog_bark" or any word)."""
    folder = clip.path.parent.name
    if clip.class_id is not None:
        return clip.label
    numbered = _NUMBERED_FOLDER.match(folder)
    return CLASS_NAMES[int(numbered[1])] if numbered else folder


def _decode(path, split, label, recording):
    """A file as (Clip without a place, int16 samples), or the sentence that says why it cannot be used."""
    try:
        with one_of_many(path):
            audio, _ = read_audio(path, SAMPLE_RATE)
    except UnusableError as error:
        return str(error)
    rms = float(np.sqrt(np.square(audio, dtype=np.float64).mean())) if audio.size else 0.0
    if rms <= MIN_SIGNAL_RMS:
        return f"expected audio with signal, but {path} is silent: remove it"
    peak = float(np.abs(audio).max())
    name = song_name(path) if label == SONG else path.name
    clip = Clip(name, split, label, recording, len(audio), 0, audio.shape[1], rms / peak)
    return clip, np.rint(audio * (CLIP_PEAK / peak)).astype(np.int16)


def _write(folder: Path, decoded: Iterable, strict: bool = True) -> Pool:
    """Write (Clip, samples) one by one; sentences among them are logged and listed, or an error when `strict`."""
    clips, start, skipped = [], 0, []
    (folder / INDEX).unlink(missing_ok=True)
    with open(folder / SAMPLES, "wb") as file:
        for item in decoded:
            if isinstance(item, str):
                if strict:
                    raise UserError(item)
                log.warning("skipped: %s", item)
                skipped.append(item)
                continue
            clip, samples = item
            clips.append(replace(clip, start=start))
            start += samples.size
            file.write(samples.tobytes())
    if not clips:
        raise UserError(f"expected audio with signal, but none of {len(skipped)} files could be used: see the warnings")
    write_index(folder, clips, skipped)  # the folder is a pool from here on
    minutes = Counter()
    for clip in clips:
        minutes[clip.split, clip.label == SONG] += clip.length / SAMPLE_RATE / 60
    sizes = ", ".join(f"{split} {minutes[split, True]:.1f} / {minutes[split, False]:.1f} min"
                      for split in dict.fromkeys(clip.split for clip in clips))
    log.info("%s: %d clips, %.2f GB; songs / noises: %s; skipped files: %d", folder, len(clips), 2e-9 * start, sizes,
             len(skipped))
    return Pool.load(folder)


def _files_to_decode(songs, noises):
    """(path, split, label, recording) of all files for training and validation, which share no song or recording."""
    files, names = [], {}
    for split in ("train", "validation"):
        paths = [path for source in songs for path in songs_for_split(source, split)]
        own_names = {path: f"{n}/{path.relative_to(source).as_posix()}" for n, source in enumerate(noises)
                     for path in noise_files(source, split)}
        clips = separate_namesakes([parse_clip(path) for path in own_names], own_names)
        files += [(path, split, SONG, song_name(path)) for path in paths]
        files += [(clip.path, split, _label(clip), clip.recording) for clip in clips]
        # Only UrbanSound8K's names identify recordings.
        names[split] = {*map(song_name, paths)}, {clip.recording for clip in clips if clip.class_id is not None}
    check_disjoint(**names)
    return files


def pack(songs: Sequence[str | Path], noises: Sequence[str | Path], folder: str | Path, jobs: int = -1,
         strict: bool = False) -> Pool:
    """Decode folders of songs and of noises into a pool at `folder`; half a gigabyte holds 1.6 hours of mono.

    Only training and validation files are packed, so that test files stay away from training. strict: a file that
    cannot be used is an error; otherwise it is left out with a warning and listed in pool.json. Raises CallError when a
    folder holds no audio or `folder` is in use, UserError when no file can be used and when both splits share a song or
    a recording.
    """
    folder = Path(folder)
    if folder.is_dir() and any(p.name not in (SAMPLES, INDEX, LOCK) for p in folder.iterdir()):
        raise CallError(f"expected an empty folder or a pool, but {folder} holds other files: choose another")
    files = _files_to_decode(songs, noises)
    with locked(folder), worker_processes(jobs) as parallel:
        decoded = parallel(joblib.delayed(_decode)(*item) for item in files)
        return _write(folder, tqdm(decoded, total=len(files), desc="decoding", unit="file", disable=None), strict)


def _encode(samples, bits_per_second):
    """int16 (channels, samples) as Ogg Opus bytes."""
    high, low = OPUS_BITS_PER_SECOND
    level = float(np.clip((high - bits_per_second) / (high - low), 0, 1))
    target = io.BytesIO()
    sf.write(target, samples.T, OPUS_RATE, format="OGG", subtype="OPUS", compression_level=level)
    return target.getvalue()


def compact(pool: Pool, path: str | Path, megabytes: float = 50.0, jobs: int = -1) -> float:
    """Write a pool as a zip of Ogg Opus files of about `megabytes`; returns the bits per second and channel.

    The rate of the codec is not exact: 300 clips of less than 3 s came out 2 % below to 1.5 % above. Raises CallError
    when less than 8 kbit/s are left, which would not be music any more.
    """
    path, n_clips = Path(path), len(pool.clips)
    # Seconds as the codec counts them, see OPUS_RATE.
    seconds = sum(clip.length for clip in pool.clips) / OPUS_RATE
    channel_seconds = sum(clip.channels * clip.length for clip in pool.clips) / OPUS_RATE
    room = 1e6 * megabytes - n_clips * MEMBER_BYTES - seconds * SECOND_BYTES
    rate = 8 * room * (1 - RATE_ERROR) / channel_seconds
    if rate < 8000:
        raise CallError(f"expected room for 8 kbit/s, but {megabytes:g} MB for {channel_seconds / 60:.0f} coded "
                        f"minutes are {rate / 1000:.1f} kbit/s: allow more megabytes or pack fewer files")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    channels = (pool.samples[clip.start : clip.start + clip.channels * clip.length].view(clip.channels, -1).numpy()
                for clip in pool.clips)
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive, worker_processes(jobs) as parallel:
        archive.writestr(INDEX, json.dumps([vars(clip) for clip in pool.clips]), zipfile.ZIP_DEFLATED)
        coded = parallel(joblib.delayed(_encode)(samples, rate) for samples in channels)
        for n, data in enumerate(tqdm(coded, total=n_clips, desc="encoding", unit="clip", disable=None)):
            archive.writestr(f"{n:06d}.opus", data)
    temporary.replace(path)
    log.info("%s: %d clips at %.1f kbit/s and channel, %.1f MB", path, n_clips, rate / 1000, path.stat().st_size / 1e6)
    return rate


def _decode_members(archive):
    """(Clip, int16 samples) of all files of a compact pool."""
    for n, row in enumerate(json.loads(archive.read(INDEX))):
        clip = Clip(**row)
        samples, _ = sf.read(io.BytesIO(archive.read(f"{n:06d}.opus")), dtype="int16", always_2d=True)
        samples = np.ascontiguousarray(samples.T[:, : clip.length])
        yield clip, np.pad(samples, ((0, 0), (0, clip.length - samples.shape[1])))


def unpack(path: str | Path, folder: str | Path) -> Pool:
    """Decode a compact pool into a pool at `folder`.

    Raises CallError when the file is missing or `folder` is not empty, UserError for another kind of file.
    """
    folder = Path(folder)
    if folder.is_dir() and any(p.name != LOCK for p in folder.iterdir()):
        raise CallError(f"expected an empty folder, but {folder} holds files: choose another")
    if not Path(path).is_file():
        raise CallError(f"expected a compact pool, but {path} does not exist: check the path")
    try:
        with locked(folder), one_of_many(path), zipfile.ZipFile(path) as archive:
            return _write(folder, _decode_members(archive))
    except UnusableError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"expected a compact pool, but {path} cannot be read ({error.__cause__}): make it again with "
                        "python -m common.training pack --megabytes") from error
