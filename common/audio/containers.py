"""Where the sound lies in files that FFmpeg alone would misread: chained Ogg files, headers with wrong sizes."""

import io
import mmap
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

OGG_SUFFIXES = (".ogg", ".oga", ".opus")
# For WAV: FFmpeg would search 5 MB for other codecs, and decode pieces of 1024 samples.
WAV_OPTIONS = {"probesize": "65536", "max_size": "131072"}
# Flags, granule position and serial number of an Ogg page; they follow its magic word and a zero.
_PAGE = struct.Struct("<Bqi")
_FIRST_PAGE, _LAST_PAGE = 2, 4
# What follows the sound in some files without being sound.
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")


@dataclass(frozen=True)
class Part:
    """A stretch of a file that is a whole audio file.

    source: what av.open takes, or a function that gives it. samples: where the container counts the samples and
    FFmpeg miscounts them, else None. options: of the demuxer.
    """

    source: str | Callable
    samples: int | None = None
    options: dict[str, str] = field(default_factory=dict)


class _Form(NamedTuple):
    """How a kind of file is divided into chunks; counted: whether a chunk's size counts its own header."""

    header: struct.Struct
    first: int
    counted: bool
    align: int
    sound: bytes


_FORMS = {b"RIFF": _Form(struct.Struct("<4sI"), 12, False, 2, b"data"),
          b"RIFX": _Form(struct.Struct(">4sI"), 12, False, 2, b"data"),
          b"FORM": _Form(struct.Struct(">4sI"), 12, False, 2, b"SSND"),
          b"riff": _Form(struct.Struct("<16sQ"), 40, True, 8, b"data")}
_FORMS[b"RF64"] = _FORMS[b"BW64"] = _FORMS[b"RIFF"]


def parts(path: Path) -> tuple[list[Part], str]:
    """The parts of a file in order, nearly always one, and in words what its header had wrong. Raises OSError."""
    name = f"file:{path}"  # a bare name with a colon would be a protocol to FFmpeg
    with open(path, "rb") as file:
        magic = file.read(4)
        if magic == b"OggS" or path.suffix.lower() in OGG_SUFFIXES:
            return list(_links(file, name)) or [Part(name)], ""
        if magic in _FORMS:
            part, problem = _with_true_size(path, file, magic, name)
            return [part], problem
    return [Part(name)], ""


def _links(file, name) -> Iterator[Part]:
    """The links of an Ogg file, each of them a whole Ogg file; what lies in front of the first one is left out."""
    size = file.seek(0, 2)
    if not size:
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start, began, sounding, serials = None, False, [], set()
        for match in re.finditer(rb"OggS\0", data):
            if match.end() + _PAGE.size > size:
                break
            flags, granule, serial = _PAGE.unpack_from(data, match.end())
            if flags & _FIRST_PAGE and not began:  # the streams of one link begin together
                if start is not None:
                    yield _link(name, start, match.start(), sounding, serials)
                start, sounding, serials = match.start(), [], set()
            began = bool(flags & _FIRST_PAGE)
            if start is not None:
                serials.add(serial)
                if granule > 0 and len(sounding) < 2:
                    sounding.append((granule, flags))
        if start is not None:
            yield _link(name, start, size, sounding, serials)


def _link(name, start, end, sounding, serials):
    # FFmpeg miscounts a Vorbis stream that fits on one page. The page itself says how long the stream is.
    alone = len(sounding) == len(serials) == 1 and sounding[0][1] & _LAST_PAGE
    return Part(f"subfile,,start,{start},end,{end},,:{name}", sounding[0][0] if alone else None)


def _with_true_size(path, file, magic, name):
    """One part; where the header gives the sound another size than it has, with that put right."""
    form, size = _FORMS[magic], file.seek(0, 2)
    options = {} if magic == b"FORM" else WAV_OPTIONS
    found = _sound(file, form, size)
    if not found:
        return Part(name), ""
    where, width, start, said = found
    true = said if _ends_well(file, form, start + said, size) else size - start
    if true == 0:  # FFmpeg takes 0 for unknown
        return Part(f"subfile,,start,0,end,{start},,:{name}"), ""
    order = "big" if form.header.format.startswith(">") else "little"
    patches, problem = {}, ""
    if true != said:
        stated = min(true + form.header.size * form.counted, 256**width - 1)  # the largest number means: to the end
        patches[where] = stated.to_bytes(width, order)
        problem = f"its header counts {said} bytes of sound, but there are {true}"
    if magic == b"FORM" and (patches or 8 + _number(file, 4, 4, order) < start + true):
        patches[4] = min(size - 8, 2**32 - 1).to_bytes(4, order)
    return Part((lambda: _Patched(path, patches)) if patches else name, options=options), problem


def _number(file, at, width, order):
    file.seek(at)
    return int.from_bytes(file.read(width), order)


def _chunk(file, form, at):
    """Name and body size of the chunk at a place; None where there is none."""
    file.seek(at)
    head = file.read(form.header.size)
    if len(head) < form.header.size:
        return None
    name, length = form.header.unpack(head)
    length = max(0, length - form.header.size * form.counted)
    return (name, length) if all(32 <= byte < 127 for byte in name[:4]) else None


def _sound(file, form, size):
    """The chunk of sound: where its size stands, in how many bytes, where the sound begins, and the size itself."""
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
    """Whether what follows the sound is the end of the file, another chunk, or nothing that sounds."""
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
    """A file of which some bytes read as others."""

    def __init__(self, path, patches):
        super().__init__(path)
        self._patches = patches

    def read(self, size=-1):
        """As of a file, with the patched bytes in place."""
        begin = self.tell()
        data = bytearray(super().read(size))
        for at, value in self._patches.items():
            for place, byte in enumerate(value, at - begin):
                if 0 <= place < len(data):
                    data[place] = byte
        return bytes(data)
