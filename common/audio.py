"""The one reader and the one writer of audio.

Everywhere in this project, audio in memory is an array of shape ``(channels, samples)``, float32
unless said otherwise, with full scale at +-1. Everything is read through the FFmpeg libraries that PyAV carries; MP3
and M4A are written through them, WAV, FLAC and Ogg through libsndfile. Neither needs a system install.
"""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import av
import numpy as np
import soundfile as sf
import soxr

from common.containers import parts
from common.decoding import ConversionError, Tally, UnreadableError, describe, joined, pieces, reason
from common.errors import CallError, printable
from common.sinks import FORMATS, PCM_BITS, AudioError, choose_codec, open_sink, place_channels
from common.tags import Tags, write_tags

log = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".aif", ".aiff", ".mp4", ".m4a", ".mp3", ".aac", ".opus")
OUTPUT_SUFFIXES = tuple(FORMATS)
CLIP_POLICIES = ("rescale", "limit", "none")
WRITE_ERRORS = (sf.LibsndfileError, av.FFmpegError, OSError)
# libsndfile's Vorbis encoder overflows its stack on very long blocks.
WRITE_BLOCK = 1 << 16
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


def to_pcm(audio: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """Round (channels, samples) to integers of `bits`; returns them and how many samples were limited.

    Done here and not by libsndfile, which scales floats by 2**(bits-1) - 1 on the way out but by
    2**(bits-1) on the way in, so that a file read and written again would change.
    """
    full_scale = 2 ** (bits - 1)
    scaled = np.rint(audio.astype(np.float64) * full_scale)
    limited = np.clip(scaled, -full_scale, full_scale - 1)
    return limited.astype(np.int16 if bits == 16 else np.int32), int((scaled != limited).sum())


def _interleaved(audio, order=None):
    """(channels, samples) to contiguous (samples, channels), by channel: NumPy's own transposing copy is 9x slower."""
    out = np.empty(audio.shape[::-1], audio.dtype)
    for place, channel in enumerate(order or range(len(audio))):
        out[:, place] = audio[channel]
    return out


def _held(codec, subtype, path):
    """The sample format that the codec keeps, none for a lossy one; a warning where it has fewer bits."""
    if not codec.subtypes or subtype in codec.subtypes:
        return subtype if codec.subtypes else None
    if subtype is None:
        return "PCM_16"
    log.warning("%s will hold whole numbers of 24 bits, fewer than the %s that comes in, so that bits are lost: write "
                "WAV to keep them", path, subtype)
    return "PCM_24"


class AudioWriter:
    """Writes blocks to a temporary file beside `path` and renames it when all went well.

    The format follows the suffix (OUTPUT_SUFFIXES). `like`, an AudioReader, is the input that the audio comes from: a
    file of its kind keeps its codec and about its bit rate, and every file its sample format and the layout of its
    channels where the format holds them. `subtype` is another sample format, of lossless files (PCM_16, PCM_24,
    PCM_32, FLOAT, DOUBLE). `tags` are written too. Opus is resampled to 48 kHz.

    `clip` is what happens to samples above full scale in a format that cannot hold them: "limit" sets them to full
    scale, "rescale" lowers the whole file by one gain so that none is above it (and keeps the samples in a file
    beside `path` until then), "none" hands them to a lossy encoder as they are, and is refused for whole numbers.

    Attributes, complete at the end: `peak` (of the samples given, 1 is full scale), `limited` (samples that were set
    to full scale), `gain` (of "rescale", else 1). Use as a context manager: after an exception nothing is left.
    """

    def __init__(self, path: str | Path, sample_rate: int, channels: int, subtype: str | None = None,
                 clip: str = "limit", tags: Tags | None = None, like: AudioReader | None = None):
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if suffix not in FORMATS:
            raise CallError(f"expected an output name ending in {', '.join(OUTPUT_SUFFIXES)}, got {self.path}: "
                            "choose one of these formats")
        if clip not in CLIP_POLICIES:
            raise CallError(f"expected a clip policy among {', '.join(CLIP_POLICIES)}, got {clip!r}")
        codec = choose_codec(suffix, like)
        subtype = _held(codec, subtype or (like and like.subtype), self.path)
        self.bits = PCM_BITS.get(subtype)
        if self.bits and clip == "none":
            raise CallError(f"expected a format that can hold samples above full scale with clip policy none, but "
                            f"{self.path} would hold whole numbers of {self.bits} bits: choose rescale, limit or float")
        self._clip = "none" if subtype in ("FLOAT", "DOUBLE") else clip
        self.limited, self.peak, self.gain = 0, 0.0, 1.0
        self._tags, self._spool, self._channels = tags, None, channels
        layout, self._order = place_channels(codec, self.path, channels, like and like.layout)
        self._free, self._frame_bytes = codec.max_bytes, channels * (self.bits or 64) // 8
        self._check_room(like.seconds * sample_rate if like else 0)
        bit_rate = codec.bit_rate and int(codec.bit_rate * max(1, channels / 2))
        if like and like.codec == codec.name:
            bit_rate = like.bit_rate or bit_rate
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A name of up to 255 bytes has no room for more.
        self._temporary = self.path.with_name(f".{self.path.name[:40]}.{secrets.token_hex(4)}.tmp")
        self._sink = open_sink(self._temporary, codec, sample_rate, channels, subtype, layout, bit_rate)
        if self._clip == "rescale":
            self._spool = open(self._temporary.with_suffix(".samples"), "w+b")  # noqa: SIM115, closed by __exit__

    def _check_room(self, n_samples):
        if n_samples * self._frame_bytes > self._free:
            raise AudioError(f"expected less than 4 GiB of samples for {self.path}, whose format counts no further, "
                             "but it would be larger: write WAV or FLAC")

    @contextmanager
    def _named_errors(self):
        try:
            yield
        except WRITE_ERRORS as error:
            raise AudioError(f"expected room for {self.path}, but writing failed ({error}): free some disk "
                             "space or choose another folder") from error

    def write(self, audio: np.ndarray):
        """Append a block of shape (channels, samples): floats, or int16 for a 16-bit file, taken as they are."""
        with self._named_errors():
            if audio.dtype == np.int16:
                self._put(audio)
                return
            self.peak = max(self.peak, float(np.abs(audio).max(initial=0)))
            if self._spool:
                self._spool.write(_interleaved(audio.astype(np.float64, copy=False)).data)
            else:
                self._put(audio)

    def _put(self, audio):
        self._check_room(audio.shape[-1])
        self._free -= audio.shape[-1] * self._frame_bytes
        if audio.dtype != np.int16:
            if self.bits:
                audio, limited = to_pcm(audio, self.bits)
                self.limited += limited
                if self.bits == 24:
                    audio = audio << 8  # the sinks take 24-bit samples in the top of 32-bit words
            elif self._clip != "none":
                self.limited += int((np.abs(audio) > 1).sum())
                audio = np.clip(audio, -1, 1)
        for start in range(0, audio.shape[-1], WRITE_BLOCK):
            self._sink.write(_interleaved(audio[:, start : start + WRITE_BLOCK], self._order))

    def _rescale(self):
        """Write what was kept, at the gain that brings its peak to the largest number of the format."""
        top = 1 - 2.0 ** (1 - self.bits) if self.bits else 1.0
        self.gain = min(1.0, top / self.peak) if self.peak > 1 else 1.0
        self._spool.seek(0)
        while data := self._spool.read(8 * self._channels * WRITE_BLOCK):
            self._put(self.gain * np.frombuffer(data).reshape(-1, self._channels).T)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                with self._named_errors():
                    if self._spool:
                        self._rescale()
                    self._sink.close()
                    if self._tags:
                        write_tags(self._temporary, self._tags, self.path)
                    os.replace(self._temporary, self.path)
            else:
                with suppress(*WRITE_ERRORS):  # what went wrong first is what is told
                    self._sink.close()
        finally:
            self._temporary.unlink(missing_ok=True)
            if self._spool:
                self._spool.close()
                Path(self._spool.name).unlink(missing_ok=True)


def write_audio(path: str | Path, audio: np.ndarray, sample_rate: int, subtype: str | None = None) -> int:
    """Write (channels, samples) in one go, whole or not at all; returns how many samples were limited."""
    with AudioWriter(path, sample_rate, audio.shape[0], subtype) as writer:
        writer.write(audio)
    return writer.limited
