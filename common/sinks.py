"""What an AudioWriter writes into: one class per kind of file, each with write(samples, channels) and close()."""

import wave
from pathlib import Path

import av
import numpy as np
import soundfile as sf

from common.errors import UserError
from common.files import c_name
from common.tags import Tags, add_cover

# The header of a WAV file counts bytes in 32 bits.
MAX_WAV_BYTES = 2**32 - 1024
# FFmpeg's name of the codec, its container and bits per second: close to transparent for music.
ENCODERS = {".mp3": ("libmp3lame", "mp3", 320_000), ".m4a": ("aac", "mp4", 256_000)}


class AudioError(UserError):
    """An audio file that cannot be read or written."""


class Wave16:
    """A 16-bit WAV file: what libsndfile writes too, but for its copying and its wait for the disk at the end."""

    def __init__(self, path: Path, sample_rate: int, channels: int):
        self._file = wave.open(str(path), "wb")  # noqa: SIM115, closed by close()
        self._file.setparams((channels, 2, sample_rate, 0, "NONE", ""))
        self._path, self._free = path, MAX_WAV_BYTES

    def write(self, samples: np.ndarray):
        """Append int16 of shape (samples, channels)."""
        self._free -= samples.nbytes
        if self._free < 0:
            raise AudioError(f"expected at most {MAX_WAV_BYTES / 1e9:.1f} GB for a WAV file, but {self._path} would "
                             "be larger: write FLAC")
        self._file.writeframesraw(samples.astype("<i2", copy=False).data)

    def close(self):
        """Complete the header."""
        self._file.close()


class Encoder:
    """An MP3 or M4A (AAC) file through FFmpeg's libraries; its tags have to be known when it begins.

    The decoded length of MP3 is exact; AAC pads the end with up to 1023 samples of silence.
    """

    def __init__(self, path: Path, suffix: str, sample_rate: int, channels: int, tags: Tags):
        if channels > 2:
            raise AudioError(f"expected at most 2 channels for {suffix}, but {path} would have {channels}: write WAV "
                             "or FLAC")
        codec, container, bit_rate = ENCODERS[suffix]
        self._container = av.open(str(path), "w", format=container)
        self._stream = self._container.add_stream(codec, rate=sample_rate)
        self._stream.layout = self._layout = ("mono", "stereo")[channels - 1]
        self._stream.format, self._stream.bit_rate, self._rate = "fltp", bit_rate, sample_rate
        self._container.metadata.update(tags.text)
        cover = add_cover(self._container, tags.cover)
        self._stream.codec_context.open()
        if cover:
            self._container.mux(cover)
        self._n_samples = 0

    def write(self, samples: np.ndarray):
        """Append floats of shape (samples, channels)."""
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T, np.float32), "fltp", self._layout)
        frame.sample_rate, frame.pts = self._rate, self._n_samples
        self._n_samples += len(samples)
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def close(self):
        """Write what the encoder holds back, and the index."""
        for packet in self._stream.encode(None):
            self._container.mux(packet)
        self._container.close()


def open_sink(path: Path, suffix: str, sample_rate: int, channels: int, subtype: str, tags: Tags):
    """The sink for a file of this kind; raises AudioError where the format cannot hold such a signal."""
    try:
        if suffix in ENCODERS:
            return Encoder(path, suffix, sample_rate, channels, tags)
        if (suffix, subtype) == (".wav", "PCM_16"):
            return Wave16(path, sample_rate, channels)
        return sf.SoundFile(c_name(path), "w", sample_rate, channels, subtype, format=suffix[1:].upper())
    except (AudioError, sf.LibsndfileError, av.FFmpegError, ValueError) as error:
        path.unlink(missing_ok=True)
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"expected to write {channels} channels at {sample_rate} Hz as {suffix}, but {error}: choose "
                         "another format or folder") from error
