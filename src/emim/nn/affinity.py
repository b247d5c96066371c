"""Reading the affinity of a network's EMIM blocks, and the displacement that it stands for.

The raw affinity of a block is a cost volume (paper section 3.2): entry p of a token says how well it matches the token
of the next frame that lies one displacement away, the same one for p everywhere. Its soft-argmax is a displacement.

Shape suffixes: B batch, N heads, T frames, H and W token grid, I and J window height and width, P = I * J displacements
in row-major order (dy first), 2 axes (x, y).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from emim.nn.emim import EMIM


def emim_blocks(model: nn.Module) -> dict[str, EMIM]:
    """The EMIM modules of a network by name, in the order in which it registers them."""
    return {name: module for name, module in model.named_modules() if isinstance(module, EMIM)}


def affinity_of(model: nn.Module, clip_BCTHW: Tensor, blocks: Mapping[str, EMIM]) -> dict[str, Tensor]:
    """The raw affinity of blocks of a network in a pass over clips, which ends with the last of these blocks.

    Args:
        model: the network; it may run the clips one by one or all together.
        clip_BCTHW: clips as the network takes them.
        blocks: some of its EMIM blocks, as of `emim_blocks`.

    Returns:
        affinity_BNTHWP of each block, bias included, with its gradient where gradients are on.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in blocks}

    def keep(name: str, module: nn.Module, inputs: Any, affinity_BNTHWP: Tensor) -> None:
        found[name].append(affinity_BNTHWP)
        if all(sum(map(len, parts)) == len(clip_BCTHW) for parts in found.values()):
            raise _AllFoundError  # what comes later changes nothing

    hooks = [block.affinity.register_forward_hook(partial(keep, name)) for name, block in blocks.items()]
    try:
        model(clip_BCTHW)
    except _AllFoundError:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


class _AllFoundError(Exception):
    """Ends a pass."""


def soft_displacement(affinity_BNTHWP: Tensor, rpb_NIJ: Tensor) -> tuple[Tensor, Tensor]:
    """Soft-argmax over the window, head by head.

    The bias is taken off first: it is the same at every place, so it says what a head prefers and not what the frames
    show. Displacements that lead out of the frame have no weight here; the block itself gives them that of its padding.

    Args:
        affinity_BNTHWP: raw affinity, bias included.
        rpb_NIJ: the bias.

    Returns:
        displacement_BNTHW2, (x to the right, y down) in tokens, and weight_BNTHWP, which sums to 1 over the window.
    """
    inside_HWP, step_P2 = window_steps(affinity_BNTHWP.shape[3:5], rpb_NIJ.shape[1:], affinity_BNTHWP.device)
    likeness_BNTHWP = affinity_BNTHWP - rpb_NIJ.flatten(1)[:, None, None, None]
    weight_BNTHWP = likeness_BNTHWP.masked_fill(~inside_HWP, -torch.inf).softmax(-1)
    return weight_BNTHWP @ step_P2.to(weight_BNTHWP), weight_BNTHWP


def window_steps(grid: Sequence[int], window: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The displacements of a window.

    Args:
        grid: H, W.
        window: I, J.
        device: where to make them.

    Returns:
        inside_HWP, whether each displacement stays within the frame, and the displacements, step_P2 (x, y).
    """
    (H, W), (I, J) = grid, window
    dy_P = torch.arange(I, device=device).sub(I // 2).repeat_interleave(J)
    dx_P = torch.arange(J, device=device).sub(J // 2).repeat(I)
    y_HP, x_WP = (torch.arange(side, device=device)[:, None] + step_P for side, step_P in ((H, dy_P), (W, dx_P)))
    inside_HWP = ((y_HP >= 0) & (y_HP < H))[:, None] & ((x_WP >= 0) & (x_WP < W))
    return inside_HWP, torch.stack((dx_P, dy_P), dim=1)
