"""The one writer of audio: WAV, FLAC, Ogg, Opus, AIFF, MP3 and M4A, whole or not at all."""

import logging
import os
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import numpy as np
import soundfile as sf

from common.audio.reading import AudioReader
from common.audio.sinks import FORMATS, PCM_BITS, AudioError, choose_codec, open_sink, place_channels
from common.audio.tags import Tags, write_tags
from common.errors import CallError

log = logging.getLogger(__name__)

OUTPUT_SUFFIXES = tuple(FORMATS)
CLIP_POLICIES = ("rescale", "limit", "none")
WRITE_ERRORS = (sf.LibsndfileError, av.FFmpegError, OSError)
# libsndfile's Vorbis encoder overflows its stack on very long blocks.
WRITE_BLOCK = 1 << 16


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
