"""Interventions on a network: one of the two paths of its EMIM modules gives nothing.

Both set weights to zero for a while, which works whatever computes them. No other layer is touched: global attention
and local blocks stay, and they see several frames, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from emim.nn import EMIM


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
    see `emim.ops.constants`) still takes part in the aggregation, so the appearance path gives not quite zero there.

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
