"""Tags of a song (title, artist, album, pictures and the like), from one file to another.

They are read through FFmpeg, which names the texts alike in all kinds of file, and written through mutagen, which
copies pictures as they are. Trouble with tags is a warning and never costs the audio.
"""

import logging
import os
import re
import shutil
import struct
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path

import av
import mutagen
from mutagen import apev2, flac, id3, mp4, wave

from common.errors import PARSER_ERRORS

log = logging.getLogger(__name__)

# FFmpeg's names, and those of ID3, MP4, Vorbis comments and RIFF INFO. Other texts go as comments of their own name.
NAMES = {"title": ("TIT2", "\xa9nam", "title", b"INAM"), "artist": ("TPE1", "\xa9ART", "artist", b"IART"),
         "album": ("TALB", "\xa9alb", "album", b"IPRD"), "album_artist": ("TPE2", "aART", "albumartist", None),
         "composer": ("TCOM", "\xa9wrt", "composer", None), "track": ("TRCK", "trkn", "tracknumber", b"IPRT"),
         "disc": ("TPOS", "disk", "discnumber", None), "genre": ("TCON", "\xa9gen", "genre", b"IGNR"),
         "date": ("TDRC", "\xa9day", "date", b"ICRD"), "comment": ("COMM", "\xa9cmt", "comment", b"ICMT"),
         "copyright": ("TCOP", "cprt", "copyright", b"ICOP"), "lyrics": ("USLT", "\xa9lyr", "lyrics", None)}
OTHER_NAMES = {"album artist": "album_artist", "year": "date"}  # APEv2's
# What FFmpeg and mutagen raise on damaged tags.
TAG_ERRORS = (av.FFmpegError, mutagen.MutagenError, *PARSER_ERRORS)
# What describes the old file and not the song: its encoder, length, level, layout.
TECHNICAL = re.compile("encod|major_brand|minor_version|compatible_brands|creation_time|itun|replaygain|r128|"
                       "waveformat|tlen|tsse|id3v2_priv|metadata_block|handler_name|vendor_id|mp3gain")
FRONT_COVER, BACK_COVER, OTHER_PICTURE = 3, 4, 0  # picture types of ID3 and FLAC
MIME = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"GIF8": "image/gif", b"BM": "image/bmp",
        b"RIFF": "image/webp", b"II*\0": "image/tiff", b"MM\0*": "image/tiff"}
MP4_PICTURES = {"image/jpeg": mp4.MP4Cover.FORMAT_JPEG, "image/png": mp4.MP4Cover.FORMAT_PNG}
MAX_FLAC_PICTURE = 2**24 - 1024  # the length of a block has 24 bits


@dataclass(frozen=True)
class Tags:
    """text: values by FFmpeg's names, as in NAMES; cover: a picture file's bytes, or none; others: more pictures, each
    with its type."""

    text: dict[str, str] = field(default_factory=dict)
    cover: bytes = b""
    others: tuple[tuple[int, bytes], ...] = ()

    def __bool__(self):
        return bool(self.text or self.cover)


def read_tags(path: str | Path) -> Tags:
    """The tags of an audio file; none, with a warning, where they cannot be read. Text that is no UTF-8 is Latin-1."""
    try:
        with av.open(str(path), metadata_errors="surrogateescape") as container:
            found = dict(container.metadata or container.streams.audio[0].metadata)  # Ogg keeps them with the stream
            pictures = _pictures(container)
        if not found.keys() - {"encoder"}:
            found = _ape(path)
    except TAG_ERRORS as error:
        log.warning("the tags of %s cannot be read and are left out (%r)", path, error)
        return Tags()
    text = {}
    for name, value in found.items():
        name = re.sub("^lyrics-.*", "lyrics", name.lower())
        name, value = OTHER_NAMES.get(name, name), _unicode(value)
        if re.fullmatch("[ -<>-}]+", name) and not TECHNICAL.match(name) and value:
            text[name] = value
    front = next((data for kind, data in pictures if kind == FRONT_COVER), pictures[0][1] if pictures else b"")
    return Tags(text, front, tuple(picture for picture in pictures if picture[1] is not front))


def _ape(path):
    """The texts of an APEv2 tag, which FFmpeg does not look for in MP3."""
    try:
        return {name: str(value) for name, value in apev2.APEv2(path).items() if value.kind == apev2.TEXT}
    except apev2.APENoHeaderError:
        return {}


def _unicode(value):
    try:
        value.encode()
    except UnicodeEncodeError:
        value = value.encode(errors="surrogateescape").decode("latin-1")
    return value.strip("\0 ").replace("\0", "; ")


def _pictures(container):
    """All attached pictures, as (type, bytes)."""
    streams = [stream for stream in container.streams.video
               if stream.disposition & av.stream.Disposition.attached_pic]
    found = {}
    for packet in container.demux(streams) if streams else ():
        if packet.size:
            found[packet.stream.index] = bytes(packet)
        if len(found) == len(streams):
            break
    kinds = {None: FRONT_COVER, "Cover (front)": FRONT_COVER, "Cover (back)": BACK_COVER}
    return [(kinds.get(stream.metadata.get("comment"), OTHER_PICTURE), found[stream.index]) for stream in streams
            if stream.index in found]


def write_tags(path: str | Path, tags: Tags, name: str | Path) -> None:
    """Put tags into a finished audio file; `name` is what a warning calls it.

    Pictures that the format cannot hold are left out with a warning. Should anything fail, the file stays as it was.
    """
    copied = Path(path).with_suffix(".tagged")
    try:
        shutil.copyfile(path, copied)
        file = mutagen.File(copied)
        if file.tags is None:
            file.add_tags()
        pictures = [picture for picture in [(FRONT_COVER, tags.cover), *tags.others] if _fits(file, picture[1], name)]
        fill = {id3.ID3: _fill_id3, mp4.MP4Tags: _fill_mp4}
        next((fill[kind] for kind in fill if isinstance(file.tags, kind)), _fill_vorbis)(file, tags.text, pictures)
        file.save()
        if isinstance(file, wave.WAVE):
            _append_info(copied, tags.text)
        os.replace(copied, path)
    except TAG_ERRORS as error:  # the audio is worth more than its tags
        log.warning("%s is written without tags (%r)", name, error)
    finally:
        copied.unlink(missing_ok=True)


def _mime(data):
    return next((mime for magic, mime in MIME.items() if data.startswith(magic)), None)


def _fits(file, data, name):
    """Whether a file can hold a picture; a warning if not."""
    mime = _mime(data)
    able = mime in MP4_PICTURES if isinstance(file, mp4.MP4) else mime
    if isinstance(file, flac.FLAC) and len(data) > MAX_FLAC_PICTURE:
        able = False
    if data and not able:
        log.warning("%s is written without a picture that its format cannot hold (%s, %d bytes)", name,
                    mime or "no known kind of picture", len(data))
    return bool(data and able)


def _fill_id3(file, text, pictures):
    for name, value in text.items():
        kind, desc = (NAMES[name][0], "") if name in NAMES else ("TXXX", name)
        frame = getattr(id3, kind)(encoding=id3.Encoding.UTF8, lang="und", desc=desc, text=value)
        if kind == "TDRC" and str(frame) != value:  # not a date as ID3 wants it
            frame = id3.TXXX(encoding=id3.Encoding.UTF8, desc=name, text=value)
        file.tags.add(frame)
    for number, (kind, data) in enumerate(pictures):  # pictures of one description replace each other
        file.tags.add(id3.APIC(mime=_mime(data), type=kind, desc=str(number or ""), data=data))


def _fill_mp4(file, text, pictures):
    for name, value in text.items():
        numbers = re.fullmatch(r"(\d{1,4})(?:/(\d{1,4}))?", value)
        if name in ("track", "disc") and numbers:
            file.tags[NAMES[name][1]] = [tuple(int(number or 0) for number in numbers.groups())]
        elif name in NAMES and name not in ("track", "disc"):
            file.tags[NAMES[name][1]] = [value]
        else:
            file.tags[f"----:com.apple.iTunes:{name}"] = [value.encode()]
    if pictures:
        file.tags["covr"] = [mp4.MP4Cover(data, MP4_PICTURES[_mime(data)]) for _, data in pictures]


def _fill_vorbis(file, text, pictures):
    for name, value in text.items():
        file.tags[NAMES[name][2] if name in NAMES else name] = value
    blocks = []
    for kind, data in pictures:
        block = flac.Picture()
        block.type, block.mime, block.data = kind, _mime(data), data
        blocks.append(block)
    if isinstance(file, flac.FLAC):
        for block in blocks:
            file.add_picture(block)
    elif blocks:
        file.tags["metadata_block_picture"] = [b64encode(block.write()).decode() for block in blocks]


def _append_info(path, text):
    """The texts once more as RIFF INFO, which is all that many players know of in a WAV file."""
    chunk = b"INFO"
    for name, (*_, key) in NAMES.items():
        if key and name in text:
            data = text[name].encode() + b"\0"
            chunk += key + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.write(b"LIST" + struct.pack("<I", len(chunk)) + chunk)
        file.seek(4)
        file.write(struct.pack("<I", size + len(chunk)))  # less this header of 8 bytes, plus that of the chunk
