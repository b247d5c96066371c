"""The whole networks that are measured, by name, and their multiply-adds.

To add one, put it into `NETWORKS`: a name, a line on what it is, and a function that builds it for a clip. With
`same_logits` it claims the logits of "emim", which is checked before it is timed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import videomae
from emim.errors import ConfigError
from emim.models import UniFormer, create_model
from emim.nn import EMIM
from unfold_network import UnfoldUniFormer

BASE: Final = "emim"
"""The network that others are compared with."""

SIZES: Final = ("tiny", "small", "base")


@dataclass(frozen=True)
class ClipProblem:
    """The task of a whole network; the defaults are those of the paper's smaller network.

    Attributes:
        network: size of the UniFormer, one of `SIZES`.
        frames: frames of a clip.
        size: height and width in pixels.
        classes: of the head.

    Raises:
        ConfigError: no such size, or a number below 1.
    """

    network: str = "small"
    frames: int = 16
    size: int = 224
    classes: int = 174

    def __post_init__(self) -> None:
        if self.network not in SIZES:
            raise ConfigError(f"no network of size {self.network!r}; known: {', '.join(SIZES)}")
        for key in ("frames", "size", "classes"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} must be at least 1, got {getattr(self, key)}")

    def clips(self, batch: int, device: str) -> torch.Tensor:
        """Random clips [B, 3, T, H, W]."""
        return torch.randn(batch, 3, self.frames, self.size, self.size, device=device)

    def tiny(self) -> ClipProblem:
        """One frame of the smallest size that the networks take, to run all code once."""
        return dataclasses.replace(self, frames=1, size=min(self.size, 32))


@dataclass(frozen=True)
class Network:
    """A candidate.

    Attributes:
        what: what it is.
        build: makes it on the CPU, in float32 and training mode.
        why_not: why it cannot run a task; None if it can.
        same_logits: it has the weights of "emim" and claims its logits.
        trains: it can be trained.
        any_size: it takes clips of other sizes than it was built for.
    """

    what: str
    build: Callable[[ClipProblem], nn.Module]
    why_not: Callable[[ClipProblem], str | None] = lambda problem: None
    same_logits: bool = False
    trains: bool = True
    any_size: bool = True


def emim(problem: ClipProblem) -> UniFormer:
    """UniFormer with EMIM; the same weights on every call, and a motion path that is not zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_model(f"uniformer_{problem.network}_emim", problem.classes, motion_start="correlation")


def _plain(stem_stride: int, problem: ClipProblem) -> UniFormer:
    return create_model(f"uniformer_{problem.network}", problem.classes, stem_stride=stem_stride)


def _videomae(width: str) -> Network:
    return Network(
        f"VideoMAE of transformers, ViT-{width}",
        lambda problem: videomae.VideoMAE(width, frames=problem.frames, size=problem.size, classes=problem.classes),
        lambda problem: videomae.why_not(frames=problem.frames, size=problem.size),
        any_size=False,
    )


NETWORKS: Final[dict[str, Network]] = {
    BASE: Network("ours: UniFormer with EMIM", emim),
    "unfold": Network(
        "the published semantics with unfold, plain PyTorch, same weights",
        lambda problem: UnfoldUniFormer(emim(problem)),
        same_logits=True,
    ),
    "plain": Network("ours: UniFormer of the same size without EMIM", functools.partial(_plain, 1)),
    "plain-stride-2": Network(
        "the same with half the frames after the stem, as in the original UniFormer", functools.partial(_plain, 2)
    ),
    "videomae-s": _videomae("S"),
    "videomae-b": _videomae("B"),
}
"""Candidates by name."""


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
