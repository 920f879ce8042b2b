"""Making pools: from folders of songs and noises, and to and from a small file that travels.

The split is made here, once: songs as the mergers split them, noises by fold (common.data.noises) or, where a folder
has sub-folders train, validation and test, by those. A label comes from an UrbanSound8K name, else from the folder
that the clip lies in.
"""

import io
import json
import logging
import re
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import soundfile as sf
from tqdm import tqdm

from common.audio.reading import list_audio, read_audio
from common.audio.signals import MIN_SIGNAL_RMS
from common.data.noises import SPLITS, clips_for_split, folds_by_split, parse_clip, told_apart
from common.data.pairs import check_disjoint
from common.data.pool import FULL_SCALE, INDEX, SAMPLES, SONG, Clip, Pool, write_index
from common.data.songs import song_name, songs_for_split
from common.errors import CallError, UnusableError, UserError, one_of_many
from common.labels import CLASS_NAMES
from common.locks import LOCK, locked
from common.network.stft import SAMPLE_RATE

log = logging.getLogger(__name__)

# Opus knows no 44.1 kHz. The samples are handed over as if they were at 48 kHz, which changes nothing but the names
# of the frequencies in the codec, and saves two resamplings.
OPUS_RATE = 48000
# libsndfile maps compression levels 0..1 to these bits per second and channel, linearly.
OPUS_BITS_PER_SECOND = (256_000, 6_000)
# Bytes beside the coded audio: of a member (heads, tags, a generous start, the zip), and of a second (packet lengths,
# heads of pages); and the share by which the codec may miss its rate.
MEMBER_BYTES, SECOND_BYTES, RATE_ERROR = 800, 80, 0.03
_NUMBERED = re.compile(r"(\d)-.*")


def _label(path: Path) -> str:
    """A noise's class in words: from its name, else from its folder ("3-dog_bark" or any word)."""
    clip = parse_clip(path, 0)
    if clip.class_id is not None:
        return clip.label
    numbered = _NUMBERED.match(path.parent.name)
    return CLASS_NAMES[int(numbered[1])] if numbered else path.parent.name


def noise_files(folder: str | Path, split: str) -> list[Path]:
    """The noises of a split: of its sub-folder where there are such, else of the folds that stand for it."""
    folder = Path(folder)
    if any((folder / name).is_dir() for name in SPLITS):
        return list_audio(folder / split) if (folder / split).is_dir() else []
    return [clip.path for clip in clips_for_split(folder, split, folds_by_split(folder)[split])]


def _decode(path, split, label, recording):
    """A file as (Clip without a place, int16 samples), or a sentence why not."""
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
    return clip, np.rint(audio * (FULL_SCALE / peak)).astype(np.int16)


def _write(folder: Path, decoded: Iterable, strict: bool = True) -> Pool:
    """Write (Clip, samples) as they come, and list the sentences among them; the pool appears when it is whole."""
    clips, start, skipped = [], 0, []
    (folder / INDEX).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
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
    write_index(folder, clips, skipped)
    pool = Pool.load(folder)
    sizes = ", ".join(f"{split} {60 * pool.hours(split, True):.1f} / {60 * pool.hours(split, False):.1f} min"
                      for split in SPLITS if any(clip.split == split for clip in clips))
    log.info("%s: %d clips, %.2f GB; songs / noises: %s; skipped files: %d", folder, len(clips), 2e-9 * start, sizes,
             len(skipped))
    return pool


def _noise_clips(noises, split):
    """The noises of a split, of which none is taken for a piece of another's recording because of its name."""
    files = {path: f"{n}/{path.relative_to(source).as_posix()}" for n, source in enumerate(noises)
             for path in noise_files(source, split)}
    return told_apart([parse_clip(path, 0) for path in files], files)


def _work(songs, noises):
    """(path, split, label, recording) of all files for training and validation, which share no song or recording."""
    work, heard = [], {}
    for split in ("train", "validation"):
        files = [path for source in songs for path in songs_for_split(source, split)]
        clips = _noise_clips(noises, split)
        work += [(path, split, SONG, song_name(path)) for path in files]
        work += [(clip.path, split, _label(clip.path), clip.recording) for clip in clips]
        # Names that are not UrbanSound8K's say nothing of recordings.
        heard[split] = {*map(song_name, files)}, {clip.recording for clip in clips if clip.class_id is not None}
    check_disjoint(**heard)
    return work


def pack(songs: Sequence[str | Path], noises: Sequence[str | Path], folder: str | Path, jobs: int = -1,
         strict: bool = False) -> Pool:
    """Decode folders of songs and of noises into a pool at `folder`.

    Train and validation alone: what is kept for the test must not come near the training. Half a gigabyte holds 1.6
    hours of mono. Files that cannot be used are named, left out and listed in pool.json, or end it when `strict`.
    Raises CallError when a folder holds no audio or `folder` is in use, UserError when no file can be used, or when
    folders put a song or a recording into both splits.
    """
    folder = Path(folder)
    if folder.is_dir() and any(p.name not in (SAMPLES, INDEX, LOCK) for p in folder.iterdir()):
        raise CallError(f"expected an empty folder or a pool, but {folder} holds other files: choose another")
    work = _work(songs, noises)
    with locked(folder), joblib.Parallel(n_jobs=jobs, return_as="generator") as parallel:
        decoded = parallel(joblib.delayed(_decode)(*item) for item in work)
        return _write(folder, tqdm(decoded, total=len(work), desc="decoding", unit="file", disable=None), strict)


def _encode(samples, bits_per_second):
    """int16 (channels, samples) as Ogg Opus bytes."""
    high, low = OPUS_BITS_PER_SECOND
    level = float(np.clip((high - bits_per_second) / (high - low), 0, 1))
    target = io.BytesIO()
    sf.write(target, samples.T, OPUS_RATE, format="OGG", subtype="OPUS", compression_level=level)
    return target.getvalue()


def compact(pool: Pool, path: str | Path, megabytes: float = 50.0, jobs: int = -1) -> float:
    """Write a pool as a zip of Ogg Opus members of about `megabytes`; returns the bits per second and channel.

    The codec's rate is not exact: 300 clips of less than 3 s came out 2 % below to 1.5 % above.

    Seconds are the codec's, see OPUS_RATE. Raises CallError when that would take less than 8 kbit/s, which is not music
    any more.
    """
    path = Path(path)
    seconds = sum(clip.length for clip in pool.clips) / OPUS_RATE
    channel_seconds = sum(clip.channels * clip.length for clip in pool.clips) / OPUS_RATE
    room = 1e6 * megabytes - len(pool.clips) * MEMBER_BYTES - seconds * SECOND_BYTES
    rate = 8 * room * (1 - RATE_ERROR) / channel_seconds
    if rate < 8000:
        raise CallError(f"expected room for 8 kbit/s, but {megabytes:g} MB for {channel_seconds / 60:.0f} coded "
                        f"minutes are {rate / 1000:.1f} kbit/s: allow more megabytes or pack fewer files")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")

    def channels_of(clip):
        return pool.samples[clip.start : clip.start + clip.channels * clip.length].view(clip.channels, -1).numpy()

    with (zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
          joblib.Parallel(n_jobs=jobs, return_as="generator") as parallel):
        archive.writestr(INDEX, json.dumps([vars(clip) for clip in pool.clips]), zipfile.ZIP_DEFLATED)
        coded = parallel(joblib.delayed(_encode)(channels_of(clip), rate) for clip in pool.clips)
        for n, data in enumerate(tqdm(coded, total=len(pool.clips), desc="encoding", unit="clip", disable=None)):
            archive.writestr(f"{n:06d}.opus", data)
    temporary.replace(path)
    log.info("%s: %d clips at %.1f kbit/s and channel, %.1f MB", path, len(pool.clips), rate / 1000,
             path.stat().st_size / 1e6)
    return rate


def _members(archive):
    for n, row in enumerate(json.loads(archive.read(INDEX))):
        clip = Clip(**row)
        samples, _ = sf.read(io.BytesIO(archive.read(f"{n:06d}.opus")), dtype="int16", always_2d=True)
        samples = np.ascontiguousarray(samples.T[:, : clip.length])
        yield clip, np.pad(samples, ((0, 0), (0, clip.length - samples.shape[1])))


def unpack(path: str | Path, folder: str | Path) -> Pool:
    """Decode what `compact` wrote into a pool at `folder`. Raises UserError when `path` is no such file."""
    folder = Path(folder)
    if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        raise CallError(f"expected an empty folder, but {folder} holds files: choose another")
    if not Path(path).is_file():
        raise CallError(f"expected a compact pool, but {path} does not exist: check the path")
    try:
        with locked(folder), one_of_many(path), zipfile.ZipFile(path) as archive:
            return _write(folder, _members(archive))
    except UnusableError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"expected a compact pool, but {path} cannot be read ({error.__cause__}): make it again with "
                        "python -m common.training pack --megabytes") from error
