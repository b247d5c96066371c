"""Why a request gets no prediction."""

from __future__ import annotations

from emim.errors import EmimError


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
