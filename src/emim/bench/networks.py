"""The whole networks that are measured, by name.

To add one, put it into `NETWORKS`: a name, a line on what it is, and a function that builds it for a task. With
`same_logits` it claims the logits of "emim", which is checked before it is timed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from emim.bench.peers import videomae
from emim.bench.peers.unfold_network import UnfoldUniFormer
from emim.errors import ConfigError
from emim.models import UniFormer, create_model

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
