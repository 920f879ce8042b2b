"""The file formats that can be written, and the form of the samples that one output file gets."""

import logging
from dataclasses import dataclass
from pathlib import Path

import av

from common.errors import AudioError, CallError

log = logging.getLogger(__name__)

# FFmpeg's names of the channels in the order of WAV files, which is also their order in memory. The position of a
# channel is its bit in the channel mask of a WAV file.
CHANNEL_ORDER = ("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR", "TC", "TFL", "TFC", "TFR", "TBL",
                 "TBC", "TBR")
# The layout that each number of channels gets when no layout is known.
DEFAULT_LAYOUTS = dict(enumerate(("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1"), 1))
# The order of channels in Vorbis (Vorbis I, section 4.3.9) and Opus files, for layouts where it differs from WAV.
# libsndfile does not reorder channels: a surround channel in the last place of six would become low-frequency effects.
XIPH_ORDER = {"3.0": "FL FC FR", "5.0": "FL FC FR BL BR", "5.1": "FL FC FR BL BR LFE", "6.1": "FL FC FR BL BR BC LFE",
              "7.1": "FL FC FR SL SR BL BR LFE"}
# libsndfile's names of the sample formats that hold integers, each with its bits.
PCM_BITS = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
# The headers of WAV and AIFF files count bytes in 32 bits.
MAX_BYTES = 2**32 - 1024


@dataclass(frozen=True)
class Codec:
    """How a kind of file stores samples."""

    name: str  # FFmpeg's name
    container: str  # FFmpeg's name of the kind of file, or libsndfile's name in upper case
    subtypes: tuple[str, ...] = ()  # the sample formats that are kept without loss, empty for a lossy codec
    layouts: tuple[str, ...] = ()  # the known channel layouts, empty if any layout is allowed
    bit_rate: int | None = None  # bits per second of stereo, close to transparent for music
    max_bytes: float = float("inf")  # the largest size of all samples


_INTEGERS = tuple(PCM_BITS)
_XIPH = tuple(DEFAULT_LAYOUTS.values())
_OPUS = Codec("opus", "OGG", (), _XIPH, 160_000)
_AIFF = Codec("pcm", "AIFF", (*_INTEGERS, "FLOAT", "DOUBLE"), max_bytes=MAX_BYTES)
# The codecs of each suffix; the first one is the default.
FORMATS = {
    ".wav": (Codec("pcm", "wav", (*_INTEGERS, "FLOAT", "DOUBLE")),),
    ".flac": (Codec("flac", "flac", _INTEGERS),),
    ".ogg": (Codec("vorbis", "OGG", (), _XIPH, 192_000), _OPUS, Codec("flac", "ogg", _INTEGERS)),
    ".opus": (_OPUS,),
    ".mp3": (Codec("mp3", "mp3", (), ("mono", "stereo"), 320_000),),
    ".m4a": (Codec("aac", "mp4", (), ("mono", "stereo", "3.0", "4.0", "quad", "5.0", "5.1", "6.1", "7.1"), 256_000),
             Codec("alac", "mp4", _INTEGERS[:2],
                   ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1(back)", "7.1(wide)"))),
    ".aiff": (_AIFF,),
    ".aif": (_AIFF,),
}
OUTPUT_SUFFIXES = tuple(FORMATS)
# The output suffix for inputs whose own suffix can be read but not written.
NEAREST = {".mp4": ".m4a", ".aac": ".m4a", ".oga": ".ogg", ".aifc": ".aiff", ".mp2": ".mp3"}


@dataclass(frozen=True)
class SampleForm:
    """The form of the samples in one output file."""

    codec: Codec
    sample_rate: int
    channels: int
    subtype: str | None  # libsndfile's name of the sample format, None for a lossy codec
    layout: str | None  # FFmpeg's name of the channel layout
    order: list[int]  # for each channel of the file, its index in WAV order
    bit_rate: int | None  # bits per second, None for a lossless codec


def choose_form(path: Path, sample_rate: int, channels: int, subtype: str | None, like) -> SampleForm:
    """Choose the form of an output file from its suffix, the sample format that was asked for, and an input.

    `like` is None or the AudioReader of the input, see AudioWriter. Warns when bits are lost. Raises CallError for an
    unknown suffix, AudioError for a layout that the codec does not know.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise CallError(f"expected an output name ending in {', '.join(OUTPUT_SUFFIXES)}, got {path}: choose one of "
                        "these formats")
    codec = _codec(suffix, like)
    subtype = subtype or (like and like.subtype)
    if not codec.subtypes:
        subtype = None
    elif subtype is None:
        subtype = "PCM_16"
    elif subtype not in codec.subtypes:
        log.warning("%s will hold integers of 24 bits, fewer than the %s of the input, so that bits are lost: write "
                    "WAV to keep them", path, subtype)
        subtype = "PCM_24"
    layout, order = place_channels(codec, path, channels, like and like.layout)
    bit_rate = codec.bit_rate and int(codec.bit_rate * max(1, channels / 2))
    if like and like.codec == codec.name:
        bit_rate = like.bit_rate or bit_rate
    return SampleForm(codec, sample_rate, channels, subtype, layout, order, bit_rate)


def _codec(suffix, like):
    """Choose the codec of a file. Between files of one kind, the codec is kept, or at least its being lossless."""
    codecs = FORMATS[suffix]
    own = like and like.path.suffix.lower()
    if not own or NEAREST.get(own, own) != suffix:
        return codecs[0]
    same = [codec for codec in codecs if codec.name == like.codec]
    lossless = [codec for codec in codecs if codec.subtypes and like.subtype]
    return (same or lossless or codecs)[0]


def place_channels(codec: Codec, path: Path, channels: int, layout: str | None) -> tuple[str | None, list[int]]:
    """Return the layout of the file and, for each channel of the file, its index in WAV order.

    Raises AudioError for a layout that the codec does not know: a channel never moves to a place of another kind.
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


def channel_names(layout: av.AudioLayout) -> list[str]:
    """Return FFmpeg's names of the channels of a layout."""
    return [channel.name for channel in layout.channels]


def _places(layout):
    """Name the channels of a layout in WAV order; side channels count as back channels if there are no others."""
    names = channel_names(av.AudioLayout(layout))
    return names if "BL" in names else [{"SL": "BL", "SR": "BR"}.get(name, name) for name in names]
