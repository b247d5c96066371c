"""What a live source is: a camera, an address in the network, or a file that is played in real time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from emim.errors import SourceError

Kind = Literal["camera", "file", "url"]

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "tcp", "udp", "rtp", "srt")
"""What an address may begin with; which of them work depends on how FFmpeg was built."""


@dataclass(frozen=True)
class Source:
    """Where frames come from.

    Attributes:
        kind: a camera of this machine, a file, or an address in the network.
        address: number or device path of the camera, path of the file, or the address.
        name: `address` as it may be shown: without a password.
    """

    kind: Kind
    address: str
    name: str


def parse_source(text: str) -> Source:
    """A number or /dev/video... is a camera, what has a scheme (rtsp://...) an address, and anything else a file.

    Raises:
        SourceError: an address of a scheme that is not in `SCHEMES`.
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
    """An address with stars in place of user name and password."""
    try:
        netloc = urlsplit(address).netloc
    except ValueError:
        return address
    credentials, at, host = netloc.rpartition("@")
    if not at:
        return address
    return address.replace(f"{credentials}@{host}", f"***@{host}", 1)
