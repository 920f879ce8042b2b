"""The one reader of audio.

Everywhere in this project, audio in memory is an array of shape ``(channels, samples)``, float32
unless said otherwise, with full scale at +-1. The FFmpeg libraries that PyAV carries read everything; nothing has
to be installed beside it.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import soxr

from common.audio.containers import parts
from common.audio.decoding import ConversionError, Tally, UnreadableError, describe, joined, pieces, reason
from common.audio.sinks import AudioError
from common.errors import CallError, printable

log = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".aif", ".aiff", ".mp4", ".m4a", ".mp3", ".aac", ".opus")
# Files, with their times of change, for which a warning was given already.
_WARNED = set()


def list_audio(folder: str | Path) -> list[Path]:
    """All audio files below `folder`, sorted so that every machine sees the same order.

    Links to folders are followed, but no folder is entered twice. Raises CallError when the folder is missing or holds
    no audio.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CallError(f"expected a folder of audio files, but {folder} does not exist: check the path")
    # Names that begin with a dot are not audio: unfinished output, or what macOS leaves in archives.
    files = sorted(p for p in _below(folder)
                   if p.suffix.lower() in AUDIO_SUFFIXES and not p.name.startswith(".") and p.is_file())
    if not files:
        raise CallError(f"expected audio files ({', '.join(AUDIO_SUFFIXES)}) in {folder}, but there is none: "
                        "check the path")
    return files


def _below(folder):
    """All files below a folder. Links wait until real folders are done, so that a file has its own path if it can."""
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
    """A song's name: the file name without its suffix and without the `.stem` of a stem file."""
    return Path(path).stem.removesuffix(".stem")


class AudioReader:
    """Streams one audio file block by block; for files with several streams, the first audio stream.

    Attributes: `path`; `sample_rate` in Hz and `channels`, which later parts of another form are brought to; `layout`
    (FFmpeg's name of the channels, as "5.1(side)", None where unknown; they come in the order of WAV files); `codec`
    (FFmpeg's name); `subtype` (libsndfile's name of the least sample format that holds a lossless file, None for a
    lossy one); `bit_rate` of a lossy file in bits per second, or None; `seconds`. The last two are what headers say, 0
    and None where they do not, until all blocks were read once: then they are what was there.

    What is damaged is left out, with one warning. Raises AudioError when nothing can be decoded.
    """

    def __init__(self, path: str | Path):
        self.path, self._passes = Path(path), ExitStack()
        if not self.path.is_file():
            raise CallError(f"expected an audio file, but {self.path} does not exist: check the path")
        try:
            self._version = str(self.path), self.path.stat().st_mtime_ns
            self._parts, self._problem = parts(self.path)
        except OSError as error:
            raise self._unreadable(reason(error)) from error
        self._format = found = self._describe()
        self.sample_rate, self.channels, self.layout = found.sample_rate, found.channels, found.layout
        self.codec, self.subtype = found.codec, found.subtype
        self.bit_rate, self.seconds = found.bit_rate, found.seconds

    def _describe(self):
        first_error = None
        for part in self._parts:
            try:
                return describe(part)
            except UnreadableError as error:
                first_error = first_error or error
        raise self._unreadable(first_error) from first_error

    def _unreadable(self, error):
        return AudioError(f"expected a readable audio file, but {self.path} could not be decoded ({error}): replace or "
                          "remove it")

    def blocks(self, block_samples: int, dtype: str = "float32") -> Iterator[np.ndarray]:
        """Yield arrays of shape (channels, <= block_samples), in order, without overlap; `dtype` is of floats."""
        blocks = (_finite(joined(held, dtype), self.path) for held in _rechunk(self._pieces(), block_samples))
        self._passes.callback(blocks.close)
        return blocks

    def count_samples(self) -> int:
        """Samples per channel, for which the whole file is decoded once."""
        return sum(piece.n for piece in self._pieces())

    def _pieces(self):
        """One pass over the file."""
        n_samples, problems = 0, {"size": self._problem} if self._problem else {}

        def seconds():
            return f"{n_samples / self.sample_rate:.2f} s"

        def failed(error):
            problems.setdefault("damage", f"something cannot be decoded and is left out, first at {seconds()} "
                                          f"({reason(error)})")

        def changed(rate, channels):
            if (rate, channels) != self._format.form:
                problems.setdefault("change", f"at {seconds()} it changes from {self.channels} channels at "
                                              f"{self.sample_rate} Hz to {channels} at {rate} Hz, and is converted")

        tally = Tally(failed, changed)
        try:
            for part in self._parts:
                try:
                    for piece in pieces(part, self._format, tally):
                        n_samples += piece.n
                        yield piece
                except UnreadableError as error:
                    tally.fail(error)
                except ConversionError as error:
                    raise AudioError(f"expected one sample rate and number of channels, but {self.path} changes them "
                                     f"at {seconds()} in a way that cannot be converted ({error}): cut it there"
                                     ) from error
            self.seconds = n_samples / self.sample_rate
            if n_samples and not self.subtype:
                self.bit_rate = round(8 * tally.n_bytes / self.seconds)
        finally:
            if problems:
                self._warn("; ".join(problems.values()))

    def _warn(self, message):
        """Once per file, which is read twice and more."""
        if self._version not in _WARNED:
            _WARNED.add(self._version)
            log.warning("%s", printable(f"{self.path}: {message}"))

    def close(self):
        """End the passes that were left in the middle, and with them release the file."""
        self._passes.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _finite(block, path):
    if not np.isfinite(block).all():
        raise AudioError(f"expected finite samples, but {path} holds NaN or infinity: replace or remove it")
    return block


def _rechunk(pieces, block_samples):
    """Lists of pieces that have exactly `block_samples` together (the last one fewer), from pieces of any length."""
    held, n_held = [], 0
    for piece in pieces:
        while n_held + piece.n >= block_samples:
            yield [*held, piece.cut(0, block_samples - n_held)]
            piece, held, n_held = piece.cut(block_samples - n_held, piece.n), [], 0
        if piece.n:
            held.append(piece)
            n_held += piece.n
    if held:
        yield held


def read_audio(path: str | Path, sample_rate: int | None = None, mono: bool = False) -> tuple[np.ndarray, int]:
    """Read a whole file as float32 of shape (channels, samples).

    `sample_rate` resamples; `mono` averages the channels (shape (1, samples)). Returns the audio and
    its rate in Hz. Raises AudioError for a file that cannot be decoded or holds no sample.
    """
    with AudioReader(path) as reader:
        blocks = list(reader.blocks(1 << 20))
        rate = reader.sample_rate
    if not blocks:
        raise AudioError(f"expected audio, but {path} holds no samples: replace or remove it")
    audio = np.concatenate(blocks, axis=-1)
    if mono:
        audio = audio.mean(axis=0, keepdims=True)
    if sample_rate and sample_rate != rate:
        audio, rate = resample(audio, rate, sample_rate), sample_rate
    return audio, rate


def resample(audio: np.ndarray, rate_in: int, rate_out: int) -> np.ndarray:
    """Band-limited resampling of (channels, samples); the same bits on every run (soxr, HQ)."""
    if rate_in == rate_out:
        return audio
    return np.ascontiguousarray(soxr.resample(audio.T, rate_in, rate_out).T)
