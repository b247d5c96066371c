"""Load weights into a network, and report what happened to each of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from emim.errors import CheckpointError
from emim.models.tensor_file import TensorFile, read_tensor_file

__all__ = [
    "MIN_COVERAGE",
    "LoadReport",
    "check_fit",
    "load_all_weights",
    "load_checkpoint",
    "load_weights",
    "log_report",
]

_log = logging.getLogger(__name__)

MIN_COVERAGE: Final = 0.8
"""Least share of a network's values that a checkpoint must hold, where the caller gives none."""

_MAX_LISTED: Final = 12


@dataclass(frozen=True)
class LoadReport:
    """The result of loading a checkpoint, by name of the network's parameter or buffer.

    Attributes:
        path: the checkpoint.
        matched: loaded as they are.
        inflated: 2-D kernels repeated over time.
        skipped: in both, but not loaded, with the reason.
        missing: in the network only; they keep their values.
        unexpected: in the checkpoint only.
        coverage: share of the network's values (numbers, not names) that came from the checkpoint.
    """

    path: Path
    matched: tuple[str, ...]
    inflated: tuple[str, ...]
    skipped: Mapping[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    coverage: float

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.coverage:.1%} of the network's values loaded "
            f"({len(self.matched)} matched, {len(self.inflated)} inflated, {len(self.skipped)} skipped, "
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected)"
        ]
        lines += _listing("inflated", self.inflated)
        lines += _listing("skipped", [f"{name}: {why}" for name, why in self.skipped.items()])
        lines += _listing("missing", self.missing)
        lines += _listing("unexpected", self.unexpected)
        return "\n".join(lines)


@dataclass
class _Plan:
    values: dict[str, Tensor] = field(default_factory=dict)
    matched: list[str] = field(default_factory=list)
    inflated: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def load_checkpoint(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    min_coverage: float = MIN_COVERAGE,
    verbose: bool = True,
) -> LoadReport:
    """Load weights by name, inflate 2-D kernels, and report.

    Takes safetensors, and `.pth` / `.pt` files with the weights bare or under `model`, `model_state`,
    `state_dict` or `module`, with or without a `module.` prefix. A file cannot run code
    (see `emim.models.tensor_file`). A 2-D kernel [o, i, h, w] is repeated over the T frames of the network's kernel
    [o, i, T, h, w] and divided by T. A head of another class count is skipped.

    Args:
        model: network to fill; unchanged if an error is raised.
        path: the checkpoint.
        min_coverage: least share of the network's values that must come from the checkpoint. The head is
            left out of account where it was skipped for its class count.
        verbose: log the report (`log_report`).

    Raises:
        CheckpointError: the file is missing, unreadable, would run code, holds weights of another type, NaN, infinities
            or negative variances, or covers too little of the network.
    """
    report = load_weights(model, read_tensor_file(Path(path)), min_coverage=min_coverage)
    if verbose:
        log_report(report)
    return report


def log_report(report: LoadReport) -> None:
    """Log a report: as a warning where something is skipped, missing or unexpected, else as information."""
    complete = not (report.skipped or report.missing or report.unexpected)
    _log.log(logging.INFO if complete else logging.WARNING, "%s", report)


def load_weights(model: nn.Module, file: TensorFile, *, min_coverage: float) -> LoadReport:
    """Load the weights of a file that has been read; see `load_checkpoint`."""
    path, tensors = file.path, file.tensors
    targets = model.state_dict()
    plan = _plan(path, targets, tensors)
    head_skipped = {name for name in plan.skipped if _is_head(name)}
    counted = {name: value.numel() for name, value in targets.items() if name not in head_skipped}
    report = LoadReport(
        path=path,
        matched=tuple(plan.matched),
        inflated=tuple(plan.inflated),
        skipped=plan.skipped,
        missing=tuple(name for name in targets if name not in tensors),
        unexpected=tuple(name for name in tensors if name not in targets),
        coverage=sum(counted[name] for name in plan.values) / sum(counted.values()),
    )
    if report.coverage < min_coverage:
        raise CheckpointError(
            f"{path} does not fit the network: it covers {report.coverage:.1%} of its values, "
            f"{min_coverage:.0%} are needed. Is it a checkpoint of another network?\n{report}"
        )
    model.load_state_dict(plan.values, strict=False)
    return report


def check_fit(path: Path, targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless weights have exactly the names, the shapes and the kind of types of a network's.

    Args:
        path: file to name in the error.
        targets: the network's `state_dict()`; tensors on the meta device will do.
        tensors: the weights.
    """
    for name, target in targets.items():
        if name not in tensors:
            raise CheckpointError(f"{path}: {name} is missing, {list(target.shape)} in the network")
        if tensors[name].shape != target.shape:
            raise CheckpointError(
                f"{path}: {name} has the shape {list(tensors[name].shape)}, {list(target.shape)} in the network"
            )
        _check_type(path, name, tensors[name], target)
    for name in tensors:
        if name not in targets:
            raise CheckpointError(f"{path}: {name[:200]} is no weight of the network")


def load_all_weights(model: nn.Module, path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Load all weights of a network; `check_fit` has been asked.

    Raises:
        CheckpointError: a weight is NaN or infinite, or a variance negative.
    """
    for name, value in tensors.items():
        _check_values(path, name, value)
    model.load_state_dict(dict(tensors))


def _check_type(path: Path, name: str, source: Tensor, target: Tensor) -> None:
    if source.is_floating_point() != target.is_floating_point():
        raise CheckpointError(f"{path}: {name} has values of type {source.dtype}, {target.dtype} in the network")


def _check_values(path: Path, name: str, source: Tensor) -> None:
    if source.is_floating_point() and not source.isfinite().all():
        raise CheckpointError(f"{path}: {name} holds NaN or Inf in this checkpoint; it cannot be used")
    if name.endswith("running_var") and source.numel() and (least := source.min().item()) < 0:
        raise CheckpointError(f"{path}: {name} is a variance, but holds {least:g}; it cannot be used")


def _plan(path: Path, targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> _Plan:
    plan = _Plan()
    for name, target in targets.items():
        if name not in tensors:
            continue
        source = tensors[name]
        _check_type(path, name, source, target)
        if source.shape == target.shape:
            plan.values[name] = source
            plan.matched.append(name)
        elif _is_flat_kernel(source, target):
            frames = target.shape[2]
            plan.values[name] = (source / frames).unsqueeze(2).expand(target.shape)
            plan.inflated.append(name)
        elif _is_head(name) and source.dim() == target.dim():
            plan.skipped[name] = f"{source.shape[0]} classes there, {target.shape[0]} here"
        else:
            plan.skipped[name] = f"shape {list(source.shape)} there, {list(target.shape)} here"
        if name in plan.values:
            _check_values(path, name, source)
    return plan


def _is_head(name: str) -> bool:
    return name.split(".")[0] == "head"


def _is_flat_kernel(source: Tensor, target: Tensor) -> bool:
    return (
        source.dim() == 4
        and target.dim() == 5
        and (source.shape[:2], source.shape[2:]) == (target.shape[:2], target.shape[3:])
    )


def _listing(title: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    rest = len(names) - _MAX_LISTED
    shown = [f"    {name}" for name in names[:_MAX_LISTED]]
    return [f"  {title}:", *shown, *([f"    and {rest} more"] if rest > 0 else [])]
