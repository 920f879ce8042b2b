"""Decoding of audio files with the FFmpeg libraries in PyAV. Damaged parts are left out, and the rest is decoded."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, groupby

import av
import numpy as np

from common.audio.container_repair import Part
from common.audio.formats import CHANNEL_ORDER, channel_names
from common.errors import PARSER_ERRORS

DECODER_ERRORS = (av.FFmpegError, *PARSER_ERRORS)
# NumPy's type of each sample format of FFmpeg, and the factor that brings its full scale to 1.
SAMPLE_FORMATS = {"u8": (np.uint8, 2.0**-7), "s16": (np.int16, 2.0**-15), "s32": (np.int32, 2.0**-31),
                  "s64": (np.int64, 2.0**-63), "flt": (np.float32, 1.0), "dbl": (np.float64, 1.0)}
# The smallest subtype of libsndfile that holds each sample format of FFmpeg. Words of 32 bits mostly hold samples of 24
# bits; DEPTHS finds the exceptions.
SUBTYPES = {"u8": "PCM_16", "s16": "PCM_16", "s32": "PCM_24", "s64": "DOUBLE", "flt": "FLOAT", "dbl": "DOUBLE"}
# Functions that find the bits of a sample in the header or in the first packet of a lossless codec.
DEPTHS = {"flac": lambda header, _: ((header[12] & 1) << 4 | header[13] >> 4) + 1, "alac": lambda header, _: header[17],
          "wavpack": lambda _, packet: 8 * (packet[24] & 3) + 8, "pcm_s32le": lambda *_: 32, "pcm_s32be": lambda *_: 32}
# Containers that may store channels in an order of their own.
FREE_ORDER = ("aiff", "caf", "mov,mp4,m4a,3gp,3g2,mj2")
# FFmpeg's flag AV_CODEC_FLAG2_SKIP_MANUAL: the decoder leaves it to its caller to cut off the samples before the start.
SKIP_MANUAL = 1 << 29
# Containers whose damaged pages or frames FFmpeg drops without an error.
SILENT_FORMATS = ("ogg", "flac")
# A longer gap in seconds between two frames means that something was lost. Opus files begin with a shorter one.
GAP_SECONDS = 0.02
# PyAV reads outside its memory when a planar frame has more planes.
MAX_PLANES = 8
# A sample rate outside this range, in Hz, means that the file is damaged.
MIN_RATE, MAX_RATE = 100, 10_000_000
# FFmpeg keeps the power when it converts mono to stereo or back. Players keep the amplitude, as these factors do.
GAINS = {(1, 2): 2**0.5, (2, 1): 2**-0.5}


class UnreadableError(Exception):
    """A file that FFmpeg cannot open, or that holds no audio of a known codec and form."""


class ConversionError(Exception):
    """Frames that cannot be converted to the rate and channels of the first one."""


def reason(error: Exception) -> str:
    """Return the message of an error without its number and file name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@dataclass
class Tally:
    """What one pass over a file has found so far."""

    sample_rate: int = 1
    n_samples: int = 0
    n_bytes: int = 0  # the size of the packets that gave samples
    first_packet: bytes = b""
    error: Exception | None = None  # the first failure
    problems: dict[str, str] = field(default_factory=dict)  # one message of each kind

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate

    def fail(self, error: Exception) -> None:
        """Note that something could not be decoded."""
        self.error = self.error or error
        self.problems.setdefault("damage", "something cannot be decoded and is left out, first at "
                                           f"{self.seconds:.2f} s ({reason(error)})")


@contextmanager
def opened(part: Part, options: dict[str, str]):
    """Open the container and the first audio stream of a part, with options for the decoder. Raises UnreadableError."""
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
        stream.codec_context.options = options
        if part.samples is not None and stream.codec_context.name == "vorbis":
            stream.codec_context.flags2 |= SKIP_MANUAL
        yield container, stream


def _packets(container, stream, tally):
    """Yield packets up to where the container breaks off. The last packet empties the decoder."""
    try:
        yield from container.demux(stream)
    except DECODER_ERRORS as error:
        tally.fail(error)
        yield None


def frames(container: av.container.InputContainer, stream: av.AudioStream, tally: Tally) -> Iterator[av.AudioFrame]:
    """Yield the frames of a stream, without those that cannot be decoded, up to where the container breaks off."""
    context, kind = stream.codec_context, container.format.name
    expected = float("inf")  # the time in seconds when the next frame begins

    def check_gap(time):
        if time > expected + GAP_SECONDS:
            tally.fail(UnreadableError("a gap in time"))

    for packet in _packets(container, stream, tally):
        found = []
        try:
            found = context.decode(packet)
        except DECODER_ERRORS as error:
            tally.fail(error)
        if packet is not None and found:
            tally.n_bytes += packet.size
            tally.first_packet = tally.first_packet or bytes(packet)
        for frame in found:
            if frame.sample_rate != context.sample_rate:  # FFmpeg gives the first MP3 frame of another rate the old one
                frame.sample_rate = context.sample_rate
            if kind in SILENT_FORMATS and frame.time is not None:
                check_gap(frame.time)
                expected = frame.time + frame.samples / frame.sample_rate
            yield frame
    if kind == "ogg" and container.duration is not None:  # the last page says when the audio ends
        check_gap(((container.start_time or 0) + container.duration) / av.time_base)


@dataclass(frozen=True)
class Format:
    """The format of a file's audio, see AudioReader."""

    sample_rate: int
    channels: int
    layout: str | None
    order: list[int] | None  # for each channel in WAV order, its index in the file, unless the file has WAV order
    codec: str
    subtype: str | None
    bit_rate: int | None
    seconds: float
    options: dict[str, str]  # of the decoder


def describe(part: Part) -> Format:
    """Find the format of a part from its first frame, which may differ from the header. Raises UnreadableError."""
    tally = Tally()
    with opened(part, {}) as (container, stream):
        context = stream.codec_context
        codec = context.codec.canonical_name
        names, options = None, {}
        if codec == "flac":  # by default FFmpeg decodes damaged frames to noise
            options = {"err_detect": "crccheck+explode"}
        elif codec.startswith("pcm_") and container.format.name in FREE_ORDER:
            layout = context.layout  # PyAV frees a layout of a free order twice: this reference keeps it from that
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
            names = channel_names(layout)
            options = {"ch_layout": f"{len(names)}c"}
        context.options = options
        frame = next(frames(container, stream, tally), None)
        if frame is None and tally.error:
            raise UnreadableError(reason(tally.error)) from tally.error
        first = frame or context  # without frames only the header is left
        layout, rate = first.layout, first.sample_rate
        if not (layout.nb_channels and MIN_RATE <= rate <= MAX_RATE):
            raise UnreadableError(f"{layout.nb_channels} channels at {rate} Hz")
        name, order = _wav_layout(names or channel_names(layout))
        subtype = _subtype(codec, context, first.format.name.removesuffix("p"), tally.first_packet)
        bit_rate = None if subtype else context.bit_rate or container.bit_rate or None
        return Format(rate, layout.nb_channels, name, order, codec, subtype, bit_rate,
                      (container.duration or 0) / av.time_base, options)


def _wav_layout(names):
    """Return FFmpeg's name of the layout of these channels in WAV order, and the order that sorts them, see Format."""
    if not set(names) <= set(CHANNEL_ORDER) or len(set(names)) < len(names):
        return {1: "mono", 2: "stereo"}.get(len(names)), None
    order = sorted(range(len(names)), key=lambda k: CHANNEL_ORDER.index(names[k]))
    name = av.AudioLayout("+".join(names[k] for k in order)).name
    return name, order if order != sorted(order) else None


def _subtype(name, context, sample_format, first_packet):
    # DTS has a lossless form. Its samples are integers.
    if not context.codec.lossless or (name == "dts" and sample_format == "flt"):
        return None
    if sample_format == "s32" and name in DEPTHS:
        try:
            return "PCM_32" if DEPTHS[name](context.extradata or b"", first_packet) > 24 else "PCM_24"
        except IndexError:
            pass
    return SUBTYPES[sample_format]


def decode(part: Part, wanted: Format, tally: Tally, dtype: str) -> Iterator[np.ndarray]:
    """Yield the samples of a part as arrays of shape (channels, samples), with the rate and the channels of `wanted`.

    Raises UnreadableError, or ConversionError for frames of another form that cannot be converted.
    """
    if part.problem:
        tally.problems["size"] = part.problem
    with opened(part, wanted.options) as (container, stream):
        found = frames(container, stream, tally)
        if not stream.codec_context.flags2 & SKIP_MANUAL:
            yield from _converted(found, wanted, tally, dtype)
        elif first := next(found, None):
            lead = sum(int.from_bytes(bytes(data)[:4], "little") for data in first.side_data
                       if data.type == av.sidedata.sidedata.Type.SKIP_SAMPLES)
            scale = wanted.sample_rate / first.sample_rate
            start, at = round(scale * lead), 0
            end = start + round(scale * part.samples)
            for audio in _converted(chain([first], found), wanted, tally, dtype):
                yield audio[:, max(0, start - at) : max(0, end - at)]
                at += audio.shape[-1]


def _converted(found, wanted, tally, dtype):
    def form(frame):
        """The form of a frame that must be converted, otherwise None."""
        rate, channels = frame.sample_rate, frame.layout.nb_channels
        crowded = channels > MAX_PLANES and frame.format.is_planar
        if (rate, channels) == (wanted.sample_rate, wanted.channels) and not crowded:
            return None
        return rate, channels, frame.layout.name, frame.format.name

    for now, run in groupby(found, form):
        if now is None:
            for frame in run:
                audio = _samples(frame, dtype)
                yield audio if wanted.order is None else audio[wanted.order]
            continue
        rate, channels, *_ = now
        if (rate, channels) != (wanted.sample_rate, wanted.channels):
            tally.problems.setdefault("change", f"at {tally.seconds:.2f} s it changes from {wanted.channels} channels "
                                                f"at {wanted.sample_rate} Hz to {channels} at {rate} Hz, and is "
                                                "converted")
        yield from _resampled(run, channels, wanted, dtype)


def _resampled(run, channels, wanted, dtype):
    """Convert frames of one form to the rate and the number of channels of a Format. Raises ConversionError."""
    gain = GAINS.get((channels, wanted.channels), 1.0)
    try:
        resampler = av.AudioResampler("dbl", wanted.layout or f"{wanted.channels}C", wanted.sample_rate)
        for frame in chain(run, [None]):  # None asks for the rest
            if frame:
                frame.pts = None  # samples follow each other without gaps; wrong time stamps are ignored
            for converted in resampler.resample(frame):
                yield _samples(converted, dtype, gain)
    except DECODER_ERRORS as error:
        raise ConversionError(reason(error)) from error


def _samples(frame, dtype, gain=1.0):
    """Return the samples of a frame as floats of shape (channels, samples)."""
    kind, scale = SAMPLE_FORMATS[frame.format.name.removesuffix("p")]
    n, channels = frame.samples, frame.layout.nb_channels
    if frame.format.is_planar:
        rows = [np.frombuffer(plane, kind, n) for plane in frame.planes[:channels]]
    else:
        rows = np.frombuffer(frame.planes[0], kind, n * channels).reshape(n, channels).T
    audio = np.empty((channels, n), dtype)
    for row, out in zip(rows, audio, strict=True):
        out[:] = row
    if kind is np.uint8:
        audio -= 128
    if scale * gain != 1:
        audio *= scale * gain
    return audio
