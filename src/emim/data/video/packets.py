"""Packets of a video file by number, from memory or by reading the file again; opening files with FFmpeg."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import av

from emim.data.video.container import (
    MediaFile,
    bytes_missing,
    describe_content,
    holds_text,
    is_lfs_pointer,
    lacks_mp4_index,
)
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

__all__ = ["MIN_FILE_SEEK", "PacketSource", "open_container", "open_video_stream", "video_stream"]

# Containers of videos, and of sound for a clear message; no single images and no playlists.
_FORMATS = (
    frozenset({"mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "asf", "flv", "live_flv"})
    | {"ogg", "gif", "ivf", "nut", "rm", "mxf", "dv", "yuv4mpegpipe", "h264", "hevc", "obu", "av1", "wtv", "swf"}
    | {"apng", "mjpeg", "vob", "mp3", "wav", "flac", "aac", "ac3", "aiff", "caf", "amr"}
)
# Reading on past fewer packets than these is cheaper than a seek in the file.
MIN_FILE_SEEK = 256
_JPEG_MAGIC = b"\xff\xd8\xff"
# Of several video streams, one with fewer packets is a preview or a cover.
_ENOUGH_PACKETS = 5
_MOST_COUNTED = 10_000
_NO_MOTION = av.stream.Disposition.still_image | av.stream.Disposition.timed_thumbnails


class PacketSource:
    """The packets of a file's video stream, from any one onwards.

    Args:
        media: the file.
        memory_limit: bytes of packets to keep in memory; above, the file is read again.

    Attributes:
        container: the open file.
        stream: its video stream, which holds the decoder.
        table: what one pass over the packets found.
        position: number of the packet that iteration gives next.
        packets_decoded: packets given to the decoder so far.
        frames_decoded: frames that it has given.

    Raises:
        NotAVideoError, NoVideoStreamError, TruncatedVideoError: as listed for `open_video`.
    """

    def __init__(self, media: MediaFile, memory_limit: int) -> None:
        self._media = media
        self.container: InputContainer
        self.stream: VideoStream
        self.container, self.stream = open_video_stream(media)
        self._prepare()
        try:
            self.table: PacketTable = read_packet_table(self.container, self.stream, memory_limit)
        except av.FFmpegError as error:
            self.close()
            raise TruncatedVideoError(
                media.path, f"cannot be read to its end ({error.strerror}); copy or download the file again"
            ) from error
        except BaseException:
            self.close()
            raise
        self.position = len(self.table.records)  # number of the packet that comes next
        self._packets: Iterator[Packet[VideoStream]] = iter(())
        self.packets_decoded = self.frames_decoded = 0
        self._number_of: dict[tuple[int | None, int | None, int], int] = {}

    def _prepare(self) -> None:
        self._skipping = False
        self.stream.thread_type = "NONE"
        self.stream.thread_count = 1

    def close(self) -> None:
        """Release nothing: the caller closes the reader beneath."""
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
        """Return the frames that the decoder gives after a packet, or, for None, at the end."""
        self.packets_decoded += packet is not None
        frames = self.stream.decode(packet)
        self.frames_decoded += len(frames)
        return frames

    def skip_unreferenced(self, skip: bool) -> None:
        """From the next packet on, leave out pictures to which no other refers, or decode all."""
        if skip != self._skipping:
            self._skipping = skip
            self.stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"

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
        """True if a packet reached by seeking can be found again in the table."""
        records = self.table.records
        if not self._number_of:
            self._number_of = {(r.pos, r.pts, r.size): number for number, r in enumerate(records)}
        return self.table.seekable and len(self._number_of) == len(records)

    def _seek(self, number: int) -> int | None:
        """Seek in the file and return the number of the packet reached, or None when it is not in the table."""
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
        index = self.stream.index
        self.container.close()
        self.container = open_container(self._media)
        self.stream = next(stream for stream in self.container.streams.video if stream.index == index)
        self._prepare()
        self._packets = video_packets(self.container, self.stream)


def _chain(first: Packet[VideoStream], rest: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
    yield first
    yield from rest


def open_video_stream(media: MediaFile) -> tuple[InputContainer, VideoStream]:
    """Open a video file and choose its video stream; see `video_stream`.

    Raises:
        VideoError: as listed for `open_video`.
    """
    container = open_container(media)
    try:
        candidates = _candidates(container)
        if len(candidates) < 2:
            return container, video_stream(container, media.path)
        packets = _count_packets(container, candidates)
        container.close()
        container = open_container(media)
        return container, video_stream(container, media.path, packets)
    except av.FFmpegError as error:
        container.close()
        raise TruncatedVideoError(
            media.path, f"cannot be read to its end ({error.strerror}); copy or download the file again"
        ) from error
    except BaseException:
        container.close()
        raise


def _candidates(container: InputContainer) -> list[VideoStream]:
    """List the video streams that are no cover picture of a sound file."""
    cover = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & cover]


def _count_packets(container: InputContainer, streams: list[VideoStream]) -> Counter[int]:
    """Count the packets of each stream by its index, up to a number that is enough."""
    counts: Counter[int] = Counter({stream.index: 0 for stream in streams})
    # Of a long file with a short preview, all would have to be read otherwise.
    for packet in itertools.islice(container.demux(*streams), _MOST_COUNTED):
        counts[packet.stream_index] += packet.size > 0
        if min(counts.values()) >= _ENOUGH_PACKETS:
            break
    return counts


def open_container(media: MediaFile) -> InputContainer:
    """Open a video file with FFmpeg.

    Raises:
        NotAVideoError, EmptyVideoError, TruncatedVideoError: as listed for `open_video`.
    """
    path = media.path
    # Text never reaches FFmpeg: a playlist under a video's name could make it open other files.
    if holds_text(media):
        raise _not_a_video(media)
    try:
        # `container_options`, because `options` crashes PyAV 17 on MPEG-PS.
        container = av.open(
            str(path) if media.data is None else media.open(),
            mode="r",
            container_options={"protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except PermissionError as error:
        raise VideoError(path, f"cannot be opened ({error.strerror}); check its permissions") from error
    except av.FFmpegError as error:
        missing = bytes_missing(media)
        if missing == 0 and isinstance(error, EOFError):
            raise EmptyVideoError(path, "holds no frame; remove it or export it again") from error
        if lacks_mp4_index(media):
            raise TruncatedVideoError(
                path, "ends before its index (no moov box); copy or download the file again"
            ) from error
        if missing:
            raise TruncatedVideoError(
                path, f"ends inside its header ({error.strerror}); copy or download the file again"
            ) from error
        raise _not_a_video(media) from error
    names = set(container.format.name.split(","))
    # Raw mjpeg is also what FFmpeg takes anything for whose name says so.
    if not _FORMATS & names or ("mjpeg" in names and not media.head().startswith(_JPEG_MAGIC)):
        container.close()
        raise _not_a_video(media)
    return container


def _not_a_video(media: MediaFile) -> NotAVideoError:
    if is_lfs_pointer(media.head()):
        return NotAVideoError(
            media.path, "is a Git LFS pointer, not the video itself; run `git lfs pull` in its repository"
        )
    return NotAVideoError(
        media.path, f"is not a video: it holds {describe_content(media)}; remove it or convert it to mp4"
    )


def video_stream(container: InputContainer, path: Path, packets: Mapping[int, int] | None = None) -> VideoStream:
    """Choose the video stream that a player shows.

    Cover pictures are never taken. Of several streams: one that is no still picture or preview (fewer than 5
    packets), then one that the file marks as default, then the largest, then the first.

    Args:
        container: the open file or live source.
        path: its name in messages.
        packets: packets of each stream by its index, where they have been counted.

    Raises:
        EmptyVideoError, NoVideoStreamError: as listed for `open_video`.
        VideoError: no stream can be decoded.
    """
    streams = _candidates(container)
    if not streams:
        raise _no_video_stream(container, path)
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise VideoError(path, "uses a codec that this FFmpeg cannot decode; re-encode it to h264")

    def rank(stream: VideoStream) -> tuple[bool, int, bool, int]:
        found = (stream.frames or _ENOUGH_PACKETS) if packets is None else packets[stream.index]
        return (
            not stream.disposition & _NO_MOTION,
            min(found, _ENOUGH_PACKETS),
            bool(stream.disposition & av.stream.Disposition.default),
            stream.codec_context.width * stream.codec_context.height,
        )

    return max(decodable, key=rank)  # the first of equals


def _no_video_stream(container: InputContainer, path: Path) -> VideoError:
    if not container.streams:
        return EmptyVideoError(path, "holds no stream, so no frame; remove it or export it again")
    kinds: list[str] = sorted({stream.type for stream in container.streams if stream.type != "video"})
    if container.streams.video:
        kinds.append("a cover picture")
    return NoVideoStreamError(
        path, f"holds no video stream, only {' and '.join(kinds)}; remove it or export it with its frames"
    )
