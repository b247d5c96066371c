"""The small trained network that comes with the package."""

from __future__ import annotations

from pathlib import Path

from emim.errors import CheckpointError

BUNDLED = "bundled"
"""The name that stands for the file wherever a checkpoint is asked for."""

BUNDLED_PATH = Path(__file__).resolve().parents[1] / "weights" / "motion_tiny.safetensors"
"""Trained on generated motion clips by the recipe `motion`; eleven classes of motion."""


def resolve_checkpoint(checkpoint: str | Path | None) -> Path:
    """The file of a checkpoint; None or "bundled" is the one that comes with the package."""
    if checkpoint is None or str(checkpoint) == BUNDLED:
        if not BUNDLED_PATH.is_file():
            raise CheckpointError(f"{BUNDLED_PATH}: the bundled weights are missing; run `make weights`")
        return BUNDLED_PATH
    return Path(checkpoint)
