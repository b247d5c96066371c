"""Interventions on a network: one of the two paths of its EMIM modules gives nothing.

Both set weights to zero for a while, which works whatever computes them. No other layer is touched: global attention
and local blocks stay, and they see several frames, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from emim.evaluation.outputs import Condition
from emim.nn import EMIM

# Keeps the orders of frames apart from other draws of the same seed.
_ORDER_STREAM = 1


def freeze(views_VCTHW: Tensor) -> Tensor:
    """Every view as its own middle frame (number T // 2, from 0), held for its whole length."""
    middle = views_VCTHW.shape[2] // 2
    return views_VCTHW[:, :, middle : middle + 1].expand_as(views_VCTHW)


def reverse(views_VCTHW: Tensor) -> Tensor:
    """The frames from the last to the first."""
    return views_VCTHW.flip(2)


def shuffle(views_VCTHW: Tensor, clip: int, seed: int) -> Tensor:
    """The frames in the clip's `shuffled_order`, the same in all its views."""
    return views_VCTHW[:, :, shuffled_order(views_VCTHW.shape[2], clip, seed)]


def shuffled_order(num_frames: int, clip: int, seed: int) -> Tensor:
    """A random order of frames, drawn evenly from all but the one that they have.

    Args:
        num_frames: frames T, at least 1; a single frame has no other order.
        clip: position of the clip in its list.
        seed: at least 0; with `clip` it fixes the order.

    Returns:
        order_T: int64 permutation of 0 to T - 1.
    """
    rng = np.random.default_rng((seed, clip, _ORDER_STREAM))
    order_T = rng.permutation(num_frames)
    while num_frames > 1 and (order_T == np.arange(num_frames)).all():
        order_T = rng.permutation(num_frames)
    return torch.from_numpy(order_T)


def emim_modules(model: nn.Module) -> dict[str, EMIM]:
    """The EMIM modules of a network by their names, in its order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, EMIM)}


@contextmanager
def motion_zeroed(model: nn.Module) -> Iterator[None]:
    """Every EMIM module's motion features are zero: weight and bias of the last layer of `motion_conv` are.

    The weights are restored to the bit at the end, whatever happens meanwhile.
    """
    parts: list[Tensor] = []
    for module in emim_modules(model).values():
        last = module.motion_conv[-1]
        assert isinstance(last, nn.Linear)
        parts += [last.weight, last.bias]
    with _zeroed(parts):
        yield


@contextmanager
def appearance_zeroed(model: nn.Module) -> Iterator[None]:
    """Every EMIM module's values are zero: the rows of `qkv`, weight and bias, that give them are.

    Its affinity, and with it its motion features, are as before. What the border of the window is padded with (1e-6,
    see `emim.ops.common`) still takes part in the aggregation, so the appearance path gives not quite zero there.

    The weights are restored to the bit at the end, whatever happens meanwhile.
    """
    parts: list[Tensor] = []
    for module in emim_modules(model).values():
        values = slice(2 * module.proj.in_features, None)  # rows: queries, keys, values
        parts += [module.qkv.weight[values], module.qkv.bias[values]]
    with _zeroed(parts):
        yield


@contextmanager
def _zeroed(parts: Iterable[Tensor]) -> Iterator[None]:
    """Weights, or slices of them, that are zero in between."""
    kept = [(part.detach(), part.detach().clone()) for part in parts]
    try:
        for part, _ in kept:
            part.zero_()
        yield
    finally:
        for part, before in kept:
            part.copy_(before)


AS_IS: Final = "as_is"
FROZEN: Final = "frozen"
SHUFFLED: Final = "shuffled"
REVERSED: Final = "reversed"
MOTION_ZEROED: Final = "motion_zeroed"
APPEARANCE_ZEROED: Final = "appearance_zeroed"


def conditions_for(model: nn.Module, seed: int) -> dict[str, Condition]:
    """Those that the network can be tested in, by name; `AS_IS` comes first.

    A network without EMIM modules has no motion features or appearance path to be zeroed.

    Args:
        model: the network.
        seed: seed of the shuffles, at least 0.
    """
    conditions = {
        AS_IS: Condition(),
        FROZEN: Condition(change_views=lambda views_VCTHW, at: freeze(views_VCTHW)),
        SHUFFLED: Condition(change_views=partial(_shuffled, seed=seed)),
        REVERSED: Condition(change_views=lambda views_VCTHW, at: reverse(views_VCTHW)),
    }
    if emim_modules(model):
        conditions[MOTION_ZEROED] = Condition(change_network=motion_zeroed)
        conditions[APPEARANCE_ZEROED] = Condition(change_network=appearance_zeroed)
    return conditions


def _shuffled(views_VCTHW: Tensor, at: int, *, seed: int) -> Tensor:
    return shuffle(views_VCTHW, at, seed)
