"""Encoders: one class for each way to write an audio file.

An encoder has write(samples), with samples of shape (samples, channels) in the channel order of the file, and close().
Samples are int16, int32 (24 bits in the upper bits) or floats, as the sample format of the file asks.
"""

import io
import struct
from pathlib import Path

import av
import numpy as np
import soundfile as sf
import soxr

from common.audio.formats import CHANNEL_ORDER, DEFAULT_LAYOUTS, MAX_BYTES, PCM_BITS, SampleForm, channel_names
from common.errors import AudioError
from common.small_files import c_name, ffmpeg_name

# The sample formats of WAV files: code of the kind, bits of a sample, and type of the words that hold it in memory.
WAV_TYPES = {"PCM_16": (1, 16, "<i2"), "PCM_24": (1, 24, "<i4"), "PCM_32": (1, 32, "<i4"), "FLOAT": (3, 32, "<f4"),
             "DOUBLE": (3, 64, "<f8")}
COPY_BYTES = 1 << 24
OPUS_RATE = 48_000  # in Hz; decoders of Opus know no other rate


class WaveEncoder:
    """Writes a WAV file, with a channel mask if more than two channels have a layout; RF64 above 4 GiB (EBU Tech 3306).

    libsndfile writes no channel mask, copies all samples, and waits for the disk at the end.
    """

    def __init__(self, path: Path, form: SampleForm):
        self._form, self._n_bytes, self._mask = form, 0, None
        self._kind, self._bits, self._dtype = WAV_TYPES[form.subtype]
        if form.layout and form.channels > 2:
            names = channel_names(av.AudioLayout(form.layout))
            self._mask = sum(1 << CHANNEL_ORDER.index(name) for name in names if name in CHANNEL_ORDER)
        self._file = open(path, "w+b")  # noqa: SIM115, closed by close()
        self._begin = self._file.write(self._header())

    def _header(self):
        rate, channels, n_bytes = self._form.sample_rate, self._form.channels, self._n_bytes
        frame = channels * self._bits // 8
        large = n_bytes > MAX_BYTES
        kind = self._kind if self._mask is None else 0xFFFE  # WAVE_FORMAT_EXTENSIBLE
        body = struct.pack("<HHIIHH", kind, channels, rate, rate * frame, frame, self._bits)
        if self._mask is not None:  # the kind is the first field of a GUID
            body += struct.pack("<HHIH", 22, self._bits, self._mask, self._kind)
            body += bytes.fromhex("000000001000800000aa00389b71")
        chunks = struct.pack("<4sI", b"fmt ", len(body)) + body
        if self._form.subtype in ("FLOAT", "DOUBLE"):
            chunks += struct.pack("<4sII", b"fact", 4, 0xFFFFFFFF if large else n_bytes // frame)
        chunks += struct.pack("<4sI", b"data", 0xFFFFFFFF if large else n_bytes)
        riff_bytes = 4 + len(chunks) + n_bytes + n_bytes % 2
        if large:
            sizes = struct.pack("<4sIQQQI", b"ds64", 28, riff_bytes + 36, n_bytes, n_bytes // frame, 0)
            return struct.pack("<4sI4s", b"RF64", 0xFFFFFFFF, b"WAVE") + sizes + chunks
        return struct.pack("<4sI4s", b"RIFF", riff_bytes, b"WAVE") + chunks

    def write(self, samples: np.ndarray):
        """Append samples, see the module."""
        data = samples.astype(self._dtype, copy=False)
        if self._bits == 24:
            data = np.ascontiguousarray(data.view(np.uint8).reshape(-1, 4)[:, 1:])
        self._n_bytes += data.nbytes
        self._file.write(data.data)

    def close(self):
        """Complete the header."""
        with self._file as file:
            file.write(bytes(self._n_bytes % 2))
            header = self._header()
            if len(header) > self._begin:  # RF64: move the samples, from the end on
                for start in reversed(range(self._begin, file.tell(), COPY_BYTES)):
                    file.seek(start)
                    data = file.read(COPY_BYTES)
                    file.seek(start + len(header) - self._begin)
                    file.write(data)
            file.seek(0)
            file.write(header)


class FFmpegEncoder:
    """Writes a FLAC, MP3 or M4A (AAC, ALAC) file with FFmpeg.

    The decoded length is exact, except for AAC, which adds up to 1023 samples of silence at the end.
    """

    def __init__(self, path: Path, form: SampleForm):
        codec, rate = form.codec, form.sample_rate
        bits = PCM_BITS.get(form.subtype)
        # By default MP4 counts the length in ms, and players leave out the rest of the last ms.
        options = {"movie_timescale": str(rate)} if codec.container == "mp4" else {}
        self._container = av.open(ffmpeg_name(path), "w", format=codec.container, options=options)
        self._packed, self._dtype = {None: ("flt", np.float32), 16: ("s16", np.int16)}.get(bits, ("s32", np.int32))
        # FFmpeg calls FLAC of 32 bits experimental.
        options = {"bits_per_raw_sample": str(bits), "strict": "experimental"} if bits else {}
        self._stream = self._container.add_stream(codec.name, rate=rate, options=options)
        self._stream.layout = self._layout = form.layout or DEFAULT_LAYOUTS.get(form.channels, f"{form.channels}c")
        self._stream.format = self._packed if codec.name == "flac" else f"{self._packed}p"
        if form.bit_rate:
            self._stream.bit_rate = form.bit_rate
        self._stream.codec_context.open()
        self._rate, self._n_samples = rate, 0

    def write(self, samples: np.ndarray):
        """Append samples, see the module."""
        # FFmpeg converts interleaved samples to planes; PyAV reads beyond the planes of a planar frame of 8 channels.
        flat = np.ascontiguousarray(samples, self._dtype).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(flat, self._packed, self._layout)
        frame.sample_rate, frame.pts = self._rate, self._n_samples
        self._n_samples += len(samples)
        self._container.mux(self._stream.encode(frame))

    def close(self):
        """Write the samples that the encoder holds back, and the index."""
        self._container.mux(self._stream.encode(None))
        self._container.close()


class SndfileEncoder:
    """Writes a Vorbis, Opus or AIFF file with libsndfile. Opus is resampled to OPUS_RATE."""

    def __init__(self, path: Path, form: SampleForm):
        codec, rate = form.codec, form.sample_rate
        level = self._resampler = None
        if codec.name == "opus":
            level = 1 - np.clip((form.bit_rate / form.channels - 6_000) / 250_000, 0, 1)  # libsndfile's ogg_opus.c
            if rate != OPUS_RATE:
                self._resampler = soxr.ResampleStream(rate, OPUS_RATE, form.channels, dtype="float32")
                rate = OPUS_RATE
        elif codec.name == "vorbis":
            level = _vorbis_level(rate, form.channels, form.bit_rate)
        self._file = sf.SoundFile(c_name(path), "w", rate, form.channels, form.subtype or codec.name.upper(),
                                  format=codec.container, compression_level=level)

    def write(self, samples: np.ndarray):
        """Append samples, see the module."""
        if self._resampler:
            samples = self._resampler.resample_chunk(np.ascontiguousarray(samples, np.float32))
        self._file.write(samples)

    def close(self):
        """Write the samples that the resampler holds back."""
        if self._resampler:
            empty = np.zeros((0, self._file.channels), np.float32)
            self._file.write(self._resampler.resample_chunk(empty, last=True))
        self._file.close()


def encode_opus(audio: np.ndarray, bit_rate: int) -> bytes:
    """Encode (channels, samples) at OPUS_RATE, one or two channels, as WebM; bit_rate is in bits per second.

    All browsers decode it, Safari since version 15, which does not know Ogg. They leave out the delay of the encoder.
    """
    layout = DEFAULT_LAYOUTS[len(audio)]
    data = io.BytesIO()
    with av.open(data, "w", format="webm") as container:
        stream = container.add_stream("libopus", OPUS_RATE, layout=layout, options={"vbr": "constrained"})
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio.T, np.float32).reshape(1, -1), "flt", layout)
        frame.sample_rate, frame.pts = OPUS_RATE, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return data.getvalue()


def _vorbis_level(sample_rate, channels, bit_rate):
    """Find libsndfile's compression level, 0 to 1, by the nominal bit rate in the headers of empty Vorbis files."""
    low, high = 0.0, 1.0
    for _ in range(7):
        level = (low + high) / 2
        with io.BytesIO() as file:
            with sf.SoundFile(file, "w", sample_rate, channels, "VORBIS", format="OGG", compression_level=level) as out:
                out.write(np.zeros((1, channels)))
            head = file.getvalue()
        nominal = struct.unpack_from("<i", head, head.index(b"\x01vorbis") + 20)[0]
        if nominal <= 0:
            return 0.4  # libvorbis names no bit rate for a sample rate in Hz like this
        low, high = (level, high) if nominal > bit_rate else (low, level)
    return high


def open_encoder(path: Path, form: SampleForm) -> WaveEncoder | FFmpegEncoder | SndfileEncoder:
    """Open the encoder for a file of this form. Raises AudioError if the codec cannot hold such samples."""
    kind = FFmpegEncoder
    if form.codec.container == "wav":
        kind = WaveEncoder
    elif form.codec.container.isupper():
        kind = SndfileEncoder
    try:
        return kind(path, form)
    except (sf.LibsndfileError, av.FFmpegError, ValueError) as error:
        path.unlink(missing_ok=True)
        raise AudioError(f"expected to write {form.channels} channels at {form.sample_rate} Hz as {form.codec.name}, "
                         f"but {error}: choose another format or folder") from error
