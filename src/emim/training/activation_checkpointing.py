"""Activation checkpointing: blocks that forget their inner activations and compute them again going backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from emim.errors import ConfigError
from emim.models import UniFormer


def checkpoint_blocks(model: UniFormer, counts: Sequence[int]) -> None:
    """Checkpoint the first `counts[i]` blocks of stage i (recipes: "checkpointed blocks per stage").

    Values, gradients and running statistics stay those of the plain network. Only training passes are affected.

    Raises:
        ConfigError: a stage has fewer blocks.
    """
    stages = (model.blocks1, model.blocks2, model.blocks3, model.blocks4)
    for number, (stage, count) in enumerate(zip(stages, counts, strict=True), start=1):
        if not 0 <= count <= len(stage):
            raise ConfigError(
                f"trainer.checkpoint_blocks: stage {number} has {len(stage)} blocks, cannot checkpoint {count}"
            )
        for block in stage[:count]:
            block.forward = _Checkpointed(block)


class _Checkpointed:
    """Stands in for the `forward` of one block."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.plain: Callable[[Tensor], Tensor] = block.forward

    def __call__(self, x_BCTHW: Tensor) -> Tensor:
        if not (self.block.training and x_BCTHW.requires_grad):
            return self.plain(x_BCTHW)
        out: Tensor = checkpoint(self.plain, x_BCTHW, use_reentrant=False, context_fn=self._contexts)
        return out

    def _contexts(self) -> tuple[Any, Any]:
        return nullcontext(), _frozen_statistics(self.block)


@contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Batch norms that leave their running statistics alone: the second pass must not count a batch twice."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = tracked
