"""The one reader of audio.

Audio in memory is always an array of shape (channels, samples), by default float32, with full scale at +-1. The FFmpeg
libraries inside PyAV read all formats; nothing else has to be installed.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import islice
from pathlib import Path

import numpy as np
import soxr

from common.audio.container_repair import parts
from common.audio.decoding import ConversionError, Format, Tally, UnreadableError, decode, describe, reason
from common.errors import AudioError, CallError, printable

log = logging.getLogger(__name__)

# What is audio in a folder. A file that is named may be anything else that FFmpeg reads, such as a film.
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".aac", ".aiff", ".aif", ".aifc",
                  ".wma", ".wv", ".ape", ".caf", ".mka", ".mp2")
# The files that a warning was given for, with their times of change.
_WARNED = set()


def list_audio(folder: str | Path) -> list[Path]:
    """Find all audio files below `folder`, in the same order on every machine.

    Links to folders are followed, but no folder is entered twice. Raises CallError if the folder is missing or holds no
    audio.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CallError(f"expected a folder of audio files, but {folder} does not exist: check the path")
    # Names that begin with a dot are unfinished outputs, or files that macOS leaves in archives.
    files = sorted(p for p in _below(folder)
                   if p.suffix.lower() in AUDIO_SUFFIXES and not p.name.startswith(".") and p.is_file())
    if not files:
        raise CallError(f"expected audio files ({', '.join(AUDIO_SUFFIXES)}) in {folder}, but there is none: "
                        "check the path")
    return files


def _below(folder):
    """Find all files below a folder. Links are followed last, so that a file gets its real path if it has one there."""
    links, entered = [folder], set()
    while links:
        for root, folders, names in os.walk(links.pop(0), onerror=lambda error: log.warning("not read: %s", error)):
            real = os.path.realpath(root)
            if real in entered:
                folders.clear()
                continue
            entered.add(real)
            folders.sort()
            links += [Path(root, name) for name in folders if os.path.islink(os.path.join(root, name))]
            yield from (Path(root, name) for name in names)


def audio_name(path: str | Path) -> str:
    """Return the name of a song: the file name without its suffix, and without the `.stem` of a stem file."""
    return Path(path).stem.removesuffix(".stem")


class AudioReader(AbstractContextManager):
    """Streams one audio file block by block; if the file has several audio streams, the first one.

    Attributes: `path`; `sample_rate` in Hz and `channels` (later parts of another form are converted to these);
    `layout` (FFmpeg's name of the channel layout, such as "5.1(side)", or None; channels come in the order of WAV
    files); `codec` (FFmpeg's name); `subtype` (libsndfile's name of the smallest sample format that holds a lossless
    file, None for a lossy file); `bit_rate` of a lossy file in bits per second, or None; `seconds`. The last two come
    from headers, None and 0 where headers do not say them, until all blocks were read once: then they are exact.

    Damaged parts are left out, with one warning per file. Raises AudioError if nothing can be decoded.
    """

    def __init__(self, path: str | Path):
        self.path, self._passes = Path(path), ExitStack()
        if not self.path.is_file():
            raise CallError(f"expected an audio file, but {self.path} does not exist: check the path")
        try:
            self._version = str(self.path), self.path.stat().st_mtime_ns
            self._parts = parts(self.path)
            self._format = found = self._describe()
        except (OSError, UnreadableError) as error:
            raise AudioError(f"expected a readable audio file, but {self.path} could not be decoded ({reason(error)}): "
                             "replace or remove it") from error
        self.sample_rate, self.channels, self.layout = found.sample_rate, found.channels, found.layout
        self.codec, self.subtype = found.codec, found.subtype
        self.bit_rate, self.seconds = found.bit_rate, found.seconds

    def _describe(self) -> Format:
        """Find the format of the first part that can be decoded."""
        first_error = None
        for part in self._parts:
            try:
                return describe(part)
            except UnreadableError as error:
                first_error = first_error or error
        raise first_error

    def blocks(self, block_samples: int, dtype: str = "float32") -> Iterator[np.ndarray]:
        """Yield arrays of shape (channels, block_samples), the last one shorter, of type float32 or float64."""
        blocks = self._blocks(block_samples, dtype)
        self._passes.callback(blocks.close)
        return blocks

    def count_samples(self) -> int:
        """Count the samples per channel; this decodes the whole file once."""
        return sum(audio.shape[-1] for audio in self._decoded())

    def _blocks(self, block_samples, dtype):
        for block in _of_length(self._decoded(dtype), block_samples):
            if not np.isfinite(block).all():
                raise AudioError(f"expected finite samples, but {self.path} holds NaN or infinity: replace or remove "
                                 "it")
            yield block

    def _decoded(self, dtype="float32"):
        """Yield the samples of one pass over the file, in arrays of any length."""
        tally = Tally(self.sample_rate)
        try:
            for part in self._parts:
                try:
                    for audio in decode(part, self._format, tally, dtype):
                        tally.n_samples += audio.shape[-1]
                        yield audio
                except UnreadableError as error:
                    tally.fail(error)
                except ConversionError as error:
                    raise AudioError(f"expected one sample rate and number of channels, but {self.path} changes them "
                                     f"at {tally.seconds:.2f} s in a way that cannot be converted ({error}): cut it "
                                     "there") from error
            self.seconds = tally.seconds
            if tally.n_samples and not self.subtype:
                self.bit_rate = round(8 * tally.n_bytes / self.seconds)
        finally:
            if tally.problems and self._version not in _WARNED:
                _WARNED.add(self._version)
                log.warning("%s", printable(f"{self.path}: {'; '.join(tally.problems.values())}"))

    def close(self):
        """End the passes that have not reached the end of the file, and release the file."""
        self._passes.close()

    def __exit__(self, *_):
        self.close()


def _of_length(arrays, block_samples):
    """Join and cut arrays of any length into arrays of exactly `block_samples`, the last one shorter."""
    held, n_held = [], 0
    for audio in arrays:
        while n_held + audio.shape[-1] >= block_samples:
            missing = block_samples - n_held
            yield np.concatenate([*held, audio[:, :missing]], axis=-1)
            audio, held, n_held = audio[:, missing:], [], 0
        if audio.size:
            held.append(audio)
            n_held += audio.shape[-1]
    if held:
        yield np.concatenate(held, axis=-1)


def read_audio(path: str | Path, sample_rate: int | None = None,
               max_seconds: int | None = None) -> tuple[np.ndarray, int]:
    """Read a file as float32 of shape (channels, samples), the whole of it or its first `max_seconds`.

    `sample_rate` in Hz resamples. Returns the audio and its rate in Hz. Raises AudioError for a file that cannot be
    decoded or holds no samples.
    """
    with AudioReader(path) as reader:
        rate = reader.sample_rate
        blocks = list(islice(reader.blocks(rate), max_seconds))
    if not blocks:
        raise AudioError(f"expected audio, but {path} holds no samples: replace or remove it")
    audio = np.concatenate(blocks, axis=-1)
    return (resample(audio, rate, sample_rate), sample_rate) if sample_rate else (audio, rate)


def resample(audio: np.ndarray, rate_in: int, rate_out: int) -> np.ndarray:
    """Resample (channels, samples) with soxr's high quality; every run gives the same bits."""
    if rate_in == rate_out:
        return audio
    return np.ascontiguousarray(soxr.resample(audio.T, rate_in, rate_out).T)
