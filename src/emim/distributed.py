"""Several processes, one run: who this process is before the trainer starts, and what all must agree on.

Processes come from torchrun or Slurm, which start all of them, or from the trainer itself, which starts the others
as copies of this command.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeVar, cast

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy

from emim.errors import ConfigError, ProcessError

_TIMEOUT = timedelta(minutes=10)
"""How long a team waits for one of its processes. One that has ended is noticed at once, through its connection; this
is for a machine that has lost its network, and must be longer than any batch."""

T = TypeVar("T")


def environment() -> ClusterEnvironment:
    """What started the processes of this run."""
    for kind in (TorchElasticEnvironment, SLURMEnvironment):
        if kind.detect():
            return kind()
    return LightningEnvironment()


def is_first() -> bool:
    """Whether this is the process that writes files and talks; works before the trainer has started."""
    env = environment()
    if isinstance(env, LightningEnvironment):
        return int(os.environ.get("NODE_RANK", "0")) == 0 and env.local_rank() == 0
    return env.global_rank() == 0


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        devices: processes on each machine, one for each device.
        nodes: machines.
        device: the one of this process.
    """

    devices: int
    nodes: int
    device: torch.device

    @property
    def world(self) -> int:
        """Processes in all."""
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
    """What the launcher started, else what is asked for.

    Args:
        devices: processes per machine; "auto" is one for each GPU, or one.
        nodes: machines.
        accelerator: "auto" takes GPUs where there are any.

    Raises:
        ConfigError: the launcher started another number than was asked for, or there are not that many GPUs.
    """
    env = environment()
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda", env.local_rank()) if gpu else torch.device("cpu")
    if accelerator == "gpu" and not gpu:
        raise ConfigError("GPUs were asked for, but PyTorch finds none; leave the accelerator at auto, or take cpu")
    if isinstance(env, LightningEnvironment):
        every = torch.cuda.device_count() if gpu else 1
        if gpu and devices != "auto" and devices > every:
            raise ConfigError(f"{devices} devices were asked for, but this machine has {every} GPUs")
        return Processes(every if devices == "auto" else devices, nodes, device)
    world = env.world_size()
    if isinstance(env, TorchElasticEnvironment):
        started = int(os.environ["LOCAL_WORLD_SIZE"])
    else:
        started = world // int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    if devices not in ("auto", started):
        raise ConfigError(
            f"{devices} devices were asked for, but the launcher started {started} processes on this machine; "
            "leave the number of devices at auto under torchrun and Slurm"
        )
    return Processes(started, world // started, device)


def broadcast(name: str, value: str | None) -> str:
    """The first process's value, in all processes.

    Args:
        name: environment variable that carries it to processes which the trainer starts.
        value: in the first process the value; None in the others.

    Raises:
        ConfigError: this process cannot hear of it.
    """
    env = environment()
    if isinstance(env, LightningEnvironment):
        # The trainer starts the other processes of this machine later, with this process's environment.
        if value is not None:
            os.environ[name] = value
        elif name not in os.environ:
            raise ConfigError("runs on several machines are started with torchrun or Slurm; see docs/scaling.md")
        return os.environ[name]
    if env.world_size() == 1:
        assert value is not None
        return value
    _join(env)
    shared = [value]
    dist.broadcast_object_list(shared, src=0, device=torch.device("cpu"))
    return str(shared[0])


def _join(env: ClusterEnvironment) -> None:
    """Start the process group; a trainer uses it then."""
    if dist.is_initialized():
        return
    os.environ["MASTER_ADDR"] = env.main_address
    os.environ["MASTER_PORT"] = str(env.main_port)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, rank=env.global_rank(), world_size=env.world_size())


@dataclass(frozen=True)
class ProcessGroup:
    """Processes that share a job and hand what they find to the first one.

    Attributes:
        rank: number of this process, from 0.
        world: how many there are.
    """

    rank: int
    world: int

    def gather(self, item: T) -> list[T] | None:
        """Every process's item, by rank, in the first process; None in the others. All must call it.

        Raises:
            ProcessError: one of the processes has ended, or has not come for ten minutes.
        """
        if self.world == 1:
            return [item]
        items: list[T | None] | None = [None] * self.world if self.rank == 0 else None
        try:
            dist.gather_object(item, items, dst=0)
        except RuntimeError as error:  # gloo has no error of its own for it
            raise ProcessError(
                f"another of the {self.world} processes has ended or does not answer; its own message says why"
            ) from error
        return cast("list[T] | None", items)


SINGLE_PROCESS = ProcessGroup(0, 1)
"""This process by itself."""


@contextmanager
def process_group(processes: Processes) -> Iterator[ProcessGroup]:
    """The processes of a processes, joined: those that torchrun or Slurm started, else copies of this command.

    They talk over the CPU, so that they need nothing of the GPUs. The copies start from the command's beginning, and
    come here too: what lies before is done by each of them.

    Raises:
        ConfigError: several machines, and nothing says which one this is.
        ProcessError: the processes do not find each other.
    """
    if processes.world == 1:
        yield SINGLE_PROCESS
        return
    env = environment()
    if processes.nodes > 1 and isinstance(env, LightningEnvironment):
        unset = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if unset:
            raise ConfigError(
                f"{processes.nodes} machines: start the command with torchrun or Slurm, or set {', '.join(unset)}"
            )
    # Banners; the last one speaks for Fabric, too, once both are imported.
    for name in ("lightning.fabric", "lightning.fabric.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    fabric = Fabric(
        accelerator="gpu" if processes.device.type == "cuda" else "cpu",
        devices=processes.devices,
        num_nodes=processes.nodes,
        strategy=DDPStrategy(process_group_backend="gloo", timeout=_TIMEOUT),
        plugins=[env],
    )
    try:
        fabric.launch()
    except dist.DistError as error:
        raise ProcessError(f"the {processes.world} processes did not find each other ({error})") from error
    yield ProcessGroup(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()
