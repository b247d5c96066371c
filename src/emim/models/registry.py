"""Create networks by name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from emim.errors import ConfigError, UnknownNameError
from emim.models.checkpoint import MIN_COVERAGE, load_weights, log_report
from emim.models.tensor_file import TensorFile, read_tensor_file
from emim.models.uniformer import UniFormer
from emim.utils import nearest

__all__ = ["ARCHITECTURES", "DEFAULT_NUM_CLASSES", "Architecture", "create_model", "list_models"]


@dataclass(frozen=True)
class Architecture:
    """A named network: a summary, and the arguments of `UniFormer` that make it."""

    summary: str
    arguments: Mapping[str, Any]


_SMALL: Final = {"depths": (3, 4, 8, 3), "widths": (64, 128, 320, 512)}
_BASE: Final = {"depths": (5, 8, 20, 7), "widths": (64, 128, 320, 512)}
# For small inputs: the attention stages have twice as many tokens along each side as the published networks.
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
        "uniformer_tiny": Architecture("small, for CPUs; ours", {**_TINY, "emim": False}),
        "uniformer_tiny_emim": Architecture(
            "small, for CPUs, with EMIM; ours", {**_TINY, "emim": True, "motion_start": "correlation"}
        ),
    }
)

DEFAULT_NUM_CLASSES: Final = 400
"""Number of classes (Kinetics-400) if neither the caller nor the checkpoint gives one."""


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
        checkpoint: weights to load, as `load_checkpoint` does (which logs its report).
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
    file = None if checkpoint is None else read_tensor_file(Path(checkpoint))
    if num_classes is None:
        num_classes = DEFAULT_NUM_CLASSES if file is None else _classes_in(file) or DEFAULT_NUM_CLASSES
    arguments = {**ARCHITECTURES[name].arguments, **overrides, "num_classes": num_classes}
    try:
        model = UniFormer(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {error}") from error
    if file is not None:
        log_report(load_weights(model, file, min_coverage=MIN_COVERAGE))
    return model


def _classes_in(file: TensorFile) -> int | None:
    head = file.tensors.get("head.weight")
    return None if head is None or head.dim() != 2 else int(head.shape[0])
