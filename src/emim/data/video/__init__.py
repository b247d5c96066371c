"""Reading videos: exact frames of files and of folders of frames, through `open_video`."""

from __future__ import annotations

from emim.data.video.clip_source import VideoReader
from emim.data.video.frame_folder import IMAGE_SUFFIXES, FrameFolderReader, is_frame_folder
from emim.data.video.reader import VIDEO_SUFFIXES, VideoFileReader, open_video

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "FrameFolderReader",
    "VideoFileReader",
    "VideoReader",
    "is_frame_folder",
    "open_video",
]
