"""Decode one video completely and report its problems. Runs in worker processes.

A video counts as damaged if the decoder refuses a packet, reports that it conceals errors, or returns another number
of frames than the file announces. Codecs carry no checksum, so bytes that still decode, to a wrong picture, cannot
be told from others.

Shapes: H height, W width, C the three colours red, green, blue.
"""

from __future__ import annotations

import hashlib
import itertools
import statistics
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from av.video.reformatter import VideoReformatter

from emim.data.video import VideoFileReader, open_video
from emim.data.video.clip_source import VideoReader
from emim.data.video.full_decode import FullDecode
from emim.errors import TruncatedVideoError, VideoError
from emim.isolation import WorkerLoss

__all__ = [
    "MAX_FPS",
    "VARIABLE_FACTOR",
    "Finding",
    "Severity",
    "VideoCheck",
    "VideoFacts",
    "check_video",
    "loss_finding",
]

Severity = Literal["error", "warning", "note"]

MAX_FPS = 240.0
# Frames follow each other unevenly when a gap is this many times the middle one, or the middle one this many times it.
VARIABLE_FACTOR = 1.5

# What decoders report as errors of streams that were cut or joined (h264), or of the dummies that DivX packs
# between pictures (mpeg4), and decode well all the same. Pictures that get lost change the number of frames.
_HARMLESS = (
    "mmco: unref short failure",
    "co located POCs unavailable",
    "illegal short term buffer",
    "exceeds max",
    "mpeg4: Header truncated",
)
_SHOWN_MESSAGES = 2
_MESSAGE_WIDTH = 70


@dataclass(frozen=True)
class Finding:
    """A problem of a video: kind, severity and reason in words."""

    kind: str
    severity: Severity
    reason: str


@dataclass(frozen=True)
class VideoFacts:
    """Facts about a video from decoding all of it.

    Attributes:
        frames: number of frames.
        fps: frames per second as the reader takes them.
        declared_fps: what the container states; 0 for nothing.
        seconds: duration.
        height: of the upright frames, in pixels.
        width: of the upright frames, in pixels.
        content: digest of the brightness of all frames: equal for copies and for other containers of one stream.
    """

    frames: int
    fps: float
    declared_fps: float
    seconds: float
    height: int
    width: int
    content: str


@dataclass(frozen=True)
class VideoCheck:
    """Result of a check; no facts if the video does not decode to its end."""

    facts: VideoFacts | None
    findings: tuple[Finding, ...]
    decoded: int


def check_video(path: Path) -> VideoCheck:
    """Decode every frame of a video file or a folder of frames; frames are not kept."""
    decoded = 0
    try:
        with open_video(path, min_frames=1) as reader:
            if isinstance(reader, VideoFileReader):
                return _check_file(reader)
            digest = hashlib.blake2b(digest_size=16)
            for number in range(reader.num_frames):
                digest.update(reader.read([number])[0].tobytes())
                decoded += 1
            return VideoCheck(_facts(reader, 0.0, digest.hexdigest()), (), decoded)
    except TruncatedVideoError as error:
        return VideoCheck(None, (Finding("truncated", "error", _cause(error)),), 0)
    except VideoError as error:
        return VideoCheck(None, (Finding("damaged" if decoded else "unreadable", "error", _cause(error)),), decoded)


def loss_finding(loss: WorkerLoss) -> Finding:
    """Describe a video whose decoding process was lost. One that reached a time limit is not called damaged."""
    if loss.kind == "time":
        return Finding("too slow", "error", f"was given up: decoding it {loss.reason}")
    subject = "" if loss.kind == "crash" else "its process "
    return Finding("unreadable", "error", f"was given up: while decoding it, {subject}{loss.reason}")


def _check_file(reader: VideoFileReader) -> VideoCheck:
    decode = FullDecode(reader.path)
    digest = hashlib.blake2b(f"{reader.rotation} {reader.mirrored}".encode(), digest_size=16)
    reformatter = VideoReformatter()
    corrupt: list[int] = []
    stamps: list[int] = []
    sizes: set[tuple[int, int]] = set()
    try:
        for number, frame in enumerate(decode):
            sizes.add((frame.width, frame.height))
            if frame.is_corrupt:
                corrupt.append(number)
            if frame.pts is not None:
                stamps.append(frame.pts)
            digest.update(reformatter.reformat(frame, format="gray", threads=1).to_ndarray().tobytes())
    except VideoError as error:
        return VideoCheck(None, (Finding("damaged", "error", _cause(error)),), decode.frames)
    if decode.frames != reader.num_frames:
        reason = f"announces {reader.num_frames} frames, but {decode.frames} decode{_said(decode)}"
        return VideoCheck(None, (Finding("damaged", "error", reason),), decode.frames)
    if len(sizes) > 1:
        reason = f"frames change size: {', '.join(f'{w}x{h}' for w, h in sorted(sizes))}"
        return VideoCheck(None, (Finding("damaged", "error", reason),), decode.frames)
    findings = _damage(decode, corrupt)
    if decode.stamps is not None and len(stamps) == decode.frames:
        findings += _unevenness([float((b - a) * decode.time_base) for a, b in itertools.pairwise(stamps)])
    return VideoCheck(_facts(reader, decode.declared_fps, digest.hexdigest()), tuple(findings), decode.frames)


def _facts(reader: VideoReader, declared_fps: float, content: str) -> VideoFacts:
    content = f"{reader.width}x{reader.height}:{content}"
    return VideoFacts(
        reader.num_frames, reader.fps, declared_fps, reader.duration, reader.height, reader.width, content
    )


def _damage(decode: FullDecode, corrupt: list[int]) -> list[Finding]:
    if not decode.messages and not corrupt:
        return []
    if not corrupt and all(any(part in message for part in _HARMLESS) for _, message in decode.messages):
        return [Finding("damaged", "warning", f"decodes with complaints{_said(decode)}")]
    first = min([number for number, _ in decode.messages] + corrupt)
    count = f", {len(corrupt)} pictures are flagged as incomplete" if corrupt else ""
    return [
        Finding("damaged", "error", f"data are damaged near frame {first} of {decode.frames}{count}{_said(decode)}")
    ]


def _cause(error: VideoError) -> str:
    """The reader's reason without what it says to do, which follows the last semicolon."""
    return error.reason.rpartition("; ")[0] or error.reason


def _said(decode: FullDecode) -> str:
    if not decode.messages:
        return ""
    said = "; ".join(
        textwrap.shorten(message, _MESSAGE_WIDTH, placeholder=" ...")
        for _, message in decode.messages[:_SHOWN_MESSAGES]
    )
    more = len(decode.messages) - _SHOWN_MESSAGES
    return f" ({said}{f'; and {more} more' if more > 0 else ''})"


def _unevenness(gaps: list[float]) -> list[Finding]:
    if len(gaps) < 2:
        return []
    middle = statistics.median(gaps)
    if min(gaps) * VARIABLE_FACTOR >= middle and max(gaps) <= middle * VARIABLE_FACTOR:
        return []
    reason = (
        f"the frame rate varies: {min(gaps) * 1000:.0f} to {max(gaps) * 1000:.0f} ms from frame to frame, "
        f"{middle * 1000:.0f} ms at the median"
    )
    return [Finding("variable fps", "note", reason)]
