"""One pass over all frames of a video file, which records FFmpeg's messages.

The frames are the ones that `open_video` numbers, in the same order, as FFmpeg gives them: not yet RGB, not yet
upright, with their time stamps. One frame at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av

from emim.data.video.container import MediaFile
from emim.data.video.index import video_packets
from emim.data.video.packets import PacketSource
from emim.errors import VideoError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

__all__ = ["FullDecode"]


class FullDecode:
    """Iterates once over every frame of a video file, in presentation order.

    For processes of one thread: FFmpeg's messages of the whole process are collected meanwhile.

    Args:
        path: a video file that `open_video` accepts.

    Attributes:
        frames: frames given so far.
        packets: packets in the file; known once the iteration has begun.
        stamps: time stamps in presentation order, if every packet has one of its own, in units of `time_base`;
            known once the iteration has begun, like the next one.
        time_base: seconds.
        declared_fps: frames per second that the container states; 0 for nothing.
        messages: (number of the frame about to be decoded, FFmpeg's message), without repetitions.

    Raises:
        VideoError: while iterating, the decoder refuses a packet, or as for `open_video`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames = 0
        self.packets = 0
        self.stamps: list[int] | None = None
        self.time_base = Fraction(0)
        self.declared_fps = 0.0
        self.messages: list[tuple[int, str]] = []

    def __iter__(self) -> Iterator[VideoFrame]:
        level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)
        try:
            with av.logging.Capture() as captured:
                for frame in self._decode(captured):
                    self._note(captured)
                    yield frame
                    self.frames += 1
                self._note(captured)
        finally:
            av.logging.set_skip_repeated(skips)
            av.logging.set_level(level)

    def _decode(self, captured: list[tuple[int, str, str]]) -> Iterator[VideoFrame]:
        source = PacketSource(MediaFile(self.path), memory_limit=0)
        captured.clear()  # reading the file again says the same, at the frame that it concerns
        try:
            self.packets = len(source.table.records)
            self.stamps = source.table.trusted_pts()
            self.time_base = source.stream.time_base or Fraction(0)
            self.declared_fps = float(source.stream.average_rate or source.stream.guessed_rate or 0)
            source.jump(0)
            for packet in video_packets(source.container, source.stream):
                yield from source.stream.decode(packet)
            yield from source.stream.decode(None)
        except av.FFmpegError as error:
            raise VideoError(
                self.path,
                f"frame {self.frames} does not decode ({error.strerror}); the file is damaged, copy it again or "
                "re-encode it",
            ) from error
        finally:
            source.close()

    def _note(self, captured: list[tuple[int, str, str]]) -> None:
        seen = {message for _, message in self.messages}
        for _, name, text in captured:
            message = f"{name}: {' '.join(text.split())}" if name else " ".join(text.split())
            if message not in seen:
                seen.add(message)
                self.messages.append((self.frames, message))
        captured.clear()
