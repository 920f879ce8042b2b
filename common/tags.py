"""Tags of a song (title, artist, album, cover and the like), from one file to another.

FFmpeg's libraries, which PyAV carries, name them alike in all containers. WAV has no place for a cover.
"""

import base64
import io
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

import av

from common.errors import UserError

TEXT_TAGS = ("title", "artist", "album", "album_artist", "composer", "track", "disc", "genre", "date", "comment",
             "copyright")
PNG = b"\x89PNG"
FRONT_COVER = 3  # picture type of ID3 and FLAC


@dataclass(frozen=True)
class Tags:
    """text: values by names in TEXT_TAGS; cover: a JPEG or PNG file's bytes, or none."""

    text: dict[str, str] = field(default_factory=dict)
    cover: bytes = b""

    def __bool__(self):
        return bool(self.text or self.cover)


def read_tags(path: str | Path) -> Tags:
    """The tags of an audio file; none for a file that FFmpeg cannot open."""
    try:
        with av.open(str(path)) as container:
            found = dict(container.metadata)
            if container.streams.audio:
                found = dict(container.streams.audio[0].metadata) | found  # Ogg keeps them with the stream
            cover = b""
            for stream in container.streams.video:
                if stream.disposition & av.stream.Disposition.attached_pic:
                    cover = cover or next((bytes(packet) for packet in container.demux(stream)), b"")
    except av.FFmpegError:
        return Tags()
    found = {name.lower(): value for name, value in found.items()}
    return Tags({name: found[name] for name in TEXT_TAGS if found.get(name)}, cover)


def add_cover(container: av.container.OutputContainer, cover: bytes) -> av.Packet | None:
    """Announce a cover in an output container; the packet is to be muxed when all streams are there."""
    if not cover:
        return None
    width, height, pixels = _shape(cover)
    stream = container.add_stream("png" if cover.startswith(PNG) else "mjpeg")
    stream.width, stream.height, stream.pix_fmt = width, height, pixels
    stream.disposition = av.stream.Disposition.attached_pic
    packet = av.Packet(cover)
    packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, 0, 0, True
    return packet


def write_tags(path: str | Path, kind: str, tags: Tags) -> None:
    """Put tags into a WAV, FLAC or Ogg file (kind "wav", "flac", "ogg"): its packets are copied as they are.

    A WAV file keeps the texts and loses the cover. Raises UserError when the copy fails; the file is then untouched.
    """
    path = Path(path)
    copied = path.with_name(f"{path.name}.tagged")
    try:
        with av.open(str(path)) as source, av.open(str(copied), "w", format=kind) as target:
            stream = source.streams.audio[0]
            copy = target.add_stream_from_template(stream)
            target.metadata.update(tags.text)
            if kind == "ogg" and tags.cover:  # a picture in Ogg is a comment
                copy.metadata["METADATA_BLOCK_PICTURE"] = base64.b64encode(_picture_block(tags.cover)).decode()
            cover = add_cover(target, tags.cover if kind == "flac" else b"")
            if cover:
                target.mux(cover)
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.stream = copy
                    target.mux(packet)
        os.replace(copied, path)
    except av.FFmpegError as error:
        raise UserError(f"expected to copy the tags to {path.name}, but {error}: leave them out") from error
    finally:
        copied.unlink(missing_ok=True)


def _shape(cover):
    with av.open(io.BytesIO(cover)) as container:
        context = container.streams.video[0].codec_context
        return context.width, context.height, context.pix_fmt or "yuvj420p"


def _picture_block(cover):
    """FLAC's picture block (RFC 9639, section 8.8), which Ogg carries too."""
    mime = b"image/png" if cover.startswith(PNG) else b"image/jpeg"
    width, height, _ = _shape(cover)
    head = struct.pack(">II", FRONT_COVER, len(mime)) + mime + struct.pack(">I", 0)  # no description
    return head + struct.pack(">IIIII", width, height, 24, 0, len(cover)) + cover
