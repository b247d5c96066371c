from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys

import pytest

from emim.distributed import broadcast, first_process_logger, is_first, launcher, plan_processes, process_rank
from emim.errors import ConfigError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "3", "LOCAL_RANK": "1"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*TORCHRUN, *SLURM, "SLURM_JOB_NAME", "NODE_RANK", "GROUP_RANK"}:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "started_by", "rank"),
    [
        ({}, "trainer", 0),
        ({"LOCAL_RANK": "1"}, "trainer", 1),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, "trainer", 1),  # the first process of the second machine
        (TORCHRUN, "torchrun", 3),
        ({**TORCHRUN, "RANK": "0"}, "torchrun", 0),
        (SLURM, "slurm", 2),
        ({**SLURM, "SLURM_PROCID": "0"}, "slurm", 0),
        ({**SLURM, "SLURM_JOB_NAME": "bash"}, "trainer", 0),  # a shell on a cluster
        ({**SLURM, **TORCHRUN}, "torchrun", 3),
    ],
)
def test_the_launcher_and_the_rank(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], started_by: str, rank: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launcher() == started_by
    assert process_rank() == rank
    assert is_first() == (rank == 0)


def test_the_processes_are_those_that_were_started(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = plan_processes("auto", accelerator="cpu")
    assert (alone.devices, alone.nodes, alone.world, str(alone)) == (1, 1, 1, "CPU")
    assert str(plan_processes(2, 3, "cpu")) == "2 processes on each of 3 machines, CPU"
    for variables in (SLURM, TORCHRUN):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        started = plan_processes("auto", accelerator="cpu")
        assert (started.devices, started.nodes, started.world) == (2, 2, 4)
        with pytest.raises(ConfigError, match="devices=3, but the launcher started 2 processes on this machine"):
            plan_processes(3, accelerator="cpu")


def test_values_cannot_reach_machines_that_the_trainer_has_not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMIM_TEST_VALUE", raising=False)
    monkeypatch.setenv("NODE_RANK", "1")
    with pytest.raises(ConfigError, match="started with torchrun or Slurm"):
        broadcast("EMIM_TEST_VALUE", None)
    monkeypatch.setenv("EMIM_TEST_VALUE", "7")  # as a copy of the command that the trainer started
    assert broadcast("EMIM_TEST_VALUE", None) == "7"


def test_only_the_first_process_logs_progress(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    logger = first_process_logger("emim.test")
    assert first_process_logger("emim.test") is logger
    logger.info("from the first")
    monkeypatch.setenv("LOCAL_RANK", "1")
    logger.info("from the second")
    logger.warning("a warning from the second")
    assert caplog.messages == ["from the first", "a warning from the second"]


def test_it_is_light() -> None:
    code = "import sys, emim.distributed as d; d.process_rank(); assert not {'torch', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


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
