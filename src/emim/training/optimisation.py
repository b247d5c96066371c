"""Learning rate schedule, and parameter groups with their weight decay and share of the learning rate."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from emim.errors import ConfigError
from emim.models import UniFormer

__all__ = ["learning_rate", "parameter_groups"]


def learning_rate(progress: float, *, peak: float, floor: float, warmup: float) -> float:
    """Return the learning rate: linear warm-up from `floor` to `peak`, then cosine decay to `floor`.

    Args:
        progress: share of the training done, in [0, 1].
        peak: highest learning rate.
        floor: learning rate at the start and at the end.
        warmup: share of the training that is warm-up, in [0, 1].
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return floor + (peak - floor) * progress / warmup
    rest = (progress - warmup) / (1.0 - warmup) if warmup < 1.0 else 1.0
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * rest))


def parameter_groups(model: UniFormer, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Return parameter groups for an optimiser, by weight decay and share of the learning rate.

    Biases, 1-D parameters and norm layers do not decay. EMIM's bias table `rpb` is 3-D and decays, as in the
    published code.

    Args:
        model: the network.
        weight_decay: weight decay of the other parameters.
        layer_decay: factor of the learning rate from each block to the one before it. The head has the full rate,
            the last block `layer_decay` of it, and so on; the embeddings go with the block that follows them, but
            the stem is one below the first block.

    Returns:
        Groups with `params`, `weight_decay` and `lr_scale`.

    Raises:
        ConfigError: `layer_decay` is not in (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise ConfigError(f"optim.layer_decay must be above 0 and at most 1, got {layer_decay}")
    depths = _depths(model)
    top = max(depths.values())
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if parameter.dim() <= 1 or name.endswith("bias") else weight_decay
        scale = layer_decay ** (top - depths[_part(name)])
        group = groups.setdefault((scale, decay), {"params": [], "weight_decay": decay, "lr_scale": scale})
        group["params"].append(parameter)
    return list(groups.values())


def _depths(model: nn.Module) -> dict[str, int]:
    """Return the depth of every part of the network: 0 for the stem, one more for each block, then the head."""
    depths = {"patch_embed1": 0}
    depth = 0
    for stage in range(1, 5):
        if stage > 1:
            depths[f"patch_embed{stage}"] = depth + 1
        for index in range(len(getattr(model, f"blocks{stage}"))):
            depth += 1
            depths[f"blocks{stage}.{index}"] = depth
    depths.update(norm=depth + 1, head=depth + 1)
    return depths


def _part(name: str) -> str:
    first, second, *_ = name.split(".")
    return f"{first}.{second}" if first.startswith("blocks") else first
