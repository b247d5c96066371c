"""Several processes, one run: who this process is before the trainer starts, and what all must agree on.

Processes come from torchrun or Slurm, which start all of them, or from the trainer itself, which starts the others
as copies of this command.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from emim.errors import ConfigError

_FOLDER_VARIABLE = "EMIM_RUN_FOLDER"


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
class Layout:
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
        return f"{self.devices} processes{machines}, {kind}"


def layout(
    devices: int | Literal["auto"], nodes: int = 1, accelerator: Literal["auto", "cpu", "gpu"] = "auto"
) -> Layout:
    """What the launcher started, else what is asked for.

    Args:
        devices: processes per machine; "auto" is one for each GPU, or one.
        nodes: machines.
        accelerator: "auto" takes GPUs where there are any.

    Raises:
        ConfigError: the launcher started another number than was asked for.
    """
    env = environment()
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda", env.local_rank()) if gpu else torch.device("cpu")
    if isinstance(env, LightningEnvironment):
        every = torch.cuda.device_count() if gpu else 1
        return Layout(every if devices == "auto" else devices, nodes, device)
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
    return Layout(started, world // started, device)


def agree_on_folder(folder: Path | None) -> Path:
    """The first process's folder, in all processes.

    Args:
        folder: in the first process the folder; None in the others.

    Raises:
        ConfigError: this process cannot hear of the folder.
    """
    env = environment()
    if isinstance(env, LightningEnvironment):
        # The trainer starts the other processes of this machine later, with this process's environment.
        if folder is not None:
            os.environ[_FOLDER_VARIABLE] = str(folder)
        elif _FOLDER_VARIABLE not in os.environ:
            raise ConfigError("runs on several machines are started with torchrun or Slurm; see docs/scaling.md")
        return Path(os.environ[_FOLDER_VARIABLE])
    if env.world_size() == 1:
        assert folder is not None
        return folder
    _join(env)
    shared: list[str | None] = [None if folder is None else str(folder)]
    dist.broadcast_object_list(shared, src=0, device=torch.device("cpu"))
    return Path(str(shared[0]))


def _join(env: ClusterEnvironment) -> None:
    """Start the process group; a trainer uses it then."""
    if dist.is_initialized():
        return
    os.environ["MASTER_ADDR"] = env.main_address
    os.environ["MASTER_PORT"] = str(env.main_port)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, rank=env.global_rank(), world_size=env.world_size())
