"""Packets of a video file by number, from memory or by reading the file again; opening files with FFmpeg."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import av

from emim.data.video.container import bytes_missing, describe_content, holds_text, lacks_mp4_index
from emim.data.video.index import PacketRecord, PacketTable, read_packet_table, video_packets
from emim.errors import (
    EmptyVideoError,
    NotAVideoError,
    NoVideoStreamError,
    TruncatedVideoError,
    VideoError,
)

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Containers of videos, and of sound for a clear message; no images and no playlists.
_FORMATS = (
    frozenset({"mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "asf", "flv", "live_flv"})
    | {"ogg", "gif", "ivf", "nut", "rm", "mxf", "dv", "yuv4mpegpipe", "h264", "hevc", "obu", "av1", "wtv", "swf"}
    | {"vob", "mp3", "wav", "flac", "aac", "ac3", "aiff", "caf", "amr"}
)
# Reading on past fewer packets than these is cheaper than a seek in the file.
MIN_FILE_SEEK = 256


class PacketSource:
    """The packets of a file's video stream, from any one onwards.

    Args:
        path: the file.
        memory_limit: bytes of packets to keep in memory; above, the file is read again.

    Attributes:
        container: the open file.
        stream: its video stream, which holds the decoder.
        table: what one pass over the packets found.
        position: number of the packet that iteration gives next.
        packets_decoded: packets given to the decoder so far.

    Raises:
        NotAVideoError, NoVideoStreamError, TruncatedVideoError: as listed for `open_video`.
    """

    def __init__(self, path: Path, memory_limit: int) -> None:
        self._path = path
        self.container: InputContainer
        self.stream: VideoStream
        self._open()
        try:
            self.table: PacketTable = read_packet_table(self.container, self.stream, memory_limit)
        except av.FFmpegError as error:
            self.close()
            raise TruncatedVideoError(
                path, f"cannot be read to its end ({error.strerror}); copy or download the file again"
            ) from error
        except BaseException:
            self.close()
            raise
        self.position = len(self.table.records)  # number of the packet that comes next
        self._packets: Iterator[Packet[VideoStream]] = iter(())
        self.packets_decoded = 0
        self._number_of: dict[tuple[int | None, int | None, int], int] = {}

    def _open(self) -> None:
        self.container = open_container(self._path)
        try:
            self.stream = picture_stream(self.container, self._path)
        except BaseException:
            self.container.close()
            raise
        self.stream.thread_type = "NONE"
        self.stream.thread_count = 1

    def close(self) -> None:
        self.container.close()
        if hasattr(self, "table"):
            self.table.packets = None
            self._packets = iter(())

    def __iter__(self) -> Iterator[tuple[PacketRecord, Packet[VideoStream]]]:
        while (packet := next(self._packets, None)) is not None:
            record = self.table.records[self.position]
            self.position += 1
            yield record, packet

    def decode(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """Frames that the decoder gives after a packet, or, for None, at the end."""
        self.packets_decoded += packet is not None
        return self.stream.decode(packet)

    def jump(self, number: int) -> None:
        """Make packet `number` the next one, with an empty decoder."""
        if self.table.packets is not None:
            if self.packets_decoded:
                self.stream.codec_context.flush_buffers()
            self._packets = iter(self.table.packets[number:])
        else:
            self._jump_in_file(number)
        self.position = number

    def _jump_in_file(self, number: int) -> None:
        ahead = number - self.position
        if self._is_seekable() and not 0 <= ahead < MIN_FILE_SEEK and number >= MIN_FILE_SEEK:
            landed = self._seek(number)
        elif ahead >= 0:
            self.stream.codec_context.flush_buffers()
            landed = self.position
        else:
            landed = None
        if landed is None or landed > number:
            self._reopen()
            landed = 0
        for _ in range(number - landed):
            next(self._packets, None)

    def _is_seekable(self) -> bool:
        """Whether a packet reached by seeking can be found again in the table."""
        records = self.table.records
        if not self._number_of:
            self._number_of = {(r.pos, r.pts, r.size): number for number, r in enumerate(records)}
        return self.table.seekable and len(self._number_of) == len(records)

    def _seek(self, number: int) -> int | None:
        """Seek in the file; the number of the packet reached, or None when it is not in the table."""
        target = self.table.records[number].pts
        if target is None:
            return None
        try:
            self.container.seek(target, stream=self.stream)
        except av.FFmpegError:
            return None
        packets = video_packets(self.container, self.stream)
        first = next(packets, None)
        if first is None:
            return None
        self._packets = _chain(first, packets)
        return self._number_of.get((first.pos, first.pts, first.size))

    def _reopen(self) -> None:
        self.container.close()
        self._open()
        self._packets = video_packets(self.container, self.stream)


def _chain(first: Packet[VideoStream], rest: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
    yield first
    yield from rest


def open_container(path: Path) -> InputContainer:
    """Open a video file with FFmpeg.

    Raises:
        NotAVideoError, EmptyVideoError, TruncatedVideoError: as listed for `open_video`.
    """
    # Text never reaches FFmpeg: a playlist under a video's name could make it open other files.
    if holds_text(path):
        raise _not_a_video(path)
    try:
        # `container_options`, because `options` crashes PyAV 17 on MPEG-PS.
        container = av.open(str(path), container_options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except PermissionError as error:
        raise VideoError(path, f"cannot be opened ({error.strerror}); check its permissions") from error
    except av.FFmpegError as error:
        missing = bytes_missing(path)
        if missing == 0 and isinstance(error, EOFError):
            raise EmptyVideoError(path, "holds no frame; remove it or export it again") from error
        if lacks_mp4_index(path):
            raise TruncatedVideoError(
                path, "ends before its index (no moov box); copy or download the file again"
            ) from error
        if missing:
            raise TruncatedVideoError(
                path, f"ends inside its header ({error.strerror}); copy or download the file again"
            ) from error
        raise _not_a_video(path) from error
    if not _FORMATS & set(container.format.name.split(",")):
        container.close()
        raise _not_a_video(path)
    return container


def _not_a_video(path: Path) -> NotAVideoError:
    return NotAVideoError(path, f"is not a video: it holds {describe_content(path)}; remove it or convert it to mp4")


def picture_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first video stream that is no cover picture of a sound file.

    Raises:
        EmptyVideoError, NoVideoStreamError: as listed for `open_video`.
    """
    cover = av.stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover:
            if stream.codec_context is None:
                raise VideoError(path, "uses a codec that this FFmpeg cannot decode; re-encode it to h264")
            return stream
    if not container.streams:
        raise EmptyVideoError(path, "holds no stream, so no frame; remove it or export it again")
    kinds: list[str] = sorted({stream.type for stream in container.streams})
    raise NoVideoStreamError(
        path,
        f"holds no video stream, only {', '.join(kinds)}; remove it or export it with pictures",
    )
