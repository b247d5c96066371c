"""The processes of a job: their number and devices, values that all must agree on, and gathering of results.

The processes are started by torchrun or Slurm, or by the trainer, which starts copies of this command. Lightning is
imported only by the functions that need it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from emim.environment import resolve_device
from emim.errors import ConfigError, ProcessError

if TYPE_CHECKING:
    import torch
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

__all__ = [
    "SINGLE_PROCESS",
    "ProcessGroup",
    "Processes",
    "broadcast",
    "first_process_logger",
    "is_first",
    "launcher",
    "plan_processes",
    "process_group",
    "process_rank",
]

Launcher = Literal["torchrun", "slurm", "trainer"]

_TIMEOUT = timedelta(minutes=10)
"""Longest wait for another process. A process that has ended is noticed at once, through its connection; this limit is
for a machine that has lost its network, and must be longer than any batch takes."""

T = TypeVar("T")


def launcher() -> Launcher:
    """Return the program that starts the processes of this job.

    An interactive Slurm shell (job name bash or interactive) does not count as Slurm.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return "slurm" if "SLURM_NTASKS" in os.environ and not interactive else "trainer"


def process_rank() -> int:
    """Return the number of this process among those of the job, from 0.

    Works at any time and without importing torch. Before the trainer has connected processes that it started itself
    on several machines, a number above 0 need not be the final one.
    """
    connected = sys.modules.get("torch.distributed")
    if connected is not None and connected.is_available() and connected.is_initialized():
        return int(connected.get_rank())
    started_by = launcher()
    if started_by == "torchrun":
        return int(os.environ["RANK"])
    if started_by == "slurm":
        return int(os.environ["SLURM_PROCID"])
    node = int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0")))
    return node + int(os.environ.get("LOCAL_RANK", "0"))


def is_first() -> bool:
    """Return True in the process that writes files and logs progress."""
    return process_rank() == 0


def first_process_logger(name: str) -> logging.Logger:
    """Return the logger of that name; messages up to level INFO are dropped in all processes but the first."""
    logger = logging.getLogger(name)
    if _from_first_process not in logger.filters:
        logger.addFilter(_from_first_process)
    return logger


def _from_first_process(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or is_first()


@dataclass(frozen=True)
class Processes:
    """The processes of a job.

    Attributes:
        devices: processes on each machine, one for each device.
        nodes: machines.
        device: device of this process.
    """

    devices: int
    nodes: int
    device: torch.device

    @property
    def world(self) -> int:
        """Number of processes on all machines."""
        return self.devices * self.nodes

    def __str__(self) -> str:
        kind = "GPU" if self.device.type == "cuda" else self.device.type.upper()
        if self.world == 1:
            return kind
        machines = f" on each of {self.nodes} machines" if self.nodes > 1 else ""
        return f"{self.devices} process{'es' * (self.devices > 1)}{machines}, {kind}"


def plan_processes(
    devices: int | Literal["auto"], nodes: int = 1, accelerator: Literal["auto", "cpu", "gpu"] = "auto"
) -> Processes:
    """Return the processes that the launcher started, else those asked for.

    Args:
        devices: processes per machine; "auto" is one for each GPU, or one on the CPU.
        nodes: machines.
        accelerator: "auto" uses GPUs if there are any.

    Raises:
        ConfigError: the launcher started another number than asked for, or there are not that many GPUs.
    """
    import torch

    started_by = launcher()
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("accelerator=gpu, but PyTorch finds no GPU; use auto or cpu")
    device = resolve_device("cpu" if accelerator == "cpu" else "auto")
    gpu = device.type == "cuda"
    if gpu:
        local_rank = os.environ.get("SLURM_LOCALID" if started_by == "slurm" else "LOCAL_RANK", "0")
        device = torch.device("cuda", int(local_rank))
    if started_by == "trainer":
        every = torch.cuda.device_count() if gpu else 1
        if gpu and devices != "auto" and devices > every:
            raise ConfigError(f"devices={devices}, but this machine has {every} GPUs")
        return Processes(every if devices == "auto" else devices, nodes, device)
    if started_by == "torchrun":
        world, started = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    else:
        world = int(os.environ["SLURM_NTASKS"])
        started = world // int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    if devices not in ("auto", started):
        raise ConfigError(
            f"devices={devices}, but the launcher started {started} processes on this machine; "
            "leave the number of devices at auto under torchrun and Slurm"
        )
    return Processes(started, world // started, device)


def broadcast(name: str, value: str | None) -> str:
    """Return the value of the first process, in all processes.

    Args:
        name: environment variable that carries the value to processes which the trainer starts.
        value: the value in the first process; None in the others.

    Raises:
        ConfigError: the trainer starts the processes of several machines, so the value cannot be sent yet.
    """
    if launcher() == "trainer":
        # The trainer starts the other processes of this machine later, with this process's environment.
        if value is not None:
            os.environ[name] = value
        elif name not in os.environ:
            raise ConfigError("runs on several machines are started with torchrun or Slurm; see docs/guides/scaling.md")
        return os.environ[name]
    env = _environment()
    if env.world_size() == 1:
        assert value is not None
        return value
    import torch
    import torch.distributed as dist

    _connect(env)
    shared = [value]
    dist.broadcast_object_list(shared, src=0, device=torch.device("cpu"))
    return str(shared[0])


def _environment() -> ClusterEnvironment:
    """Return Lightning's view of the launcher."""
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    kinds: dict[Launcher, type[ClusterEnvironment]] = {
        "torchrun": TorchElasticEnvironment,
        "slurm": SLURMEnvironment,
        "trainer": LightningEnvironment,
    }
    return kinds[launcher()]()


def _connect(env: ClusterEnvironment) -> None:
    """Start the process group, which the trainer then uses."""
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    os.environ["MASTER_ADDR"] = env.main_address
    os.environ["MASTER_PORT"] = str(env.main_port)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, rank=env.global_rank(), world_size=env.world_size())


@dataclass(frozen=True)
class ProcessGroup:
    """Processes that share a job and hand their results to the first one.

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.
    """

    rank: int
    world: int

    def gather(self, item: T) -> list[T] | None:
        """Return the items of all processes by rank, in the first process; None in the others. All must call it.

        Raises:
            ProcessError: another process has ended, or has not answered for ten minutes.
        """
        if self.world == 1:
            return [item]
        import torch.distributed as dist

        items: list[T | None] | None = [None] * self.world if self.rank == 0 else None
        try:
            dist.gather_object(item, items, dst=0)
        except RuntimeError as error:  # gloo has no error of its own for it
            raise ProcessError(
                f"another of the {self.world} processes has ended or does not answer; its own message says why"
            ) from error
        return cast("list[T] | None", items)


SINGLE_PROCESS = ProcessGroup(0, 1)
"""This process alone."""


@contextmanager
def process_group(processes: Processes) -> Iterator[ProcessGroup]:
    """Connect the processes of a job: those that torchrun or Slurm started, else copies of this command.

    They communicate over the CPU, so the GPUs stay free. Each copy runs the command from its beginning, so everything
    before this call is done by each of them.

    Raises:
        ConfigError: several machines, but the number of this one is not known.
        ProcessError: the processes cannot connect to each other.
    """
    if processes.world == 1:
        yield SINGLE_PROCESS
        return
    import torch.distributed as dist
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy

    if processes.nodes > 1 and launcher() == "trainer":
        unset = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if unset:
            raise ConfigError(
                f"{processes.nodes} machines: start the command with torchrun or Slurm, or set {', '.join(unset)}"
            )
    # Silences banners. The last name is Fabric's logger, too, once both packages are imported.
    for name in ("lightning.fabric", "lightning.fabric.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    fabric = Fabric(
        accelerator="gpu" if processes.device.type == "cuda" else "cpu",
        devices=processes.devices,
        num_nodes=processes.nodes,
        strategy=DDPStrategy(process_group_backend="gloo", timeout=_TIMEOUT),
        plugins=[_environment()],
    )
    try:
        fabric.launch()
    except dist.DistError as error:
        raise ProcessError(f"the {processes.world} processes could not connect to each other ({error})") from error
    yield ProcessGroup(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()
