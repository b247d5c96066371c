"""Reading videos: exact frames of files, of folders of frames, and of frames in memory, through `open_video`."""

from __future__ import annotations

from emim.data.video.array_video import ArrayVideo
from emim.data.video.clip_source import Excerpt, VideoReader
from emim.data.video.frame_folder import IMAGE_SUFFIXES, AnimatedWebPReader, FrameFolderReader, is_frame_folder
from emim.data.video.reader import VIDEO_SUFFIXES, VideoFileReader, VideoInput, open_video

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "AnimatedWebPReader",
    "ArrayVideo",
    "Excerpt",
    "FrameFolderReader",
    "VideoFileReader",
    "VideoInput",
    "VideoReader",
    "is_frame_folder",
    "open_video",
]
