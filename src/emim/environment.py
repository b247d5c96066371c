"""What the machine and the installed packages are, for the record beside a measurement."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("emim", "torch", "numpy", "av", "lightning", "pillow", "torchmetrics", "safetensors")
_IN_LINE = _PACKAGES[:4]


@dataclass(frozen=True)
class Machine:
    """Where figures were measured.

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
    """The machine that this runs on."""
    import torch

    return Machine(
        processor=_processor_name(),
        cores=usable_cores(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        system=platform.platform(),
        python=platform.python_version(),
        versions={name: metadata.version(name) for name in _PACKAGES},
    )


def usable_cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def let_waiting_threads_sleep() -> None:
    """Have OpenMP's threads sleep, not spin, while they wait; to be called before torch is loaded, after it too late.

    Spinning is a little faster where every thread has a core to itself. Where others want the cores, such as processes
    that read videos, it takes them several times the network's own time. A set OMP_WAIT_POLICY stays.
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
