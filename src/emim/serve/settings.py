"""Limits of the server, and the error that refuses a request."""

from __future__ import annotations

from dataclasses import dataclass

from emim.errors import EmimError
from emim.isolation import Limits

__all__ = ["Refusal", "Settings"]


class Refusal(EmimError):  # noqa: N818 - it is the answer, not a failure of the server
    """A request that is refused.

    Attributes:
        status: HTTP status.
        reason: a sentence for the sender.
    """

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)

    def __reduce__(self) -> tuple[type[Refusal], tuple[int, str]]:
        return type(self), (self.status, self.reason)


_MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Limits of the server.

    Attributes:
        max_mb: size of an upload, in MiB.
        max_seconds: duration of a video.
        header_seconds: time for the headers of a request to arrive.
        upload_seconds: time for an upload to arrive.
        min_rate: bytes a second below which an upload is refused, after its first ten seconds.
        max_connections: open connections; further requests are answered with status 503.
        read_seconds: time for decoding a video.
        read_mb: memory for decoding a video, in MiB.
        readers: videos decoded at the same time.
        waiting: requests that wait besides the one that the network works on.
        overlay_seconds: duration of the motion overlay, from the start of a video.
        keep_seconds: time for which pictures can be fetched.
        keep_results: number of results whose pictures are kept.
    """

    max_mb: int = 200
    max_seconds: float = 60.0
    header_seconds: float = 10.0
    upload_seconds: float = 300.0
    min_rate: int = 4 << 10
    max_connections: int = 256
    read_seconds: float = 60.0
    read_mb: int = 2048
    readers: int = 2
    waiting: int = 32
    overlay_seconds: float = 10.0
    keep_seconds: float = 300.0
    keep_results: int = 32

    @property
    def max_bytes(self) -> int:
        """Maximum size of an upload in bytes."""
        return self.max_mb * _MIB

    @property
    def reading(self) -> Limits:
        """Limits of the process that decodes a video."""
        return Limits(seconds=self.read_seconds, memory=self.read_mb * _MIB, file_size=512 * _MIB)
