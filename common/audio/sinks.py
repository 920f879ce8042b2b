"""The formats that an AudioWriter writes, and one class for each way to write them.

A sink has write(samples, channels), with the channels in the order of the file, and close().
"""

import io
import struct
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile as sf
import soxr

from common.audio.layouts import CHANNEL_ORDER
from common.errors import UserError
from common.files import c_name

# Whole numbers and floats that a file can hold without loss, by libsndfile's names.
WHOLE = ("PCM_16", "PCM_24", "PCM_32")
PCM_BITS = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
# The layout that is assumed for channels without a named one.
DEFAULT_LAYOUTS = dict(enumerate(("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1"), 1))
# The order of channels in Vorbis (Vorbis I, section 4.3.9) and Opus where it is not that of WAV files; libsndfile
# leaves it to its caller, and a surround channel in the last place of six would be encoded as low-frequency effects.
# Names as _places gives them.
XIPH_ORDER = {"3.0": "FL FC FR", "5.0": "FL FC FR BL BR", "5.1": "FL FC FR BL BR LFE", "6.1": "FL FC FR BL BR BC LFE",
              "7.1": "FL FC FR SL SR BL BR LFE"}
# The headers of WAV and AIFF files count bytes in 32 bits.
MAX_BYTES = 2**32 - 1024
COPY_BYTES = 1 << 24
OPUS_RATE = 48_000  # the only rate at which Opus files are decoded


class AudioError(UserError):
    """An audio file that cannot be read or written."""


@dataclass(frozen=True)
class Codec:
    """How samples are stored in a kind of file.

    name: FFmpeg's; container: FFmpeg's name of the kind of file, or libsndfile's in upper case; subtypes: the sample
    formats that are kept without loss, none for a lossy codec; layouts: the channel layouts that it knows, none where
    it takes any; bit_rate: of stereo, in bits per second, close to transparent for music; max_bytes: of samples.
    """

    name: str
    container: str
    subtypes: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    bit_rate: int | None = None
    max_bytes: float = float("inf")


_XIPH = tuple(DEFAULT_LAYOUTS.values())
_OPUS = Codec("opus", "OGG", (), _XIPH, 160_000)
_AIFF = Codec("pcm", "AIFF", (*WHOLE, "FLOAT", "DOUBLE"), max_bytes=MAX_BYTES)
# The codecs of each suffix; the first one is the default.
FORMATS = {
    ".wav": (Codec("pcm", "wav", (*WHOLE, "FLOAT", "DOUBLE")),),
    ".flac": (Codec("flac", "flac", WHOLE),),
    ".ogg": (Codec("vorbis", "OGG", (), _XIPH, 192_000), _OPUS, Codec("flac", "ogg", WHOLE)),
    ".opus": (_OPUS,),
    ".mp3": (Codec("mp3", "mp3", (), ("mono", "stereo"), 320_000),),
    ".m4a": (Codec("aac", "mp4", (), ("mono", "stereo", "3.0", "4.0", "quad", "5.0", "5.1", "6.1", "7.1"), 256_000),
             Codec("alac", "mp4", WHOLE[:2],
                   ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1(back)", "7.1(wide)"))),
    ".aiff": (_AIFF,),
    ".aif": (_AIFF,),
}
# The output suffix for inputs whose own suffix is read but not written.
NEAREST = {".mp4": ".m4a", ".aac": ".m4a"}


def choose_codec(suffix: str, like=None) -> Codec:
    """The codec for a file of this suffix, made from the AudioReader `like`.

    Between files of one kind the codec is kept (ALAC, Opus in .ogg), or at least its being lossless.
    """
    codecs = FORMATS[suffix]
    own = like and like.path.suffix.lower()
    if not own or NEAREST.get(own, own) != suffix:
        return codecs[0]
    same = [codec for codec in codecs if codec.name == like.codec]
    return (same or [codec for codec in codecs if codec.subtypes and like.subtype] or codecs)[0]


def _places(layout):
    """Names of a layout's channels in WAV order; side channels count as back channels where there are no others."""
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    return names if "BL" in names else [{"SL": "BL", "SR": "BR"}.get(name, name) for name in names]


def place_channels(codec: Codec, path: Path, channels: int, layout: str | None) -> tuple[str | None, list[int]]:
    """The layout that the file gets, and for each of its channels, in the file's order, which one of ours it is.

    Raises AudioError for a layout that the codec does not know: no channel is put into the place of another kind.
    """
    if channels <= 2:
        layout = DEFAULT_LAYOUTS[channels]
    if not codec.layouts:
        return layout, list(range(channels))
    layout = layout or DEFAULT_LAYOUTS.get(channels)
    ours = _places(layout) if layout else []
    target = next((known for known in codec.layouts if sorted(_places(known)) == sorted(ours)), None)
    if target is None:
        raise AudioError(f"expected channels as {', '.join(codec.layouts)} for {codec.name}, but {path} would have "
                         f"{channels} ({layout or 'no layout'}): write WAV or FLAC")
    in_order = codec.container == "OGG" and XIPH_ORDER.get(target)
    return target, [ours.index(name) for name in (in_order.split() if in_order else _places(target))]


class Wave:
    """A WAV file, with the channel mask where more than two channels have a layout; RF64 above 4 GiB (EBU Tech 3306).

    What libsndfile writes too, but for the mask, its copying and its wait for the disk at the end.
    """

    def __init__(self, path: Path, sample_rate: int, channels: int, subtype: str, layout: str | None):
        self._float, self._bits = subtype not in PCM_BITS, {"FLOAT": 32, "DOUBLE": 64}.get(subtype) or PCM_BITS[subtype]
        self._rate, self._channels, self._mask = sample_rate, channels, None
        if layout and channels > 2:
            names = [channel.name for channel in av.AudioLayout(layout).channels]
            self._mask = sum(1 << CHANNEL_ORDER.index(name) for name in names if name in CHANNEL_ORDER)
        self._n_bytes = 0
        self._start = len(self._header(large=False))
        self._file = open(path, "w+b")  # noqa: SIM115, closed by close()
        self._file.write(bytes(self._start))

    def _header(self, large):
        frame, n_bytes = self._channels * self._bits // 8, self._n_bytes
        kind = 3 if self._float else 1
        form = struct.pack("<HIIHH", self._channels, self._rate, self._rate * frame, frame, self._bits)
        if self._mask is None:
            form = struct.pack("<H", kind) + form
        else:  # WAVE_FORMAT_EXTENSIBLE: the kind is the head of a GUID
            form = struct.pack("<H", 0xFFFE) + form + struct.pack("<HHIH", 22, self._bits, self._mask, kind)
            form += bytes.fromhex("000000001000800000aa00389b71")
        chunks = struct.pack("<4sI", b"fmt ", len(form)) + form
        if self._float:
            chunks += struct.pack("<4sII", b"fact", 4, 0xFFFFFFFF if large else n_bytes // frame)
        chunks += struct.pack("<4sI", b"data", 0xFFFFFFFF if large else n_bytes)
        riff_bytes = 4 + len(chunks) + n_bytes + n_bytes % 2
        if large:
            sizes = struct.pack("<4sIQQQI", b"ds64", 28, riff_bytes + 36, n_bytes, n_bytes // frame, 0)
            return struct.pack("<4sI4s", b"RF64", 0xFFFFFFFF, b"WAVE") + sizes + chunks
        return struct.pack("<4sI4s", b"RIFF", riff_bytes, b"WAVE") + chunks

    def write(self, samples: np.ndarray):
        """Append samples: int16, int32 (24 bits in the top of them) or floats."""
        if self._float:
            data = samples.astype(f"<f{self._bits // 8}", copy=False)
        else:
            data = samples.astype("<i2" if self._bits == 16 else "<i4", copy=False)
            if self._bits == 24:
                data = np.ascontiguousarray(data.view(np.uint8).reshape(-1, 4)[:, 1:])
        self._n_bytes += data.nbytes
        self._file.write(data.data)

    def close(self):
        """Complete the header."""
        with self._file as file:
            file.write(bytes(self._n_bytes % 2))
            large = self._n_bytes > MAX_BYTES
            header = self._header(large)
            if large:
                self._shift(len(header) - self._start)
            file.seek(0)
            file.write(header)

    def _shift(self, n_bytes):
        """Make room before the samples, from the end on."""
        end = self._file.tell()
        for start in reversed(range(self._start, end, COPY_BYTES)):
            self._file.seek(start)
            data = self._file.read(COPY_BYTES)
            self._file.seek(start + n_bytes)
            self._file.write(data)


class Encoder:
    """A FLAC, MP3 or M4A (AAC, ALAC) file through FFmpeg's libraries.

    The decoded length is exact but for AAC, which pads the end with up to 1023 samples of silence.
    """

    def __init__(self, path: Path, codec: Codec, sample_rate: int, channels: int, subtype: str | None,
                 layout: str | None, bit_rate: int | None):
        # MP4 counts the song in ms where it is not told otherwise, and readers leave out what is beyond that.
        options = {"movie_timescale": str(sample_rate)} if codec.container == "mp4" else {}
        self._container = av.open(str(path), "w", format=codec.container, options=options)
        bits = PCM_BITS.get(subtype)
        self._packed, self._dtype = {None: ("flt", np.float32), 16: ("s16", np.int16)}.get(bits, ("s32", np.int32))
        options = {"bits_per_raw_sample": str(bits), "strict": "experimental"} if bits else {}  # 32-bit FLAC is new
        self._stream = self._container.add_stream(codec.name, rate=sample_rate, options=options)
        self._stream.layout = self._layout = layout or DEFAULT_LAYOUTS.get(channels, f"{channels}c")
        self._stream.format = self._packed if codec.name == "flac" else f"{self._packed}p"
        if bit_rate:
            self._stream.bit_rate = bit_rate
        self._stream.codec_context.open()
        self._rate, self._n_samples = sample_rate, 0

    def write(self, samples: np.ndarray):
        """Append samples: int16, int32 (24 bits in the top of them), or floats for a lossy codec."""
        # Interleaved, and converted by FFmpeg: PyAV reads beyond the planes of a planar frame of 8 channels.
        flat = np.ascontiguousarray(samples, self._dtype).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(flat, self._packed, self._layout)
        frame.sample_rate, frame.pts = self._rate, self._n_samples
        self._n_samples += len(samples)
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def close(self):
        """Write what the encoder holds back, and the index."""
        for packet in self._stream.encode(None):
            self._container.mux(packet)
        self._container.close()


class Sndfile:
    """A Vorbis, Opus or AIFF file through libsndfile; Opus is resampled to the one rate that it has."""

    def __init__(self, path: Path, codec: Codec, sample_rate: int, channels: int, subtype: str | None,
                 bit_rate: int | None):
        level = self._resampler = None
        if codec.name == "opus":
            level = 1 - np.clip((bit_rate / channels - 6_000) / 250_000, 0, 1)  # libsndfile's ogg_opus.c
            if sample_rate != OPUS_RATE:
                self._resampler = soxr.ResampleStream(sample_rate, OPUS_RATE, channels, dtype="float32")
                sample_rate = OPUS_RATE
        elif codec.name == "vorbis":
            level = _vorbis_level(sample_rate, channels, bit_rate)
        self._file = sf.SoundFile(c_name(path), "w", sample_rate, channels, subtype or codec.name.upper(),
                                  format=codec.container, compression_level=level)
        self._channels = channels

    def write(self, samples: np.ndarray):
        """Append samples: int16, int32 (24 bits in the top of them) or floats."""
        if self._resampler:
            samples = self._resampler.resample_chunk(np.ascontiguousarray(samples, np.float32))
        self._file.write(samples)

    def close(self):
        """Write what is held back."""
        if self._resampler:
            empty = np.zeros((0, self._channels), np.float32)
            self._file.write(self._resampler.resample_chunk(empty, last=True))
        self._file.close()


def _vorbis_level(sample_rate, channels, bit_rate):
    """libsndfile's compression level, 0 to 1, for a nominal rate, as the header of a Vorbis file says it, in bits/s."""
    low, high = 0.0, 1.0
    for _ in range(7):
        level = (low + high) / 2
        with io.BytesIO() as file:
            with sf.SoundFile(file, "w", sample_rate, channels, "VORBIS", format="OGG", compression_level=level) as out:
                out.write(np.zeros((1, channels)))
            head = file.getvalue()
        nominal = struct.unpack_from("<i", head, head.index(b"\x01vorbis") + 20)[0]
        if nominal <= 0:
            return 0.4  # a rate in Hz for which the encoder names none
        low, high = (level, high) if nominal > bit_rate else (low, level)
    return high


def open_sink(path: Path, codec: Codec, sample_rate: int, channels: int, subtype: str | None, layout: str | None,
              bit_rate: int | None):
    """The sink for a file of this kind; raises AudioError where the format cannot hold such a signal."""
    try:
        if codec.container == "wav":
            return Wave(path, sample_rate, channels, subtype, layout)
        if codec.container.isupper():
            return Sndfile(path, codec, sample_rate, channels, subtype, bit_rate)
        return Encoder(path, codec, sample_rate, channels, subtype, layout, bit_rate)
    except (sf.LibsndfileError, av.FFmpegError, ValueError) as error:
        path.unlink(missing_ok=True)
        raise AudioError(f"expected to write {channels} channels at {sample_rate} Hz as {codec.name}, but {error}: "
                         "choose another format or folder") from error
