"""Video files, read frame by frame with PyAV (whose wheel carries FFmpeg), and `open_video` for any clip.

How a reader finds a frame
--------------------------
The frames of a video are those that a decode of the whole file gives, in that order; a reader returns them bit for
bit.

1. The stream is demuxed once, without decoding, into a table of time stamps (pts) and key frames. Packets of
   short videos stay in memory, so that nothing is read twice.
2. The table is believed when it cannot mislead: the container stores pictures whole (mp4, mov, mkv, webm,
   avi), the codec gives one picture per packet, the first packet is a clean key frame, no packet is hidden
   by an edit list, flagged as corrupt or known to give no picture, and the first decoded picture is
   progressive and carries the lowest pts. Then the number of packets is the number of frames. In doubt
   (MPEG-TS, edit lists that cut, DivX dummies, other codecs ...) the file is decoded once in full and counted;
   the decoded frames are kept if they are small enough, so that this costs no second decode.
3. Frame i is the one with the i-th lowest pts. Decoding goes on from where it stands, unless the last key
   frame at or before the wanted frame in presentation order has not been reached yet, or the wanted frame
   lies behind: then the packets up to that key frame are skipped. A frame that follows an open-GOP key frame
   in the file but precedes it in presentation is thus reached from one key frame earlier. The bitstream,
   not only the container, must say that decoding can start at a key frame.
4. In h264, the decoder leaves out pictures that are not wanted and to which no other refers (FFmpeg's
   `skip_frame=NONREF`), where that cannot change the order of its output (`PacketTable.skippable`). After the last
   wanted frame every picture is decoded again, so that a later read can go on; but a read in which pictures were
   left out ends by emptying the decoder, which saves decoding as many pictures as it holds back. The next read
   starts from a key frame then.
5. Every decoded frame must carry the pts that the table expects next. When one does not, the table is
   dropped: the file is decoded in full and frames are counted. Streams without usable pts (avi with
   B-frames) are always decoded from the start and counted.

Decoding runs on one thread, which is faster for short clips and leaves the cores to the loader's workers.
Only wanted frames are converted to RGB, scaled where pixels are not square, and turned upright; see
`emim.data.video.geometry`.

Shapes: T frames asked for, H height, W width, C the three colours red, green, blue.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av
from av.video.reformatter import VideoReformatter

from emim.data.video.clip_source import Excerpt, Frames, VideoReader, check_frame_count
from emim.data.video.container import IN_MEMORY, MediaFile, bytes_missing, is_animated_webp
from emim.data.video.frame_folder import AnimatedWebPReader, FrameFolderReader
from emim.data.video.geometry import Orientation, display_size, orientation_of, pixel_aspect, to_display
from emim.data.video.packets import PacketSource
from emim.errors import (
    EmptyVideoError,
    TruncatedVideoError,
    VideoError,
)

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

__all__ = ["VIDEO_SUFFIXES", "VideoFileReader", "VideoInput", "open_video"]

VideoInput = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""A path, or the content of an encoded video file: as bytes, or as a binary file object."""

VIDEO_SUFFIXES: frozenset[str] = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"}
    | {".wmv", ".flv", ".3gp", ".ogv", ".gif", ".apng", ".mjpeg", ".mjpg"}
)
"""Names under which videos are looked for in folders; `open_video` goes by the content."""

_PACKET_MEMORY = 64 << 20
_FRAME_MEMORY = 64 << 20
# Skipping fewer packets than these costs more than decoding them, because a restart empties the decoder.
_MIN_SKIP = 3
# Frames by which a time stamp may differ from `index / fps` in a video of constant rate.
_UNEVEN = 0.5
_NEVER = -(1 << 63)  # before every time stamp


class _TableMismatchError(Exception):
    """A decoded frame is not the one that the packet table expects."""


def open_video(
    video: VideoInput,
    *,
    min_frames: int = 2,
    start: float | None = None,
    end: float | None = None,
    square_pixels: bool = True,
) -> VideoReader:
    """Open a video file, an animated image (GIF, APNG, WebP), or a folder of jpg/png frames.

    >>> with open_video("clip.mp4", start=2.5, end=4) as reader:  # doctest: +SKIP
    ...     frames_THWC = reader.read([0, 5, 10])

    Args:
        video: path of the file or folder; or the content of a file, as bytes or as a binary file object (which is
            read from where it stands to its end, and left open).
        min_frames: fewest frames accepted; 1 allows videos without motion.
        start: seconds at which to begin; None for the start of the video.
        end: seconds before which to end; None for the end of the video. With either, the reader is an `Excerpt`.
        square_pixels: scale frames whose pixels are not square, as a player does; False returns the stored pixels,
            as most published pipelines do.

    Returns:
        A reader; use it as a context manager. Frame folders count as 30 frames per second (use
        `FrameFolderReader` to set another rate).

    Raises:
        VideoNotFoundError: there is nothing at the path.
        EmptyVideoError: zero bytes, no frame in the container, or no image in the folder.
        NotAVideoError: the content is no video.
        NoVideoStreamError: there is sound, but no video stream.
        TruncatedVideoError: the file ends before the frames that it announces.
        SingleFrameError: there is one frame and `min_frames` is above 1.
        VideoError: base of all these; also damage that only decoding shows, with the frame's number, and a range of
            time without a frame.
    """
    reader = _open(video, min_frames, square_pixels)
    if start is None and end is None:
        return reader
    try:
        first, stop = reader.frame_range(start, end)
        if stop - first < min_frames:
            reason = f"{reader.describe_range(start, end)}, fewer than the {min_frames} asked for (min_frames)"
            raise VideoError(
                reader.path, f"holds {'1 frame' if stop - first == 1 else f'{stop - first} frames'} {reason}"
            )
        return Excerpt(reader, first, stop)
    except BaseException:
        reader.close()
        raise


def _open(video: VideoInput, min_frames: int, square_pixels: bool) -> VideoReader:
    if isinstance(video, str | os.PathLike) and Path(video).is_dir():
        return FrameFolderReader(Path(video), min_frames=min_frames)
    media = _media_file(video)
    media.check()
    if is_animated_webp(media.head()):
        return AnimatedWebPReader(media, min_frames=min_frames)
    return VideoFileReader(media, min_frames=min_frames, square_pixels=square_pixels)


def _media_file(video: VideoInput | MediaFile) -> MediaFile:
    if isinstance(video, MediaFile):
        return video
    if isinstance(video, str | os.PathLike):
        return MediaFile(Path(video))
    if isinstance(video, bytes | bytearray | memoryview):
        return MediaFile(IN_MEMORY, bytes(video))
    content = video.read() if hasattr(video, "read") else None
    if not isinstance(content, bytes):
        raise TypeError(
            f"a video is a path, bytes, or a file opened in binary mode, not {type(video).__name__}; "
            "wrap frames in emim.data.video.ArrayVideo"
        )
    name = getattr(video, "name", None)
    return MediaFile(Path(name) if isinstance(name, str) else IN_MEMORY, content)


class VideoFileReader(VideoReader):
    """Reads a video file; see the module's docstring for how frames are found.

    Args:
        video: path or content of the file, as for `open_video`.
        min_frames: fewest frames accepted.
        packet_memory: bytes of compressed packets kept in memory; longer videos are read from the file again.
        frame_memory: bytes of decoded frames kept when the frames had to be counted by decoding.
        square_pixels: as for `open_video`.

    Attributes:
        pixel_aspect: width of a stored pixel over its height, as far as it is corrected in the returned frames.

    Raises:
        VideoError: one of its subclasses, as listed for `open_video`.
    """

    def __init__(
        self,
        video: VideoInput | MediaFile,
        *,
        min_frames: int = 2,
        packet_memory: int = _PACKET_MEMORY,
        frame_memory: int = _FRAME_MEMORY,
        square_pixels: bool = True,
    ) -> None:
        self._media = _media_file(video)
        self.path = self._media.path
        self._frame_memory = frame_memory
        self._closed = False
        self._reformatter = VideoReformatter()
        self._decoded: list[VideoFrame] | None = None
        self._frames: Iterator[VideoFrame] | None = None
        self._next_index = 0  # of the frame that `_frames` gives next
        self._last: tuple[int, VideoFrame] | None = None
        self._pts: list[int] | None = None  # expected, in presentation order
        self._stamps: list[int] | None = None  # as `_pts`, but kept when that is dropped
        self._entries: list[tuple[int, int]] = []
        # Time stamps wanted by the read under way (and those of them not yet given to the decoder), and those of
        # pictures that the decoder may leave out.
        self._wanted: frozenset[int] = frozenset()
        self._not_fed: set[int] = set()
        self._expendable: set[int] = set()
        self._left_out = False  # the decoder has left out some of these since it started
        self._last_wanted = _NEVER
        self._emptied = False  # the decoder was emptied: decoding cannot go on from where it stands
        # Kept, because frames counted past damage could be shifted.
        self._damage: VideoError | None = None
        self.num_frames = 0
        self._media.check()
        with _quiet_ffmpeg():
            self._source = PacketSource(self._media, packet_memory)
            self.pixel_aspect = pixel_aspect(self._source.stream) if square_pixels else Fraction(1)
            try:
                self._check_complete()
                self._index_frames()
                check_frame_count(self.path, self.num_frames, min_frames)
                self._describe()
            except BaseException:
                self.close()
                raise

    @property
    def orientation(self) -> Orientation:
        """Orientation of the stored frames."""
        return self._orientation

    @property
    def packets_decoded(self) -> int:
        """Packets given to the decoder so far, those of pictures that it left out among them."""
        return self._source.packets_decoded

    @property
    def frames_decoded(self) -> int:
        """Frames that the decoder has given so far: what opening and reading have cost."""
        return self._source.frames_decoded

    def close(self) -> None:
        """Release the file, the packets and the decoder; closing twice is harmless."""
        self._frames = self._last = self._decoded = None
        self._closed = True
        self._source.close()

    def _check_complete(self) -> None:
        """Refuse files whose end is missing."""
        table, announced = self._source.table, self._source.stream.frames
        found = len(table.records)
        missing = bytes_missing(self._media)
        if announced > 0 and found >= announced and not table.corrupt:
            return  # what is missing, if anything, holds no frame
        # A complete file may announce more than it holds, after an edit for example.
        if missing or (missing is None and announced > found + 2 + announced // 50):
            expected = f" of {announced}" if announced > 0 else ""
            short = f"; {missing} bytes are missing" if missing else ""
            raise TruncatedVideoError(
                self.path, f"ends after {found}{expected} frames{short}; copy or download the file again"
            )

    def _index_frames(self) -> None:
        """Settle the number of frames, and what is known of their time stamps and key frames."""
        table = self._source.table
        if not table.records:
            raise EmptyVideoError(self.path, "its video stream holds no frame; remove it or export it again")
        if table.doubts:
            self._count_by_decoding()
            return
        self.num_frames = len(table.records)
        self._pts = table.trusted_pts()
        if self._pts is not None:
            self._entries = table.entries(self._pts)
        try:
            first = self._frame_at(0)
        except _TableMismatchError:
            self._count_by_decoding()
            return
        if first.interlaced_frame:  # two packets may make one picture
            self._count_by_decoding()

    def _count_by_decoding(self) -> None:
        """Decode the whole file to count its frames, and to learn the time stamp of each."""
        table = self._source.table
        self._want(())
        decoded: list[VideoFrame] | None = []
        stamps: list[int | None] = []
        held = 0
        self._start_decoding(0)
        assert self._frames is not None
        for frame in self._frames:
            stamps.append(frame.pts)
            self._next_index += 1
            if decoded is not None:
                held += sum(plane.buffer_size for plane in frame.planes)
                decoded.append(frame)
                if held > self._frame_memory:
                    decoded = None
        if not stamps:
            raise EmptyVideoError(self.path, "none of its packets decodes to a frame; export it again")
        self.num_frames = len(stamps)
        self._decoded = decoded
        self._frames = self._last = None
        self._pts, self._entries = None, []
        known = [pts for pts in stamps if pts is not None]
        shown = table.trusted_pts()
        if len(known) == len(stamps) and shown is not None and set(known) <= set(shown):
            ascending = all(a < b for a, b in itertools.pairwise(known))
            if ascending and "codec parameters that change" not in table.doubts:
                self._pts, self._entries = known, table.entries(known)

    def _describe(self) -> None:
        """Fill in size, rotation and timing."""
        self._describe_picture(self._frame_at(0))
        stream = self._source.stream
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        self.duration = self._duration_from_stamps() or (self.num_frames / rate if rate else 0.0)
        measured = self.num_frames / self.duration if self.duration else 0.0
        # Stamps in whole milliseconds make the measured rate slightly wrong; the announced one is then exact.
        self.fps = rate if rate and (not measured or abs(measured / rate - 1) < 0.01) else measured
        self._stamps = self._pts
        if not self.fps > 0:
            raise VideoError(self.path, "states neither frame rate nor time stamps; remux it to mp4")

    def _describe_picture(self, frame: VideoFrame) -> None:
        self._orientation = orientation = orientation_of(frame) or Orientation()
        self.rotation, self.mirrored = orientation.rotation, orientation.mirrored
        self._stored_size = (frame.height, frame.width)
        height, width = display_size(*self._stored_size, self.pixel_aspect)
        self.height, self.width = (width, height) if orientation.transposed else (height, width)

    @cached_property
    def _times(self) -> list[float] | None:
        """Seconds from the first frame to each, where they are known."""
        unit = self._source.stream.time_base
        if self._stamps is None or not unit:
            return None
        first = self._stamps[0]
        return [float((pts - first) * unit) for pts in self._stamps]

    def time_of(self, index: int) -> float:
        """Return the seconds from the start of the first frame to that of frame `index`; see `VideoReader`."""
        self._check_index(index)
        if self._times is None:
            return index / self.fps
        return self._times[index]

    def _frame_from(self, moment: float) -> int:
        # Evenly spaced stamps are rounded to ticks, which `fps` is not: manifests count by it.
        if self._times is None or all(abs(t * self.fps - i) < _UNEVEN for i, t in enumerate(self._times)):
            return super()._frame_from(moment)
        return bisect.bisect_left(self._times, moment - 1e-6)

    def _duration_from_stamps(self) -> float | None:
        """Seconds from the first frame to the end of the last; None when stamps are not usable."""
        if self._pts is None or self.num_frames < 2:
            return None
        span = self._pts[-1] - self._pts[0]
        durations = {r.pts: r.duration for r in self._source.table.records}
        last = durations.get(self._pts[-1]) or Fraction(span, self.num_frames - 1)
        return float((span + last) * (self._source.stream.time_base or 0))

    def _read_ascending(self, indices: Sequence[int]) -> Iterator[tuple[int, Frames]]:
        if self._closed:
            raise VideoError(self.path, "is closed; read frames before that")
        if self._damage is not None:
            raise self._damage
        if self._emptied:
            self._frames = None
        self._want(indices)
        with _quiet_ffmpeg():
            for index in indices:
                try:
                    frame = self._find_frame(index)
                except VideoError as damage:
                    self._damage = damage
                    raise
                yield index, self._to_rgb(frame, index)

    def _want(self, indices: Sequence[int]) -> None:
        """Note the frames that the next read wants, where others can be left out."""
        pts = self._pts if self._source.table.skippable else None
        self._wanted = frozenset() if pts is None else frozenset(pts[index] for index in indices)
        self._not_fed = set(self._wanted)
        self._last_wanted = max(self._wanted, default=_NEVER)

    def _find_frame(self, index: int) -> VideoFrame:
        """Decode the frame at `index`, without the table if that proves wrong."""
        try:
            return self._frame_at(index)
        except _TableMismatchError:
            self._drop_table(index)
            try:
                return self._frame_at(index)
            except _TableMismatchError:
                raise VideoError(self.path, f"frame {index} does not decode again; re-encode it") from None

    def _drop_table(self, index: int) -> None:
        """Count frames by decoding from here on; the number that was announced must stand."""
        announced = self.num_frames
        self._count_by_decoding()
        self._pts, self._entries = None, []
        if self.num_frames != announced:
            found, self.num_frames = self.num_frames, announced
            raise VideoError(
                self.path,
                f"is damaged at or before frame {index}: its index announces {announced} frames, but {found} "
                "decode; copy the file again or re-encode it",
            )

    def _frame_at(self, index: int) -> VideoFrame:
        """Decode the frame at `index`, or raise `_TableMismatchError`."""
        if self._decoded is not None:
            return self._decoded[index]
        if self._last is not None and self._last[0] == index:
            return self._last[1]
        entry_index, entry_packet = self._entry_before(index)
        behind = self._frames is None or index < self._next_index
        if behind or entry_packet >= self._source.position + _MIN_SKIP:
            self._start_decoding(entry_packet)
            self._next_index = entry_index
        skip_before = self._pts[entry_index] if self._pts is not None else None
        assert self._frames is not None
        for frame in self._frames:
            if self._pts is not None:
                if (
                    self._next_index == entry_index
                    and entry_index > 0
                    and frame.pts is not None
                    and skip_before is not None
                    and frame.pts < skip_before
                ):
                    continue  # precedes the key frame; its references were skipped
                while (
                    self._next_index < self.num_frames
                    and self._pts[self._next_index] != frame.pts
                    and self._pts[self._next_index] in self._expendable
                ):
                    self._next_index += 1
                    self._left_out = True
                if self._next_index >= self.num_frames or frame.pts != self._pts[self._next_index]:
                    raise _TableMismatchError
            current = self._next_index
            self._next_index += 1
            if current == index:
                self._last = (index, frame)
                return frame
        raise _TableMismatchError

    def _entry_before(self, index: int) -> tuple[int, int]:
        """The last (frame index, packet number) at or before `index` at which a decoder may start."""
        best = (0, 0)
        for entry in self._entries:
            if entry[0] > index:
                break
            best = entry
        return best

    def _start_decoding(self, packet_number: int) -> None:
        self._last = None
        self._next_index = 0
        self._expendable.clear()
        self._emptied = self._left_out = False
        self._frames = self._decode(packet_number)

    def _decode(self, packet_number: int) -> Iterator[VideoFrame]:
        """Frames in the decoder's order, from a packet on."""
        source = self._source
        source.jump(packet_number)
        try:
            for record, packet in source:
                source.skip_unreferenced(self._may_leave_out(record.pts))
                yield from source.decode(packet)
                if self._ends_read(record.pts):
                    break
            yield from source.decode(None)
        except av.FFmpegError as error:
            if packet_number > 0:
                raise _TableMismatchError from error
            raise VideoError(
                self.path,
                f"frame {self._next_index} does not decode ({error.strerror}); the file is damaged, copy it "
                "again or re-encode it",
            ) from error

    def _may_leave_out(self, pts: int | None) -> bool:
        """True for a picture that is not wanted itself: the decoder leaves it out if no other refers to it."""
        if pts is None or pts in self._wanted or pts > self._last_wanted:
            return False
        self._expendable.add(pts)
        return True

    def _ends_read(self, pts: int | None) -> bool:
        """True if the decoder has everything that the read under way needs, and may be emptied.

        Not after a read in which nothing was left out: the next one will probably go on from there.
        """
        if pts not in self._not_fed:
            return False
        self._not_fed.discard(pts)
        if self._not_fed or not self._left_out or len(self._wanted) == 1:
            return False
        rest = (r.pts for r in self._source.table.records[self._source.position :])
        self._expendable.update(pts for pts in rest if pts is not None and pts < self._last_wanted)
        self._emptied = True
        return True

    def _to_rgb(self, frame: VideoFrame, index: int) -> Frames:
        """Convert to upright frame_HWC with square pixels."""
        if (frame.height, frame.width) != self._stored_size:
            height, width = self._stored_size
            raise VideoError(
                self.path,
                f"frame {index} is {frame.width}x{frame.height}, but frame 0 is {width}x{height}; re-encode "
                "the file to one size",
            )
        return to_display(frame, self._orientation, self.pixel_aspect, self._reformatter)


@contextlib.contextmanager
def _quiet_ffmpeg() -> Iterator[None]:
    """Keep FFmpeg's own messages from the terminal: what matters becomes an error with the file's name."""
    level = av.logging.get_level()
    if level is None:  # PyAV's default: silent
        yield
        return
    av.logging.set_level(None)
    try:
        yield
    finally:
        av.logging.set_level(level)
