"""Find the sound in files that FFmpeg alone would misread: chained Ogg files, and headers with wrong sizes."""

import io
import mmap
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

from common.small_files import ffmpeg_name

OGG_SUFFIXES = (".ogg", ".oga", ".opus")
# Without these, FFmpeg would search 5 MB of a WAV file for other codecs, and decode pieces of 1024 samples.
WAV_OPTIONS = {"probesize": "65536", "max_size": "131072"}
# Flags, granule position and serial number of an Ogg page. They follow the magic word and a zero.
_PAGE = struct.Struct("<Bqi")
_FIRST_PAGE, _LAST_PAGE = 2, 4
# The first bytes of what may follow the sound in a file without being sound.
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")


@dataclass(frozen=True)
class Part:
    """A stretch of a file that is a complete audio file."""

    source: str | Callable  # the argument of av.open, or a function that returns it
    samples: int | None = None  # the number of samples according to the container, where FFmpeg miscounts them
    options: dict[str, str] = field(default_factory=dict)  # of the demuxer
    problem: str = ""  # what the header has wrong


class _Form(NamedTuple):
    """How a kind of file is divided into chunks."""

    header: struct.Struct
    first: int  # where the first chunk begins
    counted: bool  # whether the size of a chunk includes its own header
    align: int  # chunks begin at multiples of this
    sound: bytes  # the name of the chunk of samples


_FORMS = {b"RIFF": _Form(struct.Struct("<4sI"), 12, False, 2, b"data"),
          b"RIFX": _Form(struct.Struct(">4sI"), 12, False, 2, b"data"),
          b"FORM": _Form(struct.Struct(">4sI"), 12, False, 2, b"SSND"),
          b"riff": _Form(struct.Struct("<16sQ"), 40, True, 8, b"data")}
_FORMS[b"RF64"] = _FORMS[b"BW64"] = _FORMS[b"RIFF"]


def parts(path: Path) -> list[Part]:
    """Return the parts of a file in order, nearly always one. Raises OSError."""
    name = ffmpeg_name(path)
    with open(path, "rb") as file:
        magic = file.read(4)
        if magic == b"OggS" or path.suffix.lower() in OGG_SUFFIXES:
            return list(_links(file, name)) or [Part(name)]
        if magic in _FORMS:
            return [_with_true_size(path, file, magic, name)]
    return [Part(name)]


def _links(file, name) -> Iterator[Part]:
    """Yield the links of an Ogg file, each a complete Ogg file. Bytes before the first link are left out."""
    size = file.seek(0, 2)
    if not size:
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        pages = [(match.start(), *_PAGE.unpack_from(data, match.end())) for match in re.finditer(rb"OggS\0", data)
                 if match.end() + _PAGE.size <= size]
    first = [bool(flags & _FIRST_PAGE) for _, flags, _, _ in pages]
    # The streams of one link begin together: their first pages follow each other.
    begins = [k for k in range(len(pages)) if first[k] and not (k and first[k - 1])]
    for begin, end in pairwise([*begins, len(pages)]):
        link = pages[begin:end]
        start = link[0][0]
        stop = pages[end][0] if end < len(pages) else size
        sounding = [(granule, flags) for _, flags, granule, _ in link if granule > 0]
        # FFmpeg miscounts a Vorbis stream that fits on one page. The page itself says how long the stream is.
        alone = len(sounding) == len({serial for *_, serial in link}) == 1 and sounding[0][1] & _LAST_PAGE
        yield Part(f"subfile,,start,{start},end,{stop},,:{name}", sounding[0][0] if alone else None)


def _with_true_size(path, file, magic, name):
    """Return a file as one part, with the size of the sound corrected if the header has it wrong."""
    form, size = _FORMS[magic], file.seek(0, 2)
    options = {} if magic == b"FORM" else WAV_OPTIONS
    found = _sound(file, form, size)
    if not found:
        return Part(name)
    where, width, start, said = found
    true = said if _ends_well(file, form, start + said, size) else size - start
    if true == 0:  # FFmpeg takes 0 for an unknown size
        return Part(f"subfile,,start,0,end,{start},,:{name}")
    order = "big" if form.header.format.startswith(">") else "little"
    patches, problem = {}, ""
    if true != said:
        stated = min(true + form.header.size * form.counted, 256**width - 1)  # the largest number means: to the end
        patches[where] = stated.to_bytes(width, order)
        problem = f"its header counts {said} bytes of sound, but there are {true}"
    if magic == b"FORM" and (patches or 8 + _number(file, 4, 4, order) < start + true):
        patches[4] = min(size - 8, 2**32 - 1).to_bytes(4, order)
    return Part((lambda: _Patched(path, patches)) if patches else name, options=options, problem=problem)


def _number(file, at, width, order):
    file.seek(at)
    return int.from_bytes(file.read(width), order)


def _chunk(file, form, at):
    """Return the name and the body size of the chunk at a position, or None if there is no chunk."""
    file.seek(at)
    head = file.read(form.header.size)
    if len(head) < form.header.size:
        return None
    name, length = form.header.unpack(head)
    length = max(0, length - form.header.size * form.counted)
    return (name, length) if all(32 <= byte < 127 for byte in name[:4]) else None


def _sound(file, form, size):
    """Find the chunk of sound: the position and width of its size field, the beginning and the size of the sound."""
    at, long_size = form.first, None
    while at < size and (chunk := _chunk(file, form, at)):
        name, length = chunk
        body = at + form.header.size
        if name == b"ds64":
            long_size = body + 8, 8, _number(file, body + 8, 8, "little")
        if name[:4] == form.sound:
            width = 8 if form.counted else 4
            where, width, length = long_size or (body - width, width, length)
            return where, width, body, length
        at = body + length + -(body + length) % form.align
    return None


def _ends_well(file, form, end, size):
    """Whether the end of the file, another chunk, a tag, text or zeros follow the sound."""
    rest = size - end
    if rest < form.header.size:
        return rest >= 0
    following = [_chunk(file, form, end + pad) for pad in (0, -end % form.align)]
    if any(chunk and chunk[1] <= rest for chunk in following):
        return True
    file.seek(end)
    first = file.read(16)
    if first.startswith(_TAGS) or all(32 <= byte < 127 or byte in b"\r\n\t" for byte in first):
        return True
    return not any(block.strip(b"\0") for block in chain([first], iter(lambda: file.read(1 << 20), b"")))


class _Patched(io.FileIO):
    """A file in which some bytes are replaced: `patches` has the new bytes by their position."""

    def __init__(self, path, patches):
        super().__init__(path)
        self._patches = patches

    def read(self, size=-1):
        """Read like a file, with the new bytes in their places."""
        begin = self.tell()
        data = bytearray(super().read(size))
        for at, value in self._patches.items():
            for place, byte in enumerate(value, at - begin):
                if 0 <= place < len(data):
                    data[place] = byte
        return bytes(data)
