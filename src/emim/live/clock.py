"""When the packets of a stream should be here, by their time stamps."""

from __future__ import annotations

JUMP = 2.0
"""Seconds by which time stamps may go forwards from one to the next; more is a break in the stream."""
BACK = 1.0
"""Seconds by which they may go back without that."""
_DRIFT = 1e-3  # seconds in a second that the source's clock may be slower than ours


class StreamClock:
    """Tells on our clock when each packet was due, which shows how late it is read.

    Of frames that are there at once (a file), the first is due now and the others follow by their time stamps. Of those
    that come by themselves, the one with the least delay so far sets the clock: time in buffers on the way, which
    builds up where reading is too slow, thus counts as being late. A clock of the source that is slower than ours by
    up to 0.1 % does not.

    Args:
        paced: whether the frames are there at once.
    """

    def __init__(self, *, paced: bool) -> None:
        self._paced = paced
        self._origin: float | None = None  # of the time stamps, on our clock
        self._stamp = 0.0
        self._now = 0.0

    def due(self, stamp: float | None, now: float) -> float:
        """When a packet was or will be due; `now` where it has no time stamp.

        Args:
            stamp: its time stamp in seconds, in the order of decoding.
            now: when it was read.
        """
        if stamp is None:
            return now
        broken = not -BACK <= stamp - self._stamp <= JUMP
        if self._origin is None or broken:
            self._origin = now - stamp
        elif not self._paced:
            drifted = self._origin + _DRIFT * (now - self._now)
            self._origin = min(drifted, now - stamp)
        self._stamp, self._now = stamp, now
        return self._origin + stamp
