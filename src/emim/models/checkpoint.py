"""Load weights into a network, and say exactly what happened to each of them."""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from emim.errors import CheckpointError

_NESTING_KEYS = ("model", "model_state", "state_dict", "module")
"""Keys under which published checkpoints keep the weights."""

_PREFIXES = ("module.", "model.")
"""Prefixes that wrappers (data parallel, training modules) put before every name."""

_MAX_LISTED = 12


@dataclass(frozen=True)
class LoadReport:
    """What `load_checkpoint` did, by name of the network's parameter or buffer.

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
    min_coverage: float = 0.8,
    verbose: bool = True,
) -> LoadReport:
    """Load weights by name, inflate 2-D kernels, and report.

    Takes safetensors, and `.pth` / `.pt` files with the weights bare or under `model`, `model_state`,
    `state_dict` or `module`, with or without a `module.` prefix. Pickles are read with torch's
    `weights_only=True`, so a file cannot run code. A 2-D kernel [o, i, h, w] is repeated over the T frames
    of the network's kernel [o, i, T, h, w] and divided by T. A head of another class count is skipped.

    Args:
        model: network to fill; unchanged if an error is raised.
        path: the checkpoint.
        min_coverage: least share of the network's values that must come from the checkpoint. The head is
            left out of account where it was skipped for its class count.
        verbose: print the report.

    Raises:
        CheckpointError: the file is missing, unreadable, would run code, holds NaN or Inf, or covers too
            little of the network.
    """
    tensors = read_tensors(path)
    targets = model.state_dict()
    plan = _plan(targets, tensors)
    head_skipped = {name for name in plan.skipped if name.split(".")[0] == "head"}
    counted = {name: value.numel() for name, value in targets.items() if name not in head_skipped}
    report = LoadReport(
        path=Path(path),
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
    if verbose:
        print(report)
    return report


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The weights in a checkpoint by their plain names, on the CPU; nesting and prefixes removed.

    Raises:
        CheckpointError: the file is missing, unreadable, would run code, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for key in _NESTING_KEYS:
        inner = content.get(key)
        if isinstance(inner, Mapping):
            content = inner
            break
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path}: no weights found, neither at the top nor under {', '.join(_NESTING_KEYS)}; "
            f"its keys are {', '.join(map(str, list(content)[:8])) or 'none'}"
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> Mapping[str, object]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _read_pickle(path: Path) -> Mapping[str, object]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of pickle protocols that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        detail = f" (it asks for {asked.group(1)})" if asked else ""
        raise CheckpointError(
            f"{path}: refused, it is not a file of weights alone{detail}, and reading anything else in a pickle could "
            "run code. If you trust it, load it yourself and save its state_dict, best as safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({_first_line(error)})") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _plan(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> _Plan:
    plan = _Plan()
    for name, target in targets.items():
        if name not in tensors:
            continue
        source = tensors[name]
        if source.is_floating_point() and not source.isfinite().all():
            raise CheckpointError(f"{name} holds NaN or Inf in this checkpoint; it cannot be used")
        if source.shape == target.shape:
            plan.values[name] = source
            plan.matched.append(name)
        elif _is_flat_kernel(source, target):
            frames = target.shape[2]
            plan.values[name] = (source / frames).unsqueeze(2).expand(target.shape)
            plan.inflated.append(name)
        elif name.split(".")[0] == "head":
            plan.skipped[name] = f"{source.shape[0]} classes there, {target.shape[0]} here"
        else:
            plan.skipped[name] = f"shape {list(source.shape)} there, {list(target.shape)} here"
    return plan


def _is_flat_kernel(source: Tensor, target: Tensor) -> bool:
    return (
        source.dim() == 4
        and target.dim() == 5
        and (source.shape[:2], source.shape[2:]) == (target.shape[:2], target.shape[3:])
    )


def _listing(title: str, names: list[str] | tuple[str, ...]) -> list[str]:
    if not names:
        return []
    rest = len(names) - _MAX_LISTED
    shown = [f"    {name}" for name in names[:_MAX_LISTED]]
    return [f"  {title}:", *shown, *([f"    and {rest} more"] if rest > 0 else [])]


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
