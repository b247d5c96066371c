"""What the server allows."""

from __future__ import annotations

from dataclasses import dataclass

from emim.errors import EmimError
from emim.isolation import Limits


class Refusal(EmimError):  # noqa: N818 - it is the answer, not a failure of the server
    """A request is refused.

    Attributes:
        status: of HTTP.
        reason: a sentence for the person who asked.
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
    """What the server allows.

    Attributes:
        max_mb: size of an upload, in MiB.
        max_seconds: duration of a video.
        upload_seconds: how long an upload may take.
        read_seconds: how long decoding a video may take.
        read_mb: memory for decoding a video, in MiB.
        readers: videos decoded at a time.
        waiting: requests that wait besides the one that the network is at.
        overlay_seconds: how much of a video is drawn with its motion, from its start.
        keep_seconds: how long pictures can be fetched.
        keep_results: of how many results.
    """

    max_mb: int = 200
    max_seconds: float = 60.0
    upload_seconds: float = 300.0
    read_seconds: float = 60.0
    read_mb: int = 2048
    readers: int = 2
    waiting: int = 32
    overlay_seconds: float = 10.0
    keep_seconds: float = 300.0
    keep_results: int = 32

    @property
    def max_bytes(self) -> int:
        """Of an upload."""
        return self.max_mb * _MIB

    @property
    def reading(self) -> Limits:
        """What decoding a video may take."""
        return Limits(seconds=self.read_seconds, memory=self.read_mb * _MIB, file_size=512 * _MIB)
