"""The one writer of audio: WAV, FLAC, Ogg, Opus, AIFF, MP3 and M4A. A file is written as a whole or not at all."""

import errno
import os
import secrets
import tempfile
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import av
import numpy as np
import soundfile as sf

from common.audio.encoders import open_encoder
from common.audio.formats import PCM_BITS, choose_form
from common.audio.reading import AudioReader
from common.audio.tags import Tags, write_tags
from common.errors import AudioError, CallError

CLIP_POLICIES = ("rescale", "limit", "none")
WRITE_ERRORS = (sf.LibsndfileError, av.FFmpegError, OSError)
# Errors of the system that do not mean a full disk: no permission, a file that another program holds, a wrong name.
REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EINVAL,
            errno.ENAMETOOLONG, errno.EBUSY, errno.ETXTBSY)
# libsndfile's Vorbis encoder overflows its stack on very long blocks.
WRITE_BLOCK = 1 << 16


@contextmanager
def named_refusals(path: str | Path):
    """Turn an error of the system while `path` is written into an AudioError that says what to do."""
    try:
        yield
    except WRITE_ERRORS as error:
        if isinstance(error, OSError) and error.errno in REFUSALS:
            raise AudioError(f"expected to write {path}, but the system refused ({error.strerror}): change the "
                             "permissions, or choose another place for the output") from error
        raise AudioError(f"expected room for {path}, but writing failed ({error}): free some disk space or choose "
                         "another folder") from error


def to_pcm(audio: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """Round (channels, samples) to integers of `bits`; return them and the number of samples that were limited.

    libsndfile would scale floats by 2**(bits-1) - 1 when it writes but by 2**(bits-1) when it reads: a file that is
    read and written again would change.
    """
    full_scale = 2 ** (bits - 1)
    scaled = np.rint(audio.astype(np.float64) * full_scale)
    limited = np.clip(scaled, -full_scale, full_scale - 1)
    return limited.astype(np.int16 if bits == 16 else np.int32), int((scaled != limited).sum())


def _interleaved(audio, order=None):
    """Copy (channels, samples) to (samples, channels), one channel at a time: NumPy's transposing copy is 9x slower."""
    out = np.empty(audio.shape[::-1], audio.dtype)
    for place, channel in enumerate(order or range(len(audio))):
        out[:, place] = audio[channel]
    return out


class AudioWriter(AbstractContextManager):
    """Writes blocks to a temporary file beside `path`, and renames it at the end of the `with` block.

    The suffix of `path` decides the format (see formats.OUTPUT_SUFFIXES). `like`, an AudioReader, is the input from
    which the audio was made: a file of the same kind keeps its codec and about its bit rate, and every file keeps its
    sample format and channel layout if the format can hold them. `subtype` is another sample format for lossless files
    (PCM_16, PCM_24, PCM_32, FLOAT, DOUBLE). Opus is resampled to 48 kHz.

    `clip` decides about samples above full scale in a format that cannot hold them: "limit" sets them to full scale,
    "rescale" lowers the whole file by one gain (and keeps all samples until then in a file without a name in the folder
    of `path`, 8 bytes each), "none" gives them unchanged to a lossy encoder and is refused for integers.

    Attributes: `bits` of an integer sample, or None. Complete at the end: `peak` of the samples given (1 is full
    scale), `limited` (the number of samples set to full scale), `gain` of "rescale", otherwise 1. After an exception no
    file is left.
    """

    def __init__(self, path: str | Path, sample_rate: int, channels: int, subtype: str | None = None,
                 clip: str = "limit", tags: Tags | None = None, like: AudioReader | None = None):
        if clip not in CLIP_POLICIES:
            raise CallError(f"expected a clip policy among {', '.join(CLIP_POLICIES)}, got {clip!r}: choose "
                            "one of them")
        self.path = Path(path)
        self._form = form = choose_form(self.path, sample_rate, channels, subtype, like)
        self.bits = PCM_BITS.get(form.subtype)
        if self.bits and clip == "none":
            raise CallError("expected a format that can hold samples above full scale with clip policy none, but "
                            f"{self.path} would hold integers of {self.bits} bits: choose rescale, limit or float")
        self._clip = "none" if form.subtype in ("FLOAT", "DOUBLE") else clip
        self.limited, self.peak, self.gain = 0, 0.0, 1.0
        self._tags, self._kept = tags, None
        self._free, self._frame_bytes = form.codec.max_bytes, channels * (self.bits or 64) // 8
        self._check_room(like.seconds * sample_rate if like else 0)
        # The name is cut: a file system takes 255 bytes.
        self._temporary = self.path.with_name(f".{self.path.name[:40]}.{secrets.token_hex(4)}.tmp")
        with named_refusals(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.touch()  # encoders say less about a folder that cannot be written
            if self._clip == "rescale":  # without a name, so that a kill leaves nothing; closed by __exit__
                self._kept = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115
        self._encoder = open_encoder(self._temporary, form)

    def _check_room(self, n_samples):
        if n_samples * self._frame_bytes > self._free:
            raise AudioError(f"expected less than 4 GiB of samples for {self.path}, whose format counts no further, "
                             "but it would be larger: write WAV or FLAC")

    def write(self, audio: np.ndarray):
        """Append a block of shape (channels, samples): floats, or for a 16-bit file int16 samples."""
        with named_refusals(self.path):
            if audio.dtype == np.int16:
                self._put(audio)
                return
            self.peak = max(self.peak, float(np.abs(audio).max(initial=0)))
            if self._kept:
                self._kept.write(_interleaved(audio.astype(np.float64, copy=False)).data)
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
                    audio = audio << 8  # an encoder takes the 24 bits in the upper bits of 32
            elif self._clip != "none":
                self.limited += int((np.abs(audio) > 1).sum())
                audio = np.clip(audio, -1, 1)
        for start in range(0, audio.shape[-1], WRITE_BLOCK):
            self._encoder.write(_interleaved(audio[:, start : start + WRITE_BLOCK], self._form.order))

    def _rescale(self):
        """Encode the kept samples, with the gain that brings their peak to the largest number of the format."""
        top = 1 - 2.0 ** (1 - self.bits) if self.bits else 1.0
        self.gain = min(1.0, top / self.peak) if self.peak > 1 else 1.0
        self._kept.seek(0)
        while data := self._kept.read(8 * self._form.channels * WRITE_BLOCK):
            self._put(self.gain * np.frombuffer(data).reshape(-1, self._form.channels).T)

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                with named_refusals(self.path):
                    if self._kept:
                        self._rescale()
                    self._encoder.close()
                    if self._tags:
                        write_tags(self._temporary, self._tags, self.path)
                    os.replace(self._temporary, self.path)
            else:
                with suppress(*WRITE_ERRORS):  # the first error is the one to report
                    self._encoder.close()
        finally:
            self._temporary.unlink(missing_ok=True)
            if self._kept:
                self._kept.close()


def write_audio(path: str | Path, audio: np.ndarray, sample_rate: int, subtype: str | None = None) -> int:
    """Write (channels, samples) as one file; return the number of samples that were limited."""
    with AudioWriter(path, sample_rate, audio.shape[0], subtype) as writer:
        writer.write(audio)
    return writer.limited
