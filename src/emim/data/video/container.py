"""The bytes of an encoded video, and what they show before any decoder runs: its kind, and if its end is missing."""

from __future__ import annotations

import codecs
import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from emim.errors import EmptyVideoError, VideoError, VideoNotFoundError

__all__ = [
    "IN_MEMORY",
    "MediaFile",
    "bytes_missing",
    "describe_content",
    "holds_text",
    "is_animated_webp",
    "is_lfs_pointer",
    "lacks_mp4_index",
    "webp_durations",
]

IN_MEMORY = Path("<bytes>")
"""Stands for the path of a video that was given as bytes."""

_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\x00", b"MM\x00*")
_PLAYLIST_MAGIC = (b"#EXTM3U", b"ffconcat")
_MP4_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"pnot", b"uuid"})
_EBML_ID = b"\x1a\x45\xdf\xa3"
_SEGMENT_ID = b"\x18\x53\x80\x67"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_LFS_MAGIC = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class MediaFile:
    """An encoded video, on disk or in memory, which can be opened any number of times.

    Attributes:
        path: where it lies; of one in memory, its name in messages.
        data: its content, if it is in memory; else None.
    """

    path: Path
    data: bytes | None = field(default=None, repr=False)

    def open(self) -> BinaryIO:
        """Open it from its start."""
        return self.path.open("rb") if self.data is None else io.BytesIO(self.data)

    def size(self) -> int:
        """Length in bytes."""
        return self.path.stat().st_size if self.data is None else len(self.data)

    def head(self) -> bytes:
        """Its first bytes."""
        with self.open() as file:
            return file.read(4096)

    def check(self) -> None:
        """Check that there is a file with content.

        Raises:
            VideoNotFoundError: there is no such file.
            EmptyVideoError: it has zero bytes.
            VideoError: it cannot be opened.
        """
        try:
            size = self.size()
        except FileNotFoundError:
            raise VideoNotFoundError(self.path, "no such file or folder; check the path") from None
        except OSError as error:
            raise VideoError(self.path, f"cannot be opened ({error.strerror}); check its permissions") from error
        if size == 0:
            raise EmptyVideoError(self.path, "has zero bytes; copy or download the file again")


def bytes_missing(media: MediaFile) -> int | None:
    """Count the bytes by which a file is shorter than its own structure announces.

    mp4/mov: the top-level boxes. avi, webp: the RIFF chunks. mkv/webm: the segment. png: the chunks. 0 when the file
    is complete, None for other containers and for files whose writer left the length open.
    """
    size = media.size()
    with media.open() as file:
        head = file.read(16)
        if head[4:8] in _MP4_BOXES:
            end = _mp4_end(file, size)
        elif head[:4] == b"RIFF" and (head[8:11] == b"AVI" or head[8:12] == b"WEBP"):
            end = _riff_end(file, size)
        elif head.startswith(_PNG_MAGIC):
            end = _png_end(file, size)
        elif head[:4] == _EBML_ID:
            end = _matroska_end(file)
        else:
            end = None
    return None if end is None else max(0, end - size)


def lacks_mp4_index(media: MediaFile) -> bool:
    """True for an mp4/mov file without a `moov` box, without which none of its frames can be found."""
    size = media.size()
    with media.open() as file:
        if file.read(8)[4:8] not in _MP4_BOXES:
            return False
        return not any(kind == b"moov" for kind, _, end in _mp4_boxes(file, size) if end <= size)


def describe_content(media: MediaFile) -> str:
    """Name, for an error message, the content of a file that is no video."""
    head = media.head()
    if is_animated_webp(head):
        return "an animated WebP image"
    if head.startswith(_IMAGE_MAGIC) or _is_webp(head):
        return "an image"
    if holds_text(media):
        return "text"
    return "data in no known video format"


def is_lfs_pointer(head: bytes) -> bool:
    """True for the start of a small text file that stands for one which Git LFS has not downloaded."""
    return head.startswith(_LFS_MAGIC)


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def is_animated_webp(head: bytes) -> bool:
    """True for the start of a WebP file that announces an animation."""
    return _is_webp(head) and head[12:16] == b"VP8X" and len(head) > 20 and bool(head[20] & 2)


def webp_durations(media: MediaFile) -> list[int]:
    """List the duration of each frame of an animated WebP file, in milliseconds."""
    durations = []
    size, start = media.size(), 12
    with media.open() as file:
        while start + 8 <= size:
            file.seek(start)
            head = file.read(8 + 16)
            if head[:4] == b"ANMF":  # x, y, width, height, duration: three bytes each; then flags
                durations.append(int.from_bytes(head[20:23], "little"))
            length = int.from_bytes(head[4:8], "little")
            start += 8 + length + length % 2
    return durations


def holds_text(media: MediaFile) -> bool:
    """True for a file that starts as printable UTF-8 text, or as a playlist whatever follows."""
    head = media.head()
    if head.startswith(_PLAYLIST_MAGIC):
        return True
    try:
        # An incremental decoder accepts a character that the end of `head` cuts.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(c.isprintable() or c in "\ufeff\r\n\t\f" for c in text)


def _mp4_boxes(file: BinaryIO, size: int) -> list[tuple[bytes, int, int]]:
    """List (kind, start, announced end) of the top-level boxes, up to the first that passes the file's end."""
    boxes: list[tuple[bytes, int, int]] = []
    start = 0
    while start + 8 <= size:
        file.seek(start)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:  # up to the end of the file
            length = size - start
        if length < 8:
            break
        boxes.append((kind, start, start + length))
        start += length
    return boxes


def _mp4_end(file: BinaryIO, size: int) -> int | None:
    boxes = _mp4_boxes(file, size)
    return boxes[-1][2] if boxes else None


def _riff_end(file: BinaryIO, size: int) -> int | None:
    start = 0
    # Files above 1 GiB continue in further RIFF chunks.
    while start + 12 <= size:
        file.seek(start)
        head = file.read(12)
        if head[:4] != b"RIFF":
            break
        length = int.from_bytes(head[4:8], "little")
        if length in (0, 0xFFFFFFFF):
            return None
        start += 8 + length + length % 2
        if start == size + 1:  # the padding byte of the last chunk is often left out
            start = size
    return start


def _png_end(file: BinaryIO, size: int) -> int:
    """Announced end of a PNG file: that of its IEND chunk, or of the chunk that passes the file's end."""
    start = len(_PNG_MAGIC)
    while start < size:
        file.seek(start)
        head = file.read(8)
        start += 12 + int.from_bytes(head[:4], "big")  # length, kind, data, checksum
        if head[4:8] == b"IEND":
            return start
    return max(start, size + 12)  # the IEND chunk itself is missing


def _matroska_end(file: BinaryIO) -> int | None:
    file.seek(len(_EBML_ID))
    header_length, _ = _ebml_number(file)
    if header_length is None:
        return None
    file.seek(header_length, os.SEEK_CUR)
    if file.read(len(_SEGMENT_ID)) != _SEGMENT_ID:
        return None
    length, start = _ebml_number(file)
    return None if length is None else start + length


def _ebml_number(file: BinaryIO) -> tuple[int | None, int]:
    """Read a variable-length number; return it (None for "unknown", all value bits set) and the position after it."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None, file.tell()
    extra = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> extra)]) + file.read(extra), "big")
    unknown = value == (1 << (7 * (extra + 1))) - 1
    return (None if unknown else value), file.tell()
