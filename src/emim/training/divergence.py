"""Diagnose a NaN or infinite loss: the first bad layer, the clips of the batch, and a dump of batch and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from emim.errors import EmimError
from emim.utils import atomic_write, write_json

__all__ = ["DivergedError", "Divergence", "diverged", "dump", "first_bad_layer"]


class DivergedError(EmimError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class Divergence:
    """A training step with a NaN or infinite loss.

    Attributes:
        loss: NaN or an infinity.
        step: optimiser steps done before.
        epoch: from 0.
        layer: first layer with a NaN or infinite result, or another cause, in words.
        clips: the clips of the batch.
        process: rank of the process that had the batch.
    """

    loss: float
    step: int
    epoch: int
    layer: str
    clips: tuple[Path, ...]
    process: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "loss": str(self.loss),
            "step": self.step,
            "epoch": self.epoch,
            "layer": self.layer,
            "clips": [str(path) for path in self.clips],
            "process": self.process,
        }


def first_bad_layer(model: nn.Module, clip_BCTHW: Tensor, target_BK: Tensor) -> str:
    """Describe the first NaN or infinite values: in the inputs, the parameters, or the result of a layer.

    Runs the network once more on the same batch, in its present mode and precision.
    """
    if not torch.isfinite(clip_BCTHW).all():
        return "the input clips"
    if not torch.isfinite(target_BK).all():
        return "the targets"
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"{name} (a parameter, so an earlier step diverged)"
    found: list[str] = []
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: _note(found, name, out))
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            model(clip_BCTHW)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "the loss alone: every layer's result is finite"


def dump(folder: Path, divergence: Divergence, clip_BCTHW: Tensor, target_BK: Tensor, model: nn.Module | None) -> Path:
    """Write the batch, the weights and a description into a new folder within `folder`.

    Returns:
        That folder: `batch.safetensors` (clip, target), `weights.safetensors` (if there is a model),
        `divergence.json`.
    """
    # Several processes may diverge in the same step, each on clips of its own.
    own = f"-process-{divergence.process}" if divergence.process else ""
    where = folder / f"diverged-step-{divergence.step}{own}"
    batch = {"clip": clip_BCTHW.detach().cpu().contiguous(), "target": target_BK.detach().cpu().contiguous()}
    parts = {"batch": batch}
    if model is not None:
        parts["weights"] = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    for name, tensors in parts.items():
        with atomic_write(where / f"{name}.safetensors") as temporary:
            save_file(tensors, temporary)
    write_json(where / "divergence.json", divergence.to_dict())
    return where


def diverged(divergence: Divergence, where: Path) -> DivergedError:
    """Return the error that stops the run."""
    return DivergedError(
        f"the loss is {divergence.loss} at step {divergence.step} (epoch {divergence.epoch}); first bad layer: "
        f"{divergence.layer}; clips: {_listed(divergence.clips)}. Batch and weights are in {where}. "
        "A lower optim.lr, a longer optim.warmup_epochs or trainer.precision=32-true usually helps"
    )


def _note(found: list[str], name: str, out: Any) -> None:
    if not found and isinstance(out, Tensor) and not torch.isfinite(out).all():
        found.append(name or "the network's result")


def _listed(clips: Sequence[Path]) -> str:
    shown = ", ".join(str(path) for path in clips[:4])
    return shown if len(clips) <= 4 else f"{shown} and {len(clips) - 4} more"
