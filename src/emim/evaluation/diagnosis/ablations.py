"""The ablations of a diagnosis: clips without motion or order, and networks without one path of their EMIM modules.

* Of the clips: frozen to the middle frame, frames shuffled, frames reversed.
* Of the network: motion features or appearance path of every EMIM module set to zero, by setting weights to zero for a
  while. No other layer is touched: global attention and local blocks stay, and they see several frames, too.

Shape suffixes: V views of a video, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from emim._moved import renamed
from emim.evaluation.outputs import Ablation
from emim.nn.affinity import emim_blocks

__all__ = [
    "APPEARANCE_ZEROED",
    "AS_IS",
    "FROZEN",
    "MOTION_ZEROED",
    "REVERSED",
    "SHUFFLED",
    "ablations_for",
    "appearance_zeroed",
    "freeze",
    "motion_zeroed",
    "reverse",
    "shuffle",
    "shuffled_order",
]

AS_IS: Final = "as_is"
FROZEN: Final = "frozen"
SHUFFLED: Final = "shuffled"
REVERSED: Final = "reversed"
MOTION_ZEROED: Final = "motion_zeroed"
APPEARANCE_ZEROED: Final = "appearance_zeroed"

# Keeps the orders of frames apart from other draws of the same seed.
_ORDER_STREAM = 1


def freeze(views_VCTHW: Tensor) -> Tensor:
    """Repeat the middle frame of every view (number T // 2, from 0) for the whole length."""
    middle = views_VCTHW.shape[2] // 2
    return views_VCTHW[:, :, middle : middle + 1].expand_as(views_VCTHW)


def reverse(views_VCTHW: Tensor) -> Tensor:
    """Reverse the order of the frames."""
    return views_VCTHW.flip(2)


def shuffle(views_VCTHW: Tensor, clip: int, seed: int) -> Tensor:
    """Put the frames into the clip's `shuffled_order`, the same in all its views."""
    return views_VCTHW[:, :, shuffled_order(views_VCTHW.shape[2], clip, seed)]


def shuffled_order(num_frames: int, clip: int, seed: int) -> Tensor:
    """Draw a random order of frames, uniformly from all orders but the one that they have.

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


@contextmanager
def motion_zeroed(model: nn.Module) -> Iterator[None]:
    """Set the motion features of every EMIM module to zero: weight and bias of the last layer of `motion_conv`.

    The weights are restored to the bit at the end, also after an error.
    """
    parts: list[Tensor] = []
    for module in emim_blocks(model).values():
        last = module.motion_conv[-1]
        assert isinstance(last, nn.Linear)
        parts += [last.weight, last.bias]
    with _zeroed(parts):
        yield


@contextmanager
def appearance_zeroed(model: nn.Module) -> Iterator[None]:
    """Set the values of every EMIM module to zero: the rows of `qkv`, weight and bias, that compute them.

    The affinity, and with it the motion features, are as before. The padding at the border of the window (1e-6, see
    `emim.ops.common`) still takes part in the aggregation, so the appearance path is not exactly zero there.

    The weights are restored to the bit at the end, also after an error.
    """
    parts: list[Tensor] = []
    for module in emim_blocks(model).values():
        values = slice(2 * module.proj.in_features, None)  # rows: queries, keys, values
        parts += [module.qkv.weight[values], module.qkv.bias[values]]
    with _zeroed(parts):
        yield


@contextmanager
def _zeroed(parts: Iterable[Tensor]) -> Iterator[None]:
    """Set weights, or slices of them, to zero for the time of the context."""
    kept = [(part.detach(), part.detach().clone()) for part in parts]
    try:
        for part, _ in kept:
            part.zero_()
        yield
    finally:
        for part, before in kept:
            part.copy_(before)


def ablations_for(model: nn.Module, seed: int) -> dict[str, Ablation]:
    """Return the ablations that suit a network, by name; `AS_IS`, without any change, comes first.

    A network without EMIM modules has no motion features and no appearance path to set to zero.

    Args:
        model: the network.
        seed: seed of the shuffles, at least 0.
    """
    ablations = {
        AS_IS: Ablation(),
        FROZEN: Ablation(change_views=lambda views_VCTHW, at: freeze(views_VCTHW)),
        SHUFFLED: Ablation(change_views=partial(_shuffled, seed=seed)),
        REVERSED: Ablation(change_views=lambda views_VCTHW, at: reverse(views_VCTHW)),
    }
    if emim_blocks(model):
        ablations[MOTION_ZEROED] = Ablation(change_network=motion_zeroed)
        ablations[APPEARANCE_ZEROED] = Ablation(change_network=appearance_zeroed)
    return ablations


def _shuffled(views_VCTHW: Tensor, at: int, *, seed: int) -> Tensor:
    return shuffle(views_VCTHW, at, seed)


__getattr__ = renamed(
    __name__,
    {
        "conditions_for": ("ablations_for", ablations_for),
        "emim_modules": ("emim.nn.affinity.emim_blocks", emim_blocks),
    },
)
