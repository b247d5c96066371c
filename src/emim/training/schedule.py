"""The learning rate as a function of progress, and which parameters decay."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor, nn


def learning_rate(progress: float, *, peak: float, floor: float, warmup: float) -> float:
    """Linear warm-up from `floor` to `peak`, then cosine back to `floor`.

    Args:
        progress: share of the training done, in [0, 1].
        peak: highest learning rate.
        floor: learning rate at the start and at the end.
        warmup: share of the training that warms up, in [0, 1].
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return floor + (peak - floor) * progress / warmup
    rest = (progress - warmup) / (1.0 - warmup) if warmup < 1.0 else 1.0
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * rest))


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameters with and without weight decay.

    Biases, 1-D parameters and norm layers do not decay. EMIM's bias table `rpb` is 3-D and decays, as in the
    published code.
    """
    decaying: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in _trainable(module):
        (others if parameter.dim() <= 1 or name.endswith("bias") else decaying).append(parameter)
    return [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _trainable(module: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)
