"""How a benchmark is run, and what the record says of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

from emim.environment import describe_machine
from emim.errors import ConfigError

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Number formats by the names of the command line."""

_PEER_PACKAGES = ("triton", "natten", "transformers")
# What decides how fast a CPU multiplies matrices.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_fp16", "sve", "bf16")


@dataclass(frozen=True)
class Settings:
    """How often, with how many threads and where.

    Attributes:
        repeats: rounds that count.
        warmup: rounds before them that do not.
        threads: CPU threads of one operation.
        device: "cpu", or a CUDA device such as "cuda".

    Raises:
        ConfigError: a value is out of range, or the device is not there.
    """

    repeats: int
    warmup: int
    threads: int
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.warmup < 0 or self.threads < 1:
            raise ConfigError(
                f"repeats ({self.repeats}) and threads ({self.threads}) must be at least 1, warm-up ({self.warmup}) at "
                "least 0"
            )
        try:
            kind = torch.device(self.device).type
        except RuntimeError:
            kind = ""
        if kind not in ("cpu", "cuda"):
            raise ConfigError(f"device {self.device!r}: known are cpu and cuda, cuda:0 and so on")
        if kind == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device {self.device!r}: PyTorch finds no GPU here; take cpu")

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block this many threads are used; random draws start from the same seed, and leave no trace."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.random.fork_rng(devices=[self.device] if self.on_gpu else []):
                torch.manual_seed(0)
                yield
        finally:
            torch.set_num_threads(before)

    def finish(self) -> None:
        """Wait until the device has done all that it was given: times would be of the launch otherwise."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


def surroundings(settings: Settings) -> dict[str, Any]:
    """Settings, machine and versions for the record beside figures; plain values for JSON."""
    return {
        "settings": dataclasses.asdict(settings),
        "machine": describe_machine().to_dict(),
        "instructions": sorted(cpu_instructions() & set(_INSTRUCTIONS)),
        "peers": {name: version for name in _PEER_PACKAGES if (version := version_of(name)) is not None},
    }


def version_of(package: str) -> str | None:
    """Installed version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def native_bfloat16(settings: Settings) -> bool:
    """Whether the device multiplies bfloat16 matrices itself, instead of by way of float32."""
    if settings.on_gpu:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return not cpu_instructions().isdisjoint(("amx_bf16", "avx512_bf16", "bf16"))


def cpu_instructions() -> set[str]:
    """Instruction sets by the names of /proc/cpuinfo; empty where there is no such file."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return set()
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return set(line[1].split()) if line else set()
