"""What a run writes down about itself: versions, the data it saw, a summary."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch

from emim.data.folder import fingerprint
from emim.data.manifest import ClipList

_PACKAGES = ("emim", "torch", "lightning", "av", "numpy", "pillow", "torchmetrics", "safetensors")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on; needs no version control."""
    found = {name: metadata.version(name) for name in _PACKAGES}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {**found, "python": platform.python_version(), "system": platform.platform(), "device": device}


def data_record(train: ClipList, val: ClipList | None) -> dict[str, Any]:
    """Fingerprints of the clips (hash of the list, counts per class) and where they came from."""
    parts = {"train": train} if val is None else {"train": train, "val": val}
    return {name: {"source": str(part.source), "note": part.note, **fingerprint(part)} for name, part in parts.items()}
