"""A part of a video at a lower frame rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from emim.data.video import VideoReader
from emim.data.video.clip_source import Frames


class ThinnedVideo(VideoReader):
    """Every n-th frame of a part of a video, as if that were all of it.

    Args:
        reader: the open video; whoever opened it closes it.
        first: number of its first frame that is taken.
        stop: number of the first one that is not.
        most: frames that there are at most; n follows.
    """

    def __init__(self, reader: VideoReader, first: int, stop: int, most: int) -> None:
        every = -(-(stop - first) // most)
        self._reader = reader
        self._frames = range(first, stop, every)
        self.path = reader.path
        self.num_frames = len(self._frames)
        self.fps = reader.fps / every
        self.duration = self.num_frames / self.fps
        self.rotation = reader.rotation
        self.height = reader.height
        self.width = reader.width

    def _read_ascending(self, indices: Sequence[int]) -> Iterator[tuple[int, Frames]]:
        frames_THWC = self._reader.read([self._frames[index] for index in indices])
        yield from zip(indices, frames_THWC, strict=True)

    def close(self) -> None:
        pass
