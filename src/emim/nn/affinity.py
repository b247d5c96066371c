"""Read the affinity of a network's EMIM modules, and turn it into displacements.

The raw affinity of a module is a cost volume (paper section 3.2; docs/method.md, step 4): entry p of a token is its
similarity to the token of the next frame at displacement p, which is the same displacement for every token. The
soft-argmax of the affinity is a displacement.

Shape suffixes: B clips, N heads, T frames, H and W rows and columns of tokens, C channels, I and J rows and columns of
the window, P = I * J displacements in row-major order (dy first), 2 axes (x, y).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from emim.nn.emim import EMIM

__all__ = ["affinity_of", "emim_blocks", "soft_displacement", "window_steps"]


def emim_blocks(model: nn.Module) -> dict[str, EMIM]:
    """EMIM modules of a network by name, in the order in which it registers them; empty if it has none."""
    return {name: module for name, module in model.named_modules() if isinstance(module, EMIM)}


def affinity_of(model: nn.Module, clip_BCTHW: Tensor, blocks: Mapping[str, EMIM]) -> dict[str, Tensor]:
    """Run a network on clips as far as the last of some EMIM modules, and return their raw affinity.

    Args:
        model: the network; it may run the clips one by one or all together.
        clip_BCTHW: clips as the network takes them.
        blocks: some of its EMIM modules, from `emim_blocks`.

    Returns:
        affinity_BNTHWP of each module by name, position bias included; it carries gradients if they are enabled.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in blocks}

    def keep(name: str, module: nn.Module, inputs: Any, affinity_BNTHWP: Tensor) -> None:
        found[name].append(affinity_BNTHWP)
        if all(sum(map(len, parts)) == len(clip_BCTHW) for parts in found.values()):
            raise _AllFoundError  # the rest of the network is not needed

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
    """Ends a forward pass early."""


def soft_displacement(affinity_BNTHWP: Tensor, rpb_NIJ: Tensor) -> tuple[Tensor, Tensor]:
    """Soft-argmax of the affinity over the window, for each head.

    The position bias is subtracted first: it is the same at every token, so it is a preference of the head and not
    evidence from the frames. Displacements that lead out of the frame have weight 0 here; in the module itself they
    have the weight of the padding (docs/method.md, step 3).

    Args:
        affinity_BNTHWP: raw affinity, bias included.
        rpb_NIJ: the position bias.

    Returns:
        displacement_BNTHW2, (x to the right, y down) in tokens, and weight_BNTHWP, which sums to 1 over the window.
    """
    inside_HWP, step_P2 = window_steps(affinity_BNTHWP.shape[3:5], rpb_NIJ.shape[1:], affinity_BNTHWP.device)
    similarity_BNTHWP = affinity_BNTHWP - rpb_NIJ.flatten(1)[:, None, None, None]
    weight_BNTHWP = similarity_BNTHWP.masked_fill(~inside_HWP, -torch.inf).softmax(-1)
    return weight_BNTHWP @ step_P2.to(weight_BNTHWP), weight_BNTHWP


def window_steps(grid: Sequence[int], window: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Displacements of a window.

    Args:
        grid: H, W.
        window: I, J; odd.
        device: device of the result.

    Returns:
        inside_HWP, True where a displacement from a token stays within the frame, and step_P2, the displacements (x, y)
        in tokens.
    """
    (H, W), (I, J) = grid, window
    dy_P = torch.arange(I, device=device).sub(I // 2).repeat_interleave(J)
    dx_P = torch.arange(J, device=device).sub(J // 2).repeat(I)
    y_HP, x_WP = (torch.arange(side, device=device)[:, None] + step_P for side, step_P in ((H, dy_P), (W, dx_P)))
    inside_HWP = ((y_HP >= 0) & (y_HP < H))[:, None] & ((x_WP >= 0) & (x_WP < W))
    return inside_HWP, torch.stack((dx_P, dy_P), dim=1)
