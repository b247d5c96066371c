"""Memory of training: the number of clips that fit, estimated from a pass without data, and activation checkpointing.

Shape suffixes: B clips of a batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from emim.errors import ConfigError
from emim.models import UniFormer

__all__ = ["checkpoint_activations", "clips_that_fit", "free_bytes", "least_room", "saved_bytes"]

# Share of the free memory to plan with; the rest is for fragmentation and workspaces of kernels.
_USABLE = 0.8
# Ratio of the peak to the activations saved: gradients of activations and temporaries of the largest block.
_PEAK_OVER_SAVED = 1.3
# Weights, gradients and Adam's two moments in float32, and a copy of the weights for the moving average.
_BYTES_PER_PARAMETER = 20


def clips_that_fit(
    model: nn.Module, clip_shape: tuple[int, int, int, int], *, room: int, mixed: bool, repeats: int = 1
) -> int:
    """Estimate how many clips fit into one training pass, at least 1.

    The estimate is conservative. The bytes that autograd saves for one clip are counted with fake tensors.

    Args:
        model: the network, on any device; not changed.
        clip_shape: C, T, H, W.
        room: free bytes, see `free_bytes`.
        mixed: True if training is in mixed precision, where autocast saves some activations in 16 bits.
        repeats: draws of each clip in one pass.
    """
    state, per_clip = _planned(model, clip_shape, mixed, repeats)
    return max(1, int((_USABLE * room - state) / per_clip))


def least_room(model: nn.Module, clip_shape: tuple[int, int, int, int], *, mixed: bool, repeats: int = 1) -> float:
    """Estimate the free bytes that a training pass of one clip needs; arguments as for `clips_that_fit`."""
    return sum(_planned(model, clip_shape, mixed, repeats)) / _USABLE


def _planned(model: nn.Module, clip_shape: tuple[int, int, int, int], mixed: bool, repeats: int) -> tuple[float, float]:
    """Return the bytes that do not depend on the number of clips, and those of each clip."""
    state = _BYTES_PER_PARAMETER * sum(parameter.numel() for parameter in model.parameters())
    return state, saved_bytes(model, clip_shape, mixed=mixed) * _PEAK_OVER_SAVED * repeats


def saved_bytes(model: nn.Module, clip_shape: tuple[int, int, int, int], *, mixed: bool) -> int:
    """Count the bytes that autograd saves for one training clip between the forward and the backward pass.

    The pass uses fake tensors, so it takes seconds whatever the size.
    """
    fake = FakeTensorMode()
    own = (*model.named_parameters(), *model.named_buffers())
    values: dict[str, Tensor] = {name: fake.from_tensor(value) for name, value in own}
    held: dict[int, Tensor] = {}  # by storage; the tensors are kept alive, so no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        held.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with (
        fake,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=mixed),
    ):
        functional_call(model, values, (torch.empty(1, *clip_shape),))
    for value in values.values():
        held.pop(value.untyped_storage()._cdata, None)
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU, or the memory that the system can still give to this process."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def checkpoint_activations(model: UniFormer, counts: Sequence[int]) -> None:
    """Recompute the activations of the first `counts[i]` blocks of stage i in the backward pass instead of saving them.

    Outputs, gradients and running statistics do not change. Only training passes are affected.

    Raises:
        ConfigError: a stage has fewer blocks.
    """
    stages = (model.blocks1, model.blocks2, model.blocks3, model.blocks4)
    for number, (stage, count) in enumerate(zip(stages, counts, strict=True), start=1):
        if not 0 <= count <= len(stage):
            raise ConfigError(
                f"trainer.activation_checkpointing: stage {number} has {len(stage)} blocks, cannot checkpoint {count}"
            )
        for block in stage[:count]:
            block.forward = _Checkpointed(block)


class _Checkpointed:
    """Replacement for the `forward` of a block, with activation checkpointing."""

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
    """Keep batch norms from updating their running statistics: the recomputation must not count a batch twice."""
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
