"""Copy the tags of a song (title, artist, album, pictures and more) from one file to another.

FFmpeg reads them, since it uses the same names for all kinds of file. mutagen writes them, since it copies pictures
unchanged. A problem with tags gives a warning and never costs the audio.
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
from common.small_files import ffmpeg_name

log = logging.getLogger(__name__)

# FFmpeg's names, each with the names in ID3, MP4, Vorbis comments and RIFF INFO. Other texts keep their own name.
NAMES = {"title": ("TIT2", "\xa9nam", "title", b"INAM"), "artist": ("TPE1", "\xa9ART", "artist", b"IART"),
         "album": ("TALB", "\xa9alb", "album", b"IPRD"), "album_artist": ("TPE2", "aART", "albumartist", None),
         "composer": ("TCOM", "\xa9wrt", "composer", None), "track": ("TRCK", "trkn", "tracknumber", b"IPRT"),
         "disc": ("TPOS", "disk", "discnumber", None), "genre": ("TCON", "\xa9gen", "genre", b"IGNR"),
         "date": ("TDRC", "\xa9day", "date", b"ICRD"), "comment": ("COMM", "\xa9cmt", "comment", b"ICMT"),
         "copyright": ("TCOP", "cprt", "copyright", b"ICOP"), "lyrics": ("USLT", "\xa9lyr", "lyrics", None)}
OTHER_NAMES = {"album artist": "album_artist", "year": "date"}  # names of APEv2
# Errors of FFmpeg and mutagen for damaged tags.
TAG_ERRORS = (av.FFmpegError, mutagen.MutagenError, *PARSER_ERRORS)
# Names of texts that describe the old file and not the song: its encoder, length, level, layout.
TECHNICAL = re.compile("encod|major_brand|minor_version|compatible_brands|creation_time|itun|replaygain|r128|"
                       "waveformat|tlen|tsse|id3v2_priv|metadata_block|handler_name|vendor_id|mp3gain")
FRONT_COVER, BACK_COVER, OTHER_PICTURE = 3, 4, 0  # picture types of ID3 and FLAC
MIME = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"GIF8": "image/gif", b"BM": "image/bmp",
        b"RIFF": "image/webp", b"II*\0": "image/tiff", b"MM\0*": "image/tiff"}
MP4_PICTURES = {"image/jpeg": mp4.MP4Cover.FORMAT_JPEG, "image/png": mp4.MP4Cover.FORMAT_PNG}
MAX_FLAC_PICTURE = 2**24 - 1024  # the length of a block has 24 bits


@dataclass(frozen=True)
class Tags:
    """Tags of a song."""

    text: dict[str, str] = field(default_factory=dict)  # values by FFmpeg's names, see NAMES
    cover: bytes = b""  # a picture file
    others: tuple[tuple[int, bytes], ...] = ()  # type and bytes of each other picture

    def __bool__(self):
        return bool(self.text or self.cover)


def read_tags(path: str | Path) -> Tags:
    """Read the tags of an audio file. If that fails, warn and return empty tags. Text that is not UTF-8 is Latin-1."""
    try:
        with av.open(ffmpeg_name(path), metadata_errors="surrogateescape") as container:
            found = dict(container.metadata or container.streams.audio[0].metadata)  # Ogg has them in the stream
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
    """Read the texts of an APEv2 tag, which FFmpeg does not find in MP3."""
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
    """Read all attached pictures as (type, bytes)."""
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
    """Put tags into a finished audio file; warnings call it `name`.

    Pictures that the format cannot hold are left out with a warning. If anything fails, the file stays unchanged.
    """
    copied = Path(path).with_suffix(".tagged")
    try:
        shutil.copyfile(path, copied)
        file = mutagen.File(copied)
        if file.tags is None:
            file.add_tags()
        pictures = [picture for picture in [(FRONT_COVER, tags.cover), *tags.others] if _fits(file, picture[1], name)]
        if isinstance(file.tags, id3.ID3):
            _fill_id3(file, tags.text, pictures)
        elif isinstance(file, mp4.MP4):
            _fill_mp4(file, tags.text, pictures)
        else:
            _fill_vorbis(file, tags.text, pictures)
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
    """Whether a file can hold a picture; warn if not."""
    mime = _mime(data)
    known = mime in (MP4_PICTURES if isinstance(file, mp4.MP4) else MIME.values())
    able = known and not (isinstance(file, flac.FLAC) and len(data) > MAX_FLAC_PICTURE)
    if data and not able:
        log.warning("%s is written without a picture that its format cannot hold (%s, %d bytes)", name,
                    mime or "no known kind of picture", len(data))
    return able


def _fill_id3(file, text, pictures):
    for name, value in text.items():
        kind, desc = (NAMES[name][0], "") if name in NAMES else ("TXXX", name)
        frame = getattr(id3, kind)(encoding=id3.Encoding.UTF8, lang="und", desc=desc, text=value)
        if kind == "TDRC" and str(frame) != value:  # ID3 does not know this form of a date
            frame = id3.TXXX(encoding=id3.Encoding.UTF8, desc=name, text=value)
        file.tags.add(frame)
    for number, (kind, data) in enumerate(pictures):  # a picture would replace another of the same description
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
        if isinstance(file, flac.FLAC):
            file.add_picture(block)
        else:
            blocks.append(block)
    if blocks:
        file.tags["metadata_block_picture"] = [b64encode(block.write()).decode() for block in blocks]


def _append_info(path, text):
    """Append the texts as RIFF INFO too: many players read no other tags of a WAV file."""
    chunk = b"INFO"
    for name, (*_, key) in NAMES.items():
        if key and name in text:
            data = text[name].encode() + b"\0"
            chunk += key + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.write(b"LIST" + struct.pack("<I", len(chunk)) + chunk)
        file.seek(4)
        file.write(struct.pack("<I", size + len(chunk)))  # without the header of the file, with that of the chunk
