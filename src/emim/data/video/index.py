"""The table of a video's packets, and the entry points at which a decoder may start.

A packet is one compressed picture as the container stores it; packets lie in decoding order. Its
presentation time stamp (pts) is in units of the stream's time base.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

    VideoPacket = Packet[VideoStream]

__all__ = ["PacketRecord", "PacketTable", "pictures_held_back", "read_packet_table", "video_packets"]

# Healthy packets of these codecs give one picture each; `_gives_no_picture` finds the exceptions.
_ONE_PICTURE_PER_PACKET = frozenset({"h264", "hevc", "mpeg4", "vp8", "vp9", "libvpx-vp9", "mjpeg", "av1", "libdav1d"})
# Containers that store pictures whole. Others (MPEG-TS, PS, raw streams) may start or stop inside a picture.
_WHOLE_PICTURE_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm", "avi"})
# Containers whose seek lands on a packet that can be found again in the table.
_SEEKABLE_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm"})

_H264_IDR, _H264_SEI, _RECOVERY_POINT = 5, 6, 6
_START_CODE = b"\x00\x00\x01"
_HEVC_RANDOM_ACCESS = range(16, 24)
_MPEG4_VOP = b"\x00\x00\x01\xb6"


class PacketRecord(NamedTuple):  # several times as quick to make as a data class
    """One packet of the table, without its data."""

    pts: int | None
    pos: int | None
    size: int
    duration: int
    shown: bool  # False for packets that an edit list hides
    entry: bool  # a decoder that starts here gives this picture and all later ones exactly


@dataclass(slots=True)
class PacketTable:
    """All packets of the video stream in decoding order.

    Attributes:
        records: one per packet.
        packets: the packets themselves, or None when they are more than the memory limit.
        doubts: why the number of pictures cannot be read off the table; empty when it can.
        corrupt: True if the container flags a packet as incomplete.
        seekable: True if seeking in the file is worth trying.
        skippable: True if the decoder may leave out pictures to which no other refers: its output still follows the
            time stamps then, and every other picture comes out, unchanged.
    """

    records: list[PacketRecord] = field(default_factory=list)
    packets: list[VideoPacket] | None = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    corrupt: bool = False
    seekable: bool = False
    skippable: bool = False

    def trusted_pts(self) -> list[int] | None:
        """Return the time stamps in presentation order, if decoded pictures must carry exactly these; else None."""
        stamps = [r.pts for r in self.records if r.shown]
        known = [pts for pts in stamps if pts is not None]
        if len(known) < len(stamps) or len(set(known)) < len(known):
            return None
        return sorted(known)

    def entries(self, presented_pts: list[int]) -> list[tuple[int, int]]:
        """List (presentation index, packet number) of the packets that a decoder may start at, ascending.

        Pictures that precede such a packet in presentation but follow it in decoding (open GOP) may depend
        on earlier packets, so an entry serves only indices from its own upwards.
        """
        index_of_pts = {pts: index for index, pts in enumerate(presented_pts)}
        found = [
            (index_of_pts[r.pts], number)
            for number, r in enumerate(self.records)
            if r.entry and r.pts is not None and r.pts in index_of_pts
        ]
        # A later entry that is presented before an earlier one would be a broken stream: leave it out.
        ascending: list[tuple[int, int]] = []
        for index, number in found:
            if not ascending or index > ascending[-1][0]:
                ascending.append((index, number))
        return ascending


def read_packet_table(container: InputContainer, stream: VideoStream, memory_limit: int) -> PacketTable:
    """Demux the stream once, without decoding.

    Args:
        container: freshly opened.
        stream: its video stream.
        memory_limit: bytes of packets to keep, so that short videos are demuxed only this once.
    """
    table = PacketTable()
    names = set(container.format.name.split(","))
    codec = stream.codec_context.name
    extradata = stream.codec_context.extradata or b""
    macroblocks = -(-stream.codec_context.width // 16) * -(-stream.codec_context.height // 16)
    if not names & _WHOLE_PICTURE_CONTAINERS:
        table.doubts.append(f"container {container.format.name}")
    if codec not in _ONE_PICTURE_PER_PACKET:
        table.doubts.append(f"codec {codec}")
    table.seekable = bool(names & _SEEKABLE_CONTAINERS)
    kept_bytes = 0
    pts_are_guesses = False
    doubts: set[str] = set()
    for packet in video_packets(container, stream):
        if packet.is_corrupt:
            table.corrupt = True
            doubts.add("a packet flagged as corrupt")
        if packet.is_discard:
            doubts.add("an edit list that hides packets")
        # Asking for a kind of side data takes longer than all the rest, and hardly a packet has any.
        if next(packet.iter_sidedata(), None) is not None and packet.has_sidedata("new_extradata"):
            doubts.add("codec parameters that change")
        if _gives_no_picture(codec, packet, macroblocks):
            doubts.add("a packet that gives no picture")
        # avi stores no pts; those of streams with B-frames are guesses of the demuxer.
        pts_are_guesses |= "avi" in names and packet.pts != packet.dts
        entry = packet.is_keyframe and not packet.is_discard and _is_entry(codec, extradata, packet)
        table.records.append(
            PacketRecord(packet.pts, packet.pos, packet.size, packet.duration or 0, not packet.is_discard, entry)
        )
        if table.packets is not None:
            table.packets.append(packet)
            kept_bytes += packet.size
            if kept_bytes > memory_limit:
                table.packets = None
    table.doubts.extend(sorted(doubts))
    if table.records:
        first = table.records[0]
        known = [r.pts for r in table.records if r.pts is not None]
        # Pictures before the first key frame in presentation lack their references; decoders drop them.
        early = not pts_are_guesses and first.pts is not None and min(known) < first.pts
        if early or not first.entry:
            table.doubts.append("a start that is no clean key frame")
    if pts_are_guesses:
        table.records = [PacketRecord(None, r.pos, r.size, r.duration, r.shown, False) for r in table.records]
    stamps = [r.pts for r in table.records if r.pts is not None]
    # A decoder that holds back too few pictures drops some of its own, and others where fewer are decoded.
    table.skippable = (
        codec == "h264"
        and not table.doubts
        and 0 < len(set(stamps)) == len(table.records)
        and pictures_held_back(stamps) <= stream.codec_context.reorder_depth
    )
    return table


def video_packets(container: InputContainer, stream: VideoStream) -> Iterator[VideoPacket]:
    """Iterate over the packets of the stream that hold data; the demuxer also gives an empty one at the end."""
    return (packet for packet in container.demux(stream) if packet.size > 0)


def _gives_no_picture(codec: str, packet: VideoPacket, macroblocks: int) -> bool:
    """True for a packet that decodes to nothing: a hidden reference of VP8/VP9, an MPEG-4 picture "not coded"."""
    if codec == "mpeg4":
        # DivX puts such dummies after two pictures in one packet. A coded picture takes a header of at least
        # 64 bits and a bit for each macroblock.
        return packet.size * 8 < 64 + macroblocks
    if codec == "vp8":
        return not memoryview(packet)[0] & 0x10
    if codec in ("vp9", "libvpx-vp9"):
        data = memoryview(packet)
        if data[-1] & 0xE0 == 0xC0:  # a superframe: hidden references and the picture that is shown
            return False
        shift = 3 if data[0] & 0x30 != 0x30 else 2  # profile 3 takes one bit more
        show_existing = data[0] >> shift & 1
        show_frame = data[0] >> (shift - 2) & 1
        return not show_existing and not show_frame
    return False


def _is_entry(codec: str, extradata: bytes, packet: VideoPacket) -> bool:
    """True if the bitstream itself says that decoding may start at a packet that the container calls a key frame.

    Containers also mark pictures that are merely intra coded, after which later pictures may still refer to
    earlier ones.
    """
    if codec in ("mjpeg", "av1", "libdav1d"):
        return True
    data = bytes(packet)
    if codec == "h264":
        length_size = (extradata[4] & 3) + 1 if len(extradata) > 4 and extradata[0] == 1 else 0
        return any(_h264_starts_here(unit) for unit in _nal_units(data, length_size))
    if codec == "hevc":
        length_size = (extradata[21] & 3) + 1 if len(extradata) > 21 and extradata[0] == 1 else 0
        return any(unit[0] >> 1 & 0x3F in _HEVC_RANDOM_ACCESS for unit in _nal_units(data, length_size))
    if codec == "mpeg4":
        at = data.find(_MPEG4_VOP)
        return at >= 0 and at + 4 < len(data) and data[at + 4] >> 6 == 0
    if codec == "vp8":
        return data[0] & 1 == 0
    if codec in ("vp9", "libvpx-vp9"):
        shift = 3 if data[0] & 0x30 != 0x30 else 2
        return data[0] >> shift & 1 == 0 and data[0] >> (shift - 1) & 1 == 0
    return False


def _h264_starts_here(unit: bytes) -> bool:
    """True for an instantaneous refresh, or a recovery point whose first picture is exact already."""
    kind = unit[0] & 0x1F
    if kind == _H264_IDR:
        return True
    if kind != _H264_SEI:
        return False
    # recovery_frame_cnt is an Exp-Golomb number: a leading 1 bit means 0.
    return any(kind == _RECOVERY_POINT and content[0] & 0x80 for kind, content in _h264_messages(unit))


def _h264_messages(unit: bytes) -> Iterator[tuple[int, bytes]]:
    """Iterate over kind and content (never empty) of the messages in a unit of messages."""
    data = unit[1:].replace(b"\x00\x00\x03", b"\x00\x00")  # without the escapes of start codes
    at = 0
    while at + 2 < len(data):
        numbers = [0, 0]  # kind, size
        for place in range(2):
            while at < len(data) and data[at] == 0xFF:
                numbers[place], at = numbers[place] + 255, at + 1
            if at < len(data):
                numbers[place], at = numbers[place] + data[at], at + 1
        kind, size = numbers
        if at < len(data) and size:
            yield kind, data[at : at + size]
        at += size


def _nal_units(data: bytes, length_size: int) -> Iterator[bytes]:
    """Split an H.264/H.265 packet into units: length-prefixed, or after start codes when `length_size` is 0."""
    if length_size == 0:
        # A unit's trailing zero bytes belong to the next start code; no caller minds them.
        yield from (unit for unit in data.split(_START_CODE)[1:] if unit)
        return
    at = 0
    while at + length_size < len(data):
        length = int.from_bytes(data[at : at + length_size], "big")
        at += length_size
        if length:
            yield data[at : at + length]
        at += length


def pictures_held_back(stamps: Sequence[int]) -> int:
    """Return the largest number of pictures that precede one in decoding order and follow it in presentation.

    Args:
        stamps: presentation time stamps in decoding order.
    """
    seen: list[int] = []
    most = 0
    for stamp in stamps:
        place = bisect_right(seen, stamp)
        most = max(most, len(seen) - place)
        seen.insert(place, stamp)
    return most
