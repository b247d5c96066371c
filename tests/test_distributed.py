from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

# Two machines of one process each, on this one: they find each other, and one ends too early.
MACHINE = """
import os
from emim.errors import ProcessError
from emim.distributed import plan_processes, process_group

with process_group(plan_processes(devices=1, nodes=2, accelerator="cpu")) as members:
    print(members.rank, members.world, members.gather("abc"[members.rank]))
    if members.rank == 1:
        os._exit(0)
    try:
        members.gather("d")
    except ProcessError as error:
        print(error)
        os._exit(0)
"""


@pytest.mark.slow
def test_a_team_gathers_in_the_first_process_and_notices_one_that_has_ended() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", MACHINE],
            env={**shared, "NODE_RANK": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    )
    out, err = first.communicate(timeout=120)
    second_out, second_err = second.communicate(timeout=120)
    assert second_out == "1 2 None\n", second_err
    gathered, told = out.splitlines() or (err, "")
    assert gathered == "0 2 ['a', 'b']"
    assert told == "another of the 2 processes has ended or does not answer; its own message says why"
