"""How many clips fit into memory, worked out before training from a pass without data.

Shape suffixes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

# Share of the free memory that is planned with: the rest is for the allocator's gaps and kernels' workspaces.
_USABLE = 0.8
# Peak over what is kept for the backward pass: gradients of activations and temporaries of the largest block.
_PEAK_OVER_SAVED = 1.3
# Weights, gradients and Adam's two moments in float32, and a copy of the weights for a moving average.
_BYTES_PER_PARAMETER = 20


def clips_that_fit(
    model: nn.Module, clip_shape: tuple[int, int, int, int], *, room: int, mixed: bool, repeats: int = 1
) -> int:
    """Clips of one pass that training has memory for, at least 1.

    An estimate, on the careful side: what autograd keeps for one clip is counted on a network without storage.

    Args:
        model: the network, on any device; left as it is.
        clip_shape: C, T, H, W.
        room: free bytes, see `free_bytes`.
        mixed: whether activations are kept in 16 bits where autocast does so.
        repeats: draws of each clip in one pass.
    """
    state, per_clip = _planned(model, clip_shape, mixed, repeats)
    return max(1, int((_USABLE * room - state) / per_clip))


def least_room(model: nn.Module, clip_shape: tuple[int, int, int, int], *, mixed: bool, repeats: int = 1) -> float:
    """Free bytes that a pass of one clip is planned with; arguments as for `clips_that_fit`."""
    return sum(_planned(model, clip_shape, mixed, repeats)) / _USABLE


def _planned(model: nn.Module, clip_shape: tuple[int, int, int, int], mixed: bool, repeats: int) -> tuple[float, float]:
    """Bytes that do not depend on the number of clips, and those of each clip."""
    state = _BYTES_PER_PARAMETER * sum(parameter.numel() for parameter in model.parameters())
    return state, saved_bytes(model, clip_shape, mixed=mixed) * _PEAK_OVER_SAVED * repeats


def saved_bytes(model: nn.Module, clip_shape: tuple[int, int, int, int], *, mixed: bool) -> int:
    """Bytes that autograd keeps of one training clip between the forward and the backward pass.

    Counted in a pass over tensors that have shapes and no memory, so it takes seconds whatever the size.
    """
    fake = FakeTensorMode()
    own = (*model.named_parameters(), *model.named_buffers())
    values: dict[str, Tensor] = {name: fake.from_tensor(value) for name, value in own}
    held: dict[int, Tensor] = {}  # by storage; the tensors stay alive, so that no address is used twice

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
    """Free memory of a GPU, or what the system can still give to this process."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
