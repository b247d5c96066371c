"""How many multiply-adds a network takes for a clip, counted in a pass without data.

Shape suffixes as in `emim.nn.emim`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from emim.bench.networks import NETWORKS, ClipProblem
from emim.nn import EMIM


@dataclass(frozen=True)
class Arithmetic:
    """Multiply-adds of one clip, of convolutions, linear layers and attention.

    Attributes:
        needed: what the network is defined by: in EMIM each query meets the keys of its window.
        dense: what the dense backend computes: there each query meets all keys of its band, and most are dropped. In
            frames smaller than the window it is less, because the padding costs nothing.
    """

    needed: int
    dense: int


def count(name: str, problem: ClipProblem) -> Arithmetic:
    """Multiply-adds of one of `NETWORKS`; those with the same logits as "emim" are counted as it is."""
    counted = "emim" if NETWORKS[name].same_logits else name
    model = NETWORKS[counted].build(problem).eval()
    # The reference multiplies element by element, which is not counted, and what it does is known.
    with _backend(model, "reference"), _window_products(model) as products:
        needed = _counted(model, problem)
    with _backend(model, "dense"):
        dense = _counted(model, problem)
    return Arithmetic(needed + sum(products), dense)


def _counted(model: nn.Module, problem: ClipProblem) -> int:
    """Of a pass over tensors that have shapes and no memory; attention written out, because it is not counted else."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # foreign networks hold tensors of their own
    own = (*model.named_parameters(), *model.named_buffers())
    values: dict[str, Tensor] = {name: fake.from_tensor(value) for name, value in own}
    counter = FlopCounterMode(display=False)
    with fake, counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        functional_call(model, values, (problem.clips(1, "cpu"),))
    return counter.get_total_flops() // 2


@contextmanager
def _backend(model: nn.Module, name: str) -> Iterator[None]:
    modules = [module for module in model.modules() if isinstance(module, EMIM)]
    before = [module.backend for module in modules]
    for module in modules:
        module.backend = name
    try:
        yield
    finally:
        for module, backend in zip(modules, before, strict=True):
            module.backend = backend


@contextmanager
def _window_products(model: nn.Module) -> Iterator[list[int]]:
    """Fills a list with the multiply-adds of every EMIM module's affinity and aggregation as it runs."""
    products: list[int] = []

    def record(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        B, L, C = args[0].shape
        assert isinstance(module, EMIM)
        products.append(2 * B * L * C * module.rpb[0].numel())

    hooks = [module.register_forward_hook(record) for module in model.modules() if isinstance(module, EMIM)]
    try:
        yield products
    finally:
        for hook in hooks:
            hook.remove()
