"""The machine: the device to compute on, the cores that may be used, and a description beside measurements."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emim.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["Machine", "describe_machine", "let_waiting_threads_sleep", "resolve_device", "usable_cores"]

_PACKAGES = ("emim", "torch", "numpy", "av", "lightning", "pillow", "torchmetrics", "safetensors")
_IN_LINE = _PACKAGES[:4]


@dataclass(frozen=True)
class Machine:
    """Hardware and software that figures were measured on.

    Attributes:
        processor: name of the CPU.
        cores: cores that this process may use.
        gpu: name of the CUDA device, or None.
        system: operating system.
        python: version.
        versions: installed packages by name.
    """

    processor: str
    cores: int
    gpu: str | None
    system: str
    python: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def line(self) -> str:
        """One line for the top of a table."""
        packages = ", ".join(f"{name} {version}" for name, version in self.versions.items() if name in _IN_LINE)
        cores = f"{self.cores} core{'s' * (self.cores != 1)}"
        return f"{self.gpu + ', ' if self.gpu else ''}{cores} of {self.processor}; Python {self.python}, {packages}"


def describe_machine() -> Machine:
    """Describe this machine, for the record beside a measurement."""
    import torch

    return Machine(
        processor=_processor_name(),
        cores=usable_cores(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        system=platform.platform(),
        python=platform.python_version(),
        versions={name: metadata.version(name) for name in _PACKAGES},
    )


def resolve_device(name: str | torch.device | None, *, option: str = "device") -> torch.device:
    """Return the device of that name; "auto" and None stand for the first CUDA GPU if there is one, else the CPU.

    Args:
        name: "auto", "cpu", "cuda" or "cuda:N".
        option: name of the setting, for error messages.

    Raises:
        ConfigError: not such a name, or PyTorch finds no such GPU.
    """
    import torch

    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"{option} must be auto, cpu, cuda or cuda:N, got {str(name)!r}")
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ConfigError(f"{option} {name}: PyTorch finds {gpus or 'no'} GPU{'s' * (gpus != 1)}; use cpu or auto")
    return device


def usable_cores() -> int:
    """Count the cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def let_waiting_threads_sleep() -> None:
    """Let idle OpenMP threads sleep instead of spin. It has an effect only before torch is imported.

    Spinning is a little faster where every thread has a core of its own. Where other processes need the cores, such
    as those that read videos, it makes the network several times slower. An OMP_WAIT_POLICY that is set is kept.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
