"""Decoding any audio file with the FFmpeg libraries in PyAV; damaged parts are left out, the rest is decoded."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from typing import NamedTuple

import av
import numpy as np

from common.audio.containers import Part
from common.audio.layouts import CHANNEL_ORDER
from common.errors import PARSER_ERRORS

DECODER_ERRORS = (av.FFmpegError, *PARSER_ERRORS)
# For each of FFmpeg's sample formats NumPy's type, and the factor that makes its full scale 1.
SAMPLE_FORMATS = {"u8": (np.uint8, 2.0**-7), "s16": (np.int16, 2.0**-15), "s32": (np.int32, 2.0**-31),
                  "s64": (np.int64, 2.0**-63), "flt": (np.float32, 1.0), "dbl": (np.float64, 1.0)}
# For each of FFmpeg's sample formats the smallest subtype that holds it. Words of 32 bits mostly hold samples of 24
# bits; DEPTHS tells where they do not.
SUBTYPES = {"u8": "PCM_16", "s16": "PCM_16", "s32": "PCM_24", "s64": "DOUBLE", "flt": "FLOAT", "dbl": "DOUBLE"}
# For each lossless codec, how its header or its first packet gives the bits of a sample.
DEPTHS = {"flac": lambda header, _: ((header[12] & 1) << 4 | header[13] >> 4) + 1, "alac": lambda header, _: header[17],
          "wavpack": lambda _, packet: 8 * (packet[24] & 3) + 8, "pcm_s32le": lambda *_: 32, "pcm_s32be": lambda *_: 32}
# Containers that may store channels in an order of their own.
FREE_ORDER = ("aiff", "caf", "mov,mp4,m4a,3gp,3g2,mj2")
# FFmpeg's flag AV_CODEC_FLAG2_SKIP_MANUAL: the decoder does not cut off the samples before the beginning, we do.
SKIP_MANUAL = 1 << 29
# Containers whose damaged pages or frames FFmpeg drops without an error.
SILENT_FORMATS = ("ogg", "flac")
# A longer gap between two frames means that something was lost. Opus files begin with a shorter one.
GAP_SECONDS = 0.02
# PyAV reads outside its memory when a planar frame has more planes.
MAX_PLANES = 8
# A sample rate outside this range, in Hz, means that the file is damaged.
MIN_RATE, MAX_RATE = 100, 10_000_000
# FFmpeg keeps the power when it converts mono to stereo or back, players keep the amplitude: these factors do.
GAINS = {(1, 2): 2**0.5, (2, 1): 2**-0.5}


class UnreadableError(Exception):
    """Something that FFmpeg cannot open, or that holds no audio of a known codec and form."""


class ConversionError(Exception):
    """Frames that cannot be brought to the form of the first one."""


def reason(error: Exception) -> str:
    """What an error says, without number and file name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@dataclass
class Tally:
    """What a pass over a file met: bytes of sound, the first packet, the first failure; and who is told of more.

    failed: called with every error; changed: with the channels and the rate that frames have from now on.
    """

    failed: Callable[[Exception], None] = lambda error: None
    changed: Callable[[int, int], None] = lambda rate, channels: None
    n_bytes: int = 0
    first_packet: bytes = b""
    error: Exception | None = None

    def fail(self, error: Exception) -> None:
        """Note something that could not be decoded."""
        self.error = self.error or error
        self.failed(error)


class _Gaps:
    """Tells a Tally of times that pass without samples."""

    def __init__(self, tally: Tally):
        self._tally, self._next = tally, None

    def tell(self, frame: av.AudioFrame) -> None:
        """Take the next frame."""
        if frame.time is not None:
            self._expect(frame.time)
            self._next = frame.time + frame.samples / frame.sample_rate

    def end(self, container: av.container.InputContainer) -> None:
        """Compare the end with what the last page says."""
        if container.duration is not None:
            self._expect(((container.start_time or 0) + container.duration) / av.time_base)

    def _expect(self, time):
        if self._next is not None and time > self._next + GAP_SECONDS:
            self._tally.fail(UnreadableError("a gap in time"))


@contextmanager
def opened(part: Part, options: dict[str, str] | None = None):
    """Container and first audio stream of a part; `options` are the decoder's. Raises UnreadableError."""
    try:
        container = av.open(part.source() if callable(part.source) else part.source, options=part.options,
                            metadata_errors="replace")
    except DECODER_ERRORS as error:
        raise UnreadableError(reason(error)) from error
    with container:
        stream = next(iter(container.streams.audio), None)
        if stream is None:
            raise UnreadableError("it has no audio stream")
        if stream.codec_context is None:
            raise UnreadableError("the codec of its audio is unknown")
        stream.codec_context.options = options or {}
        if part.samples is not None and stream.codec_context.name == "vorbis":
            stream.codec_context.flags2 |= SKIP_MANUAL
        yield container, stream


def frames(container: av.container.InputContainer, stream: av.AudioStream, tally: Tally) -> Iterator[av.AudioFrame]:
    """The frames of a stream. What cannot be decoded is left out, and the end is where the container breaks off."""
    packets, context, gaps, kind = container.demux(stream), stream.codec_context, _Gaps(tally), container.format.name
    while True:
        try:
            packet = next(packets, None)
        except DECODER_ERRORS as error:
            tally.fail(error)
            packet = None
        try:
            found = context.decode(packet)
        except av.EOFError:  # it has been flushed
            found = []
        except DECODER_ERRORS as error:
            tally.fail(error)
            found = []
        if packet is not None and found:
            tally.n_bytes += packet.size
            tally.first_packet = tally.first_packet or bytes(packet)
        for frame in found:
            if frame.sample_rate != context.sample_rate:  # the first MP3 frame of another rate has the old one's
                frame.sample_rate = context.sample_rate
            if kind in SILENT_FORMATS:
                gaps.tell(frame)
            yield frame
        if packet is None:
            break
    if kind == "ogg":
        gaps.end(container)


@dataclass(frozen=True)
class Format:
    """What a file's audio is. See AudioReader; `order` puts the channels into that of WAV, `options` are the decoder's.
    """

    sample_rate: int
    channels: int
    layout: str | None
    order: list[int] | None
    codec: str
    subtype: str | None
    bit_rate: int | None
    seconds: float
    options: dict[str, str]

    @property
    def form(self) -> tuple[int, int]:
        """Rate and channels, which a file may change."""
        return self.sample_rate, self.channels


def describe(part: Part) -> Format:
    """The format of a part, by its first frame, which may differ from the header. Raises UnreadableError."""
    tally = Tally()
    with opened(part) as (container, stream):
        context = stream.codec_context
        codec = context.codec.canonical_name
        names, options = None, {}
        if codec == "flac":  # damaged frames are else decoded to noise
            options = {"err_detect": "crccheck+explode"}
        elif codec.startswith("pcm_") and container.format.name in FREE_ORDER:
            names = _names(_kept(context.layout))
            options = {"ch_layout": f"{len(names)}c"}
        context.options = options
        frame = next(frames(container, stream, tally), None)
        if frame is None and tally.error:
            raise UnreadableError(reason(tally.error)) from tally.error
        first = frame or context  # without frames the header is what there is
        layout, rate = first.layout, first.sample_rate
        if not (layout.nb_channels and MIN_RATE <= rate <= MAX_RATE):
            raise UnreadableError(f"{layout.nb_channels} channels at {rate} Hz")
        name, order = _layout(names or _names(layout))
        subtype = _subtype(codec, context.codec, first.format.name, context.extradata or b"", tally.first_packet)
        bit_rate = None if subtype else context.bit_rate or container.bit_rate or None
        return Format(rate, layout.nb_channels, name, order, codec, subtype, bit_rate,
                      (container.duration or 0) / av.time_base, options)


def _kept(layout):
    """A layout of the channels that is never freed: PyAV frees one of a free order twice."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
    return layout


def _names(layout):
    return [channel.name for channel in layout.channels]


def _layout(names):
    """FFmpeg's name of the layout with these channels in the order of WAV, and the order that makes it so, if any."""
    if not set(names) <= set(CHANNEL_ORDER) or len(set(names)) < len(names):
        return {1: "mono", 2: "stereo"}.get(len(names)), None
    order = sorted(range(len(names)), key=lambda k: CHANNEL_ORDER.index(names[k]))
    name = av.AudioLayout("+".join(names[k] for k in order)).name
    return name, order if order != sorted(order) else None


def _subtype(name, codec, sample_format, header, first_packet):
    sample_format = sample_format.removesuffix("p")
    if not codec.lossless or (name == "dts" and sample_format == "flt"):  # DTS has a lossless form, in whole numbers
        return None
    if sample_format == "s32" and name in DEPTHS:
        try:
            return "PCM_32" if DEPTHS[name](header, first_packet) > 24 else "PCM_24"
        except IndexError:
            pass
    return SUBTYPES[sample_format]


class Piece(NamedTuple):
    """Decoded samples as they come: `n` in an array per channel, of whole numbers or floats, and their full scale."""

    rows: list[np.ndarray]
    n: int
    scale: float

    def cut(self, start: int, end: int) -> "Piece":
        """The samples from `start` on and before `end`."""
        rows = [row[start:end] for row in self.rows]
        return Piece(rows, rows[0].size, self.scale)


def _piece(frame, gain=1.0):
    kind, scale = SAMPLE_FORMATS[frame.format.name.removesuffix("p")]
    n, channels = frame.samples, frame.layout.nb_channels
    if frame.format.is_planar:
        rows = [np.frombuffer(plane, kind, n) for plane in frame.planes[:channels]]
    else:
        rows = list(np.frombuffer(frame.planes[0], kind, n * channels).reshape(n, channels).T)
    if kind is np.uint8:
        rows = [row.astype(np.int16) - 128 for row in rows]
    return Piece(rows, n, scale * gain)


def joined(pieces: Sequence[Piece], dtype: str) -> np.ndarray:
    """Pieces as one array of floats, shape (channels, samples)."""
    audio, start = np.empty((len(pieces[0].rows), sum(piece.n for piece in pieces)), dtype), 0
    for rows, n, scale in pieces:
        part = audio[:, start : start + n]
        for row, out in zip(rows, part, strict=True):
            out[:] = row
        if scale != 1:
            part *= scale
        start += n
    return audio


def pieces(part: Part, wanted: Format, tally: Tally) -> Iterator[Piece]:
    """The samples of a part, with the rate and the channels of `wanted`.

    Raises UnreadableError, or ConversionError where frames have another form that cannot be converted.
    """
    with opened(part, wanted.options) as (container, stream):
        found = frames(container, stream, tally)
        if not stream.codec_context.flags2 & SKIP_MANUAL:
            yield from _converted(found, wanted, tally)
        elif first := next(found, None):
            scale = wanted.sample_rate / first.sample_rate
            start, at = round(scale * _lead(first)), 0
            end = start + round(scale * part.samples)
            for piece in _converted(chain([first], found), wanted, tally):
                yield piece.cut(max(0, start - at), max(0, end - at))
                at += piece.n


def _lead(frame):
    """How many samples of a frame come before the beginning, where the decoder leaves it to us to cut them off."""
    return sum(int.from_bytes(bytes(data)[:4], "little") for data in frame.side_data
               if data.type == av.sidedata.sidedata.Type.SKIP_SAMPLES)


def _converted(found, wanted, tally):
    converter, form, usual, crowded = None, None, wanted.form, wanted.channels > MAX_PLANES
    for frame in chain(found, [None]):
        now = frame and (frame.sample_rate, frame.layout.nb_channels)
        if now == usual and not (crowded and frame.format.is_planar):
            now = None
        if now:
            now += frame.layout.name, frame.format.name
        if now != form:
            if converter:
                yield from converter.convert(None)
            if now:
                tally.changed(*now[:2])
            converter, form = now and Converter(frame, wanted), now
        if converter:
            yield from converter.convert(frame)
        elif frame:
            piece = _piece(frame)
            yield piece if wanted.order is None else piece._replace(rows=[piece.rows[k] for k in wanted.order])


class Converter:
    """Brings frames of one form to the rate and channels of a Format, as a stream. Raises ConversionError."""

    def __init__(self, frame: av.AudioFrame, wanted: Format):
        self._gain = GAINS.get((frame.layout.nb_channels, wanted.channels), 1.0)
        layout = wanted.layout or f"{wanted.channels}C"
        try:
            self._graph = av.filter.Graph()
            nodes = [self._graph.add_abuffer(sample_rate=frame.sample_rate, format=frame.format.name,
                                             layout=frame.layout.name, time_base=Fraction(1, frame.sample_rate)),
                     self._graph.add("aresample", f"{wanted.sample_rate}:ochl={layout}:osf=dbl"),
                     self._graph.add("abuffersink")]
            for node, following in pairwise(nodes):
                node.link_to(following)
            self._graph.configure()
        except DECODER_ERRORS as error:
            raise ConversionError(reason(error)) from error

    def convert(self, frame: av.AudioFrame | None) -> Iterator[Piece]:
        """What a frame gives; None asks for the rest."""
        try:
            if frame:
                frame.pts = None  # samples follow each other without gaps; wrong time stamps are ignored
            self._graph.push(frame)
            while True:
                yield _piece(self._graph.pull(), self._gain)
        except (av.BlockingIOError, av.EOFError):  # there is no more for now
            return
        except DECODER_ERRORS as error:
            raise ConversionError(reason(error)) from error
