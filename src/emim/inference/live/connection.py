"""Open a live source (camera, network stream, file) with FFmpeg."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import av
from av.codec.context import Flags

from emim.data.video.container import MediaFile
from emim.data.video.geometry import pixel_aspect
from emim.data.video.packets import open_video_stream, video_stream
from emim.errors import SourceError, VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


__all__ = ["SCHEMES", "Connection", "Kind", "Source", "connect", "parse_source", "why"]

Kind = Literal["camera", "file", "url"]

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "tcp", "udp", "rtp", "srt")
"""Accepted schemes of addresses; which of them work depends on how FFmpeg was built."""


@dataclass(frozen=True)
class Source:
    """A source of frames.

    Attributes:
        kind: a camera of this machine, a file, or a network address.
        address: number or device path of the camera, path of the file, or the address.
        name: `address` for display: without user name and password.
    """

    kind: Kind
    address: str
    name: str


def parse_source(text: str) -> Source:
    """Parse a source: a number or /dev/video... is a camera, rtsp://... and the like an address, anything else a file.

    Raises:
        SourceError: the scheme of the address is not in `SCHEMES`.
    """
    if re.fullmatch(r"[0-9]+", text):
        return Source("camera", str(int(text)), f"camera {int(text)}")
    if re.fullmatch(r"/dev/video[0-9]+", text):
        return Source("camera", text, f"camera {text}")
    scheme, separator, _ = text.partition("://")
    if not separator or Path(text).exists():
        return Source("file", text, text)
    name = _without_password(text)
    if scheme.lower() not in SCHEMES:
        raise SourceError(
            name, f"unknown kind of address {scheme}://; give a camera's number, a file, or one of {', '.join(SCHEMES)}"
        )
    return Source("url", text, name)


def _without_password(address: str) -> str:
    """Replace user name and password of an address by stars."""
    try:
        netloc = urlsplit(address).netloc
    except ValueError:
        return address
    credentials, at, host = netloc.rpartition("@")
    if not at:
        return address
    return address.replace(f"{credentials}@{host}", f"***@{host}", 1)


# Protocols that an address may lead to: a playlist of a server must not open files of this machine.
_NETWORK_PROTOCOLS = "http,https,httpproxy,tls,tcp,udp,rtp,srtp,rtsp,rtmp,rtmps,rtmpt,srt,crypto,data"
_DEVICE_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
_DEFAULT_RATE = 30.0


@dataclass(frozen=True)
class Connection:
    """An open source.

    Attributes:
        container: the open file, stream or device.
        stream: its pictures, with the decoder.
        paced: true if all frames are available at once and must be played in real time (files, recordings on a
            server); false if they arrive in real time.
        rate: announced frames per second.
        aspect: width of a stored pixel over its height; see `emim.data.video.geometry`.
    """

    container: InputContainer
    stream: VideoStream
    paced: bool
    rate: float
    aspect: Fraction = Fraction(1)

    def close(self) -> None:
        """Release device, file or connection."""
        self.container.close()

    def describe(self) -> str:
        """Describe size, codec and frame rate."""
        context = self.stream.codec_context
        size = f"{context.width}x{context.height} " if context.width else ""
        return f"{size}{context.name}, {self.rate:.4g} fps"


def connect(source: Source, timeout: float) -> Connection:
    """Open a source.

    Args:
        source: what to open.
        timeout: seconds without data after which an address counts as lost, while opening and later.

    Raises:
        SourceError: the camera or address cannot be opened.
        VideoError: the file cannot be opened; one of its subclasses.
    """
    if source.kind == "file":
        return _open_file(Path(source.address))
    began = time.monotonic()
    try:
        container = _open_camera(source) if source.kind == "camera" else _open_address(source, timeout)
    except (av.FFmpegError, OSError) as error:
        late = source.kind == "url" and time.monotonic() - began >= timeout
        reason = f"no answer within {timeout:g} s" if late else why(error, timeout)
        raise SourceError(source.name, f"cannot be opened ({reason}); {_advice(source, error)}") from error
    try:
        stream = video_stream(container, Path(source.name))
    except VideoError as error:
        container.close()
        raise SourceError(source.name, error.reason) from error
    # A recording on a server has a duration, and arrives as fast as it is read.
    return _connection(container, stream, paced=source.kind == "url" and container.duration is not None)


def why(error: BaseException, timeout: float) -> str:
    """Describe an error of FFmpeg in words."""
    if isinstance(error, av.error.ExitError):
        return f"no data for {timeout:g} s"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


def _open_file(path: Path) -> Connection:
    if path.is_dir():
        raise VideoError(path, "is a folder; emim stream plays one video file, emim predict takes folders")
    media = MediaFile(path)
    media.check()
    container, stream = open_video_stream(media)
    return _connection(container, stream, paced=True)


def _open_address(source: Source, timeout: float) -> InputContainer:
    # Frames must not wait for more frames, and RTSP over UDP loses some of them.
    options = {"protocol_whitelist": _NETWORK_PROTOCOLS, "fflags": "nobuffer"}
    if source.address.lower().startswith(("rtsp:", "rtsps:")):
        options["rtsp_transport"] = "tcp"
    return av.open(source.address, container_options=options, timeout=(timeout, timeout), metadata_errors="replace")


def _open_camera(source: Source) -> InputContainer:
    name = source.address
    options: dict[str, str] = {}
    if sys.platform == "linux":
        if name.isdigit():
            name = f"/dev/video{name}"
    elif sys.platform == "darwin":
        options = {"framerate": "30"}  # cameras refuse the default of FFmpeg
    elif name.isdigit():
        name = _windows_camera(source)
    form = _DEVICE_FORMATS.get(sys.platform)
    if form is None:
        raise SourceError(source.name, f"cameras are not supported on {sys.platform}; give an address or a file")
    try:
        return av.open(name, format=form, container_options=options)
    except ValueError as error:
        if isinstance(error, av.FFmpegError):
            raise
        raise SourceError(
            source.name, f"PyAV was built without {form}, so it cannot open cameras; serve the camera by RTSP"
        ) from error


def _windows_camera(source: Source) -> str:
    from av.device import enumerate_input_devices

    names = [device.name for device in enumerate_input_devices("dshow") if "video" in device.media_types]
    if int(source.address) >= len(names):
        raise SourceError(source.name, f"there is no such camera; found: {', '.join(names) or 'none'}")
    return f"video={names[int(source.address)]}"


def _connection(container: InputContainer, stream: VideoStream, *, paced: bool) -> Connection:
    context = stream.codec_context
    # Decoding several frames at once in threads would delay each of them.
    context.thread_type = "SLICE"
    context.flags |= Flags.copy_opaque
    if not paced:
        context.flags |= Flags.low_delay
    rate = float(stream.average_rate or stream.guessed_rate or _DEFAULT_RATE)
    return Connection(container, stream, paced, rate, pixel_aspect(stream))


def _advice(source: Source, error: BaseException) -> str:
    if source.kind == "camera":
        if isinstance(error, PermissionError):
            return "join the group that owns the device (usually video), or change its permissions"
        if isinstance(error, FileNotFoundError):
            present = ", ".join(sorted(str(device) for device in Path("/dev").glob("video*")))
            return f"cameras of this machine: {present or 'none'}"
        return "is another program using it?"
    if isinstance(error, av.error.ProtocolNotFoundError):
        return f"this FFmpeg does not speak {source.address.partition(':')[0]}; others are {', '.join(SCHEMES)}"
    if isinstance(error, av.error.InvalidDataError):
        return "what it sends is no video that FFmpeg knows"
    return "check the address, and that the server is running and sends"
