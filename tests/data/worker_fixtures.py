"""What the worker processes of tests do. A module of its own, so that they start without importing the tests."""

from __future__ import annotations

import os
import signal
import time


def work(item: str) -> str:
    """Return the item in capitals; some names misbehave instead."""
    if item == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "leave":
        os._exit(7)
    if item == "hang":
        time.sleep(600)
    if item == "spin":
        while True:
            pass
    if item == "gigabytes":
        bytearray(4 << 30)
    return item.upper()


def limit_processor_and_spin(item: str) -> str:
    """Use up the processor time that `Limits` allow within a second, whatever the clock says."""
    from emim.isolation import Limits

    Limits(seconds=0.5).impose()
    return work("spin" if item else item)
