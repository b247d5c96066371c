"""Networks by name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from emim.errors import ConfigError, UnknownNameError
from emim.models.uniformer import UniFormer
from emim.utils import nearest


@dataclass(frozen=True)
class Architecture:
    """A named network: what it is, and the arguments of `UniFormer` that make it."""

    summary: str
    arguments: Mapping[str, Any]


_SMALL: Final = {"depths": (3, 4, 8, 3), "widths": (64, 128, 320, 512)}
_BASE: Final = {"depths": (5, 8, 20, 7), "widths": (64, 128, 320, 512)}
# For small inputs: the attention stages keep tokens twice as fine as the published networks do.
_TINY: Final = {
    "depths": (1, 1, 2, 2),
    "widths": (24, 48, 96, 192),
    "strides": (2, 1, 2),
    "head_width": 32,
    "mlp_ratio": 3.0,
}

ARCHITECTURES: Final[Mapping[str, Architecture]] = MappingProxyType(
    {
        "uniformer_small": Architecture("UniFormer-S, as published", {**_SMALL, "emim": False}),
        "uniformer_small_emim": Architecture("UniFormer-S with EMIM, as published", {**_SMALL, "emim": True}),
        "uniformer_base": Architecture("UniFormer-B, as published", {**_BASE, "emim": False}),
        "uniformer_base_emim": Architecture("UniFormer-B with EMIM, as published", {**_BASE, "emim": True}),
        "uniformer_tiny": Architecture("our small one for CPUs, plain", {**_TINY, "emim": False}),
        "uniformer_tiny_emim": Architecture(
            "our small one for CPUs, with EMIM", {**_TINY, "emim": True, "motion_start": "correlation"}
        ),
    }
)

DEFAULT_NUM_CLASSES: Final = 400
"""Kinetics-400, where neither the caller nor the checkpoint says otherwise."""


def list_models() -> list[str]:
    """Names that `create_model` knows, sorted."""
    return sorted(ARCHITECTURES)


def create_model(
    name: str,
    num_classes: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    **overrides: Any,
) -> UniFormer:
    """Build a network by name.

    Args:
        name: one of `list_models()`.
        num_classes: classes of the head; by default those of `checkpoint` if it states them, else 400.
        checkpoint: weights to load, through `load_checkpoint` (which prints its report).
        overrides: other arguments of `UniFormer`, such as `stem_stride`, `window` or `drop_path`.

    Raises:
        UnknownNameError: no such network.
        ConfigError: no such argument, or a value that it cannot take.
        CheckpointError: the checkpoint cannot be read or does not fit.
    """
    if name not in ARCHITECTURES:
        raise UnknownNameError(f"no model {name!r}; {nearest(name, ARCHITECTURES)}")
    known = [p for p in inspect.signature(UniFormer.__init__).parameters if p != "self"]
    for key in overrides:
        if key not in known:
            raise ConfigError(f"{name} has no argument {key!r}; {nearest(key, known)}")
    if num_classes is None:
        num_classes = _classes_of(checkpoint) or DEFAULT_NUM_CLASSES
    arguments = {**ARCHITECTURES[name].arguments, **overrides, "num_classes": num_classes}
    try:
        model = UniFormer(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {error}") from error
    if checkpoint is not None:
        from emim.models.checkpoint import load_checkpoint

        load_checkpoint(model, checkpoint)
    return model


def _classes_of(checkpoint: str | os.PathLike[str] | None) -> int | None:
    if checkpoint is None:
        return None
    from emim.models.checkpoint import read_tensors

    head = read_tensors(checkpoint).get("head.weight")
    return None if head is None or head.dim() != 2 else int(head.shape[0])
