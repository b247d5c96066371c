"""What an H.264 bitstream says of itself: where decoding may start, and which pictures no other one needs.

A packet holds units: slices of the picture, parameter sets, messages. A slice whose `nal_ref_idc` is 0 belongs
to a picture that the standard forbids others to refer to; leaving such a picture out changes no other pixel.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

_SLICE, _IDR, _SEI, _PARAMETERS, _DELIMITER, _FILLER = 1, 5, 6, 7, 9, 12
# Beside the slices, a picture that is left out may only take these with it.
_EXPENDABLE = (_SEI, _DELIMITER, _FILLER)
_RECOVERY_POINT, _DISPLAY_ORIENTATION = 6, 47  # kinds of messages
_START_CODE = b"\x00\x00\x01"
# Profiles whose parameter set carries a chroma format and scaling lists.
_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
_EXPLICIT_ASPECT = 255
_MOST_HELD_BACK = 16  # decoders ignore larger numbers


class UnneededPictures:
    """Finds the pictures of an H.264 stream that can be left out without a trace in any other.

    Feed every packet to `note` in decoding order, then ask `can_be_left_out`.

    Args:
        extradata: the stream's avcC record; pictures of streams without one are never left out.
    """

    def __init__(self, extradata: bytes) -> None:
        self._length_size = (extradata[4] & 3) + 1 if len(extradata) > 6 and extradata[0] == 1 else 0
        self._parameters = _parameter_sets(extradata) if self._length_size else []
        depths = [reorder_depth(unit) for unit in self._parameters]
        known = [depth for depth in depths if depth is not None]
        self._depth = min(known) if known and len(known) == len(depths) else None

    def note(self, data: memoryview) -> bool:
        """Whether no other picture needs this packet's picture."""
        if self._depth is None:
            return False
        unneeded = slices = 0
        at, end, length_size = 0, len(data), self._length_size
        others = False
        while at + length_size < end:
            length = int.from_bytes(data[at : at + length_size], "big")
            at += length_size
            if length:
                head = data[at]
                kind = head & 0x1F
                if kind == _SLICE:
                    slices += 1
                    unneeded += not head & 0x60
                elif kind == _PARAMETERS and bytes(data[at : at + length]) not in self._parameters:
                    self._depth = None
                    return False
                elif kind == _SEI and any(
                    k == _DISPLAY_ORIENTATION for k, _ in _messages(bytes(data[at : at + length]))
                ):
                    self._depth = None  # each picture may be turned in its own way
                    return False
                elif kind not in _EXPENDABLE:
                    others = True
            at += length
        return slices > 0 and unneeded == slices and not others

    def can_be_left_out(self, stamps: Sequence[int]) -> bool:
        """Whether a decoder gives every other picture, in the same order, without those that `note` named.

        It does where it knows from the start how many pictures to hold back: with a wrong guess it drops some
        of its own, and fewer of them where fewer are fed.

        Args:
            stamps: presentation time stamps in decoding order.
        """
        return self._depth is not None and pictures_held_back(stamps) <= self._depth


def pictures_held_back(stamps: Sequence[int]) -> int:
    """The most pictures that precede one in decoding order and follow it in presentation."""
    seen: list[int] = []
    most = 0
    for stamp in stamps:
        place = bisect_right(seen, stamp)
        most = max(most, len(seen) - place)
        seen.insert(place, stamp)
    return most


def reorder_depth(parameters: bytes) -> int | None:
    """How many pictures a sequence parameter set says a decoder must hold back.

    None where it does not say, where pictures may be fields, and where it cannot be read.
    """
    try:
        depth = _read_reorder_depth(_Bits(_without_escapes(parameters[1:])))
    except IndexError:
        return None
    return depth if depth is not None and depth <= _MOST_HELD_BACK else None


def starts_here(unit: bytes) -> bool:
    """An instantaneous refresh, or a recovery point whose first picture is exact already."""
    kind = unit[0] & 0x1F
    if kind == _IDR:
        return True
    if kind != _SEI:
        return False
    # recovery_frame_cnt is an Exp-Golomb number: a leading 1 bit means 0.
    return any(kind == _RECOVERY_POINT and content[0] & 0x80 for kind, content in _messages(unit))


def _messages(unit: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content (never empty) of the messages in a unit of that sort."""
    data = _without_escapes(unit[1:])
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


def nal_units(data: bytes, length_size: int) -> Iterator[bytes]:
    """Units of an H.264/H.265 packet: length-prefixed, or after start codes when `length_size` is 0."""
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


def _parameter_sets(extradata: bytes) -> list[bytes]:
    """The sequence parameter sets of an avcC record."""
    found = []
    at = 6
    for _ in range(extradata[5] & 0x1F):
        length = int.from_bytes(extradata[at : at + 2], "big")
        found.append(extradata[at + 2 : at + 2 + length])
        at += 2 + length
    return found


def _without_escapes(data: bytes) -> bytes:
    return data.replace(b"\x00\x00\x03", b"\x00\x00")


class _Bits:
    """Numbers from a bitstream; past its end, IndexError."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """An unsigned number of `count` bits."""
        self._left -= count
        if self._left < 0:
            raise IndexError("past the end of the unit")
        return self._value >> self._left & ((1 << count) - 1)

    def number(self) -> int:
        """An unsigned Exp-Golomb number."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        """A signed Exp-Golomb number."""
        number = self.number()
        return (number + 1) // 2 if number % 2 else -(number // 2)

    def skip_numbers(self, count: int) -> None:
        for _ in range(count):
            self.number()


def _read_reorder_depth(bits: _Bits) -> int | None:
    """Walk through a sequence parameter set (H.264, 7.3.2.1.1 and E.1.1) up to `max_num_reorder_frames`."""
    profile = bits.take(8)
    bits.take(16)  # constraints, level
    bits.number()  # the set's id
    if profile in _HIGH_PROFILES:
        _skip_high_profile(bits)
    bits.number()  # bits of frame_num
    order_kind = bits.number()
    if order_kind == 0:
        bits.number()
    elif order_kind == 1:
        bits.take(1)
        bits.skip_numbers(2)
        bits.skip_numbers(bits.number())
    bits.number()  # reference frames
    bits.take(1)  # gaps in frame_num
    bits.skip_numbers(2)  # size
    if not bits.take(1):
        return None  # pictures may be fields
    bits.take(1)
    if bits.take(1):
        bits.skip_numbers(4)  # cropping
    return _read_usability(bits) if bits.take(1) else None


def _skip_high_profile(bits: _Bits) -> None:
    chroma = bits.number()
    if chroma == 3:
        bits.take(1)
    bits.skip_numbers(2)  # depths
    bits.take(1)
    if not bits.take(1):
        return
    for number in range(12 if chroma == 3 else 8):
        if bits.take(1):
            last = scale = 8
            for _ in range(16 if number < 6 else 64):
                if scale:
                    scale = (last + bits.signed()) % 256
                    last = scale or last


def _read_usability(bits: _Bits) -> int | None:
    if bits.take(1) and bits.take(8) == _EXPLICIT_ASPECT:
        bits.take(32)
    if bits.take(1):
        bits.take(1)  # overscan
    if bits.take(1):
        bits.take(4)  # video format, range
        if bits.take(1):
            bits.take(24)  # colours
    if bits.take(1):
        bits.skip_numbers(2)  # place of chroma samples
    if bits.take(1):
        bits.take(65)  # timing
    buffers = [_skip_buffer_model(bits) for _ in range(2)]
    if any(buffers):
        bits.take(1)
    bits.take(1)  # picture structure
    if not bits.take(1):
        return None
    bits.take(1)
    bits.skip_numbers(4)  # limits of sizes and vectors
    return bits.number()


def _skip_buffer_model(bits: _Bits) -> bool:
    if not bits.take(1):
        return False
    count = bits.number() + 1
    bits.take(8)
    for _ in range(count):
        bits.skip_numbers(2)
        bits.take(1)
    bits.take(20)
    return True
