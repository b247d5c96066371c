"""What the bytes of a file say about it before any decoder runs: its kind, and whether its end is missing."""

from __future__ import annotations

import codecs
import os
from pathlib import Path
from typing import BinaryIO

_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\x00", b"MM\x00*")
_PLAYLIST_MAGIC = (b"#EXTM3U", b"ffconcat")
_MP4_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"pnot", b"uuid"})
_EBML_ID = b"\x1a\x45\xdf\xa3"
_SEGMENT_ID = b"\x18\x53\x80\x67"


def bytes_missing(path: Path) -> int | None:
    """How many bytes the file is shorter than its own structure announces.

    mp4/mov: the top-level boxes. avi: the RIFF chunks. mkv/webm: the segment. 0 when the file is complete,
    None for other containers and for files whose writer left the length open.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        if head[4:8] in _MP4_BOXES:
            end = _mp4_end(file, size)
        elif head[:4] == b"RIFF" and head[8:11] == b"AVI":
            end = _riff_end(file, size)
        elif head[:4] == _EBML_ID:
            end = _matroska_end(file)
        else:
            end = None
    return None if end is None else max(0, end - size)


def lacks_mp4_index(path: Path) -> bool:
    """Whether an mp4/mov file holds no `moov` box, without which none of its frames can be found."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(8)[4:8] not in _MP4_BOXES:
            return False
        return not any(kind == b"moov" for kind, _, end in _mp4_boxes(file, size) if end <= size)


def describe_content(path: Path) -> str:
    """Name, for an error message, what a file that is no video holds instead."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(_IMAGE_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "an image"
    if holds_text(path):
        return "text"
    return "data in no known video format"


def holds_text(path: Path) -> bool:
    """Whether a file starts as printable UTF-8 text, or as a playlist whatever follows."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(_PLAYLIST_MAGIC):
        return True
    try:
        # An incremental decoder accepts a character that the end of `head` cuts.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(c.isprintable() or c in "\ufeff\r\n\t\f" for c in text)


def _mp4_boxes(file: BinaryIO, size: int) -> list[tuple[bytes, int, int]]:
    """(kind, start, announced end) of the top-level boxes; stops at the first that passes the file's end."""
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
    """A variable-length number and the position after it; None stands for "unknown", all value bits set."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None, file.tell()
    extra = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> extra)]) + file.read(extra), "big")
    unknown = value == (1 << (7 * (extra + 1))) - 1
    return (None if unknown else value), file.tell()
