"""The one reader and the one writer of audio.

Everywhere in this project, audio in memory is an array of shape ``(channels, samples)``, float32
unless said otherwise, with full scale at +-1. WAV, FLAC and Ogg go through libsndfile; MP4, M4A,
MP3, Opus and what libsndfile refuses go through the FFmpeg libraries that PyAV carries. Neither needs
a system install.
"""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import mutagen
import numpy as np
import soundfile as sf
import soxr

from common.errors import CallError
from common.files import c_name
from common.sinks import FORMATS, PCM_BITS, AudioError, choose_codec, open_sink, place_channels
from common.tags import Tags, write_tags

log = logging.getLogger(__name__)

SNDFILE_SUFFIXES = (".wav", ".flac", ".ogg", ".aif", ".aiff")
# libsndfile 1.2 calls every fifth intact Opus file malformed.
FFMPEG_SUFFIXES = (".mp4", ".m4a", ".mp3", ".aac", ".opus")
AUDIO_SUFFIXES = SNDFILE_SUFFIXES + FFMPEG_SUFFIXES

OUTPUT_SUFFIXES = tuple(FORMATS)
CLIP_POLICIES = ("rescale", "limit", "none")
WRITE_ERRORS = (sf.LibsndfileError, av.FFmpegError, OSError)
# libsndfile's Vorbis encoder overflows its stack on very long blocks.
WRITE_BLOCK = 1 << 16


def list_audio(folder: str | Path) -> list[Path]:
    """All audio files below `folder`, sorted so that every machine sees the same order.

    Raises CallError when the folder is missing or holds no audio.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CallError(f"expected a folder of audio files, but {folder} does not exist: check the path")
    # Names that begin with a dot are not audio: unfinished output, or what macOS leaves in archives.
    files = sorted(p for p in folder.rglob("*")
                   if p.suffix.lower() in AUDIO_SUFFIXES and not p.name.startswith(".") and p.is_file())
    if not files:
        raise CallError(f"expected audio files ({', '.join(AUDIO_SUFFIXES)}) in {folder}, but there is none: "
                        "check the path")
    return files


def audio_name(path: str | Path) -> str:
    """A song's name: the file name without its suffix and without the `.stem` of a stem file."""
    return Path(path).stem.removesuffix(".stem")


class AudioReader:
    """Streams one audio file block by block; for files with several streams, the first audio stream.

    Attributes: `sample_rate` in Hz, `channels`, `subtype` (libsndfile's name of the sample format, or
    None for a lossy file), `seconds` (as the header says, 0 when it does not), `path`. Raises AudioError
    when the file cannot be decoded.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise CallError(f"expected an audio file, but {self.path} does not exist: check the path")
        with self._named_errors():
            self._open()

    def _open(self):
        self._sndfile = self._container = self.subtype = self.bit_rate = self.layout = None
        if self.path.suffix.lower() in SNDFILE_SUFFIXES:
            try:
                self._sndfile = sf.SoundFile(c_name(self.path))
            except sf.LibsndfileError:  # some Ogg files that FFmpeg reads are malformed to libsndfile
                self._sndfile = None
        with suppress(av.FFmpegError), av.open(str(self.path), metadata_errors="replace") as container:
            layout = container.streams.audio[0].layout
            self.layout = layout.name if av.AudioLayout(layout.name).nb_channels > 2 else None
        if self._sndfile is None:
            self._container = av.open(str(self.path), metadata_errors="replace")
            if not self._container.streams.audio:
                raise AudioError(f"expected an audio stream in {self.path}, but it has none: use another file")
            context = self._container.streams.audio[0].codec_context
            self.sample_rate, self.channels = context.sample_rate, context.channels
            self.seconds = (self._container.duration or 0) / av.time_base
            self.codec = context.codec.canonical_name
            if self.codec in ("flac", "alac") or self.codec.startswith("pcm"):
                bits = mutagen.File(self.path).info.bits_per_sample
                self.subtype = {16: "PCM_16", 32: "PCM_32"}.get(bits, "PCM_24")
            else:
                self.bit_rate = self._container.streams.audio[0].bit_rate or self._container.bit_rate
        else:
            self.sample_rate, self.channels = self._sndfile.samplerate, self._sndfile.channels
            self.seconds = self._sndfile.frames / self.sample_rate
            self.codec = self._sndfile.subtype.lower()
            if self.codec in ("vorbis", "opus"):
                with av.open(str(self.path), metadata_errors="replace") as container:
                    self.bit_rate = container.streams.audio[0].bit_rate or container.bit_rate
            if self._sndfile.subtype in (*PCM_BITS, "FLOAT", "DOUBLE"):
                self.subtype = self._sndfile.subtype

    @contextmanager
    def _named_errors(self):
        try:
            yield
        except (sf.LibsndfileError, av.FFmpegError) as error:
            raise AudioError(f"expected a readable audio file, but {self.path} could not be decoded "
                             f"({error}): replace or remove it") from error

    def blocks(self, block_samples: int, dtype: str = "float32") -> Iterator[np.ndarray]:
        """Yield arrays of shape (channels, <= block_samples), in order, without overlap."""
        with self._named_errors():
            if self._sndfile is not None:
                self._sndfile.seek(0)
                for block in self._sndfile.blocks(block_samples, dtype=dtype, always_2d=True):
                    yield _finite(np.ascontiguousarray(block.T), self.path)
            else:
                for block in _rechunk(self._decoded(), block_samples):
                    yield _finite(block.astype(dtype, copy=False), self.path)

    def _decoded(self):
        resampler = av.AudioResampler(format="dbl")  # same rate and layout
        # Opened anew: after a seek to the start a decoder may forget how many priming samples to drop.
        with av.open(str(self.path), metadata_errors="replace") as container:
            for frame in container.decode(audio=0):
                for plane in resampler.resample(frame):
                    yield plane.to_ndarray().reshape(-1, self.channels).T

    def close(self):
        """Release the file."""
        (self._sndfile or self._container).close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _finite(block, path):
    if not np.isfinite(block).all():
        raise AudioError(f"expected finite samples, but {path} holds NaN or infinity: replace or remove it")
    return block


def _rechunk(arrays, block_samples):
    """Blocks of exactly `block_samples` (the last one shorter) from arrays of any length."""
    held, n_held = [], 0
    for array in arrays:
        held.append(array)
        n_held += array.shape[-1]
        if n_held >= block_samples:
            joined = np.concatenate(held, axis=-1)
            whole = n_held - n_held % block_samples
            for start in range(0, whole, block_samples):
                yield joined[:, start : start + block_samples]
            held, n_held = [joined[:, whole:]], n_held - whole
    if n_held:
        yield np.concatenate(held, axis=-1)


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
