"""A loss that makes the affinity of an EMIM block a measure of likeness, from the pixels alone (ours, off by default).

The published training asks only for the class, and then a block may encode motion in its affinity as it likes. Here
its soft-argmax must also be a displacement that carries each frame onto the next one: photometric self-supervision, as
optical flow is learned without labels (Yu et al., "Back to Basics", 2016). Nothing but the clips is needed.

Shape suffixes: B batch, N heads, T frames, P displacements, 2 axes (x, y), C channels; H and W pixels of the clip or
of a smaller picture of it, R = B * (T - 1) pairs of frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emim.errors import ConfigError
from emim.nn.affinity import affinity_of, emim_blocks, soft_displacement

_LEVELS = ((2, 1.0), (4, 0.5))
"""(how much smaller than the clip, weight) of the pictures compared. Small ones lead over longer distances."""
_SMOOTHNESS = 0.05
_REST = 0.01
"""Weight of the length of displacements: where nothing is to be seen, nothing moves."""
_SOFTNESS = 1e-2
"""Where the absolute difference of two values becomes a square."""
_LARGEST_ZOOM = 4.0
_EVERY = 2
"""Of the clips of a batch: the loss has learned all it can long before the classes are."""


class MatchingLoss:
    """The matching loss of a network's first EMIM block, which has the finest tokens.

    It looks closer than the classification does: at random cut-outs, enlarged to the clip's size, so that also motion
    over more than one token is learned. The pass ends with the block.

    Args:
        model: the network.

    Raises:
        ConfigError: it has no EMIM block.
    """

    def __init__(self, model: nn.Module) -> None:
        blocks = emim_blocks(model)
        if not blocks:
            raise ConfigError(
                f"optim.matching needs an EMIM block, and this {type(model).__name__} has none; set it to 0"
            )
        self._model = model
        self._name, self._block = next(iter(blocks.items()))

    def __call__(self, clip_BCTHW: Tensor) -> Tensor:
        """A scalar for normalised clips, 0 where they have one frame; draws from PyTorch's generator."""
        closer_BCTHW = _zoomed(clip_BCTHW[::_EVERY])
        affinity_BNTHWP = affinity_of(self._model, closer_BCTHW, {self._name: self._block})[self._name]
        displacement_BNTHW2, _ = soft_displacement(affinity_BNTHWP, self._block.rpb)
        return matching_loss(closer_BCTHW, displacement_BNTHW2.mean(1))


def _zoomed(clip_BCTHW: Tensor) -> Tensor:
    """A random cut-out, the same of all clips, enlarged to the clips' size."""
    H, W = clip_BCTHW.shape[3:]
    zoom, down, right = torch.rand(3).tolist()
    share = _LARGEST_ZOOM**-zoom
    height, width = max(1, round(H * share)), max(1, round(W * share))
    top, left = round(down * (H - height)), round(right * (W - width))
    part_BCTHW = clip_BCTHW[..., top : top + height, left : left + width]
    return F.interpolate(part_BCTHW, size=(clip_BCTHW.shape[2], H, W), mode="trilinear")


def matching_loss(clip_BCTHW: Tensor, displacement_BTHW2: Tensor) -> Tensor:
    """How badly a displacement field carries each frame onto the next, and how rough it is.

    Args:
        clip_BCTHW: normalised clip of T, 2 T or more frames; those are compared that have tokens of their own.
        displacement_BTHW2: in tokens, on the token grid.

    Returns:
        A scalar in float32.
    """
    T = displacement_BTHW2.shape[1]
    if T < 2:
        return displacement_BTHW2.sum() * 0.0
    step = clip_BCTHW.shape[2] // T
    frames_BTCHW = clip_BCTHW[:, :, : step * T : step].transpose(1, 2).float()
    displacement_R2HW = displacement_BTHW2[:, :-1].flatten(0, 1).permute(0, 3, 1, 2).float()
    with torch.autocast(clip_BCTHW.device.type, enabled=False):
        apart = [weight * _difference(frames_BTCHW, displacement_R2HW, smaller) for smaller, weight in _LEVELS]
        down, right = (displacement_R2HW.diff(dim=axis).abs().sum() for axis in (2, 3))
        rough = (down + right) / displacement_R2HW.numel()
        length = torch.linalg.vector_norm(displacement_R2HW, dim=1).mean()
        loss: Tensor = torch.stack(apart).sum() + _SMOOTHNESS * rough + _REST * length
        return loss


def _difference(frames_BTCHW: Tensor, displacement_R2HW: Tensor, smaller: int) -> Tensor:
    """Mean difference between each frame and the next one carried back, where that lies within the frame."""
    height, width = frames_BTCHW.shape[3:]
    rows, columns = displacement_R2HW.shape[2:]
    H, W = max(rows, height // smaller), max(columns, width // smaller)
    small_BTCHW = F.interpolate(frames_BTCHW.flatten(0, 1), size=(H, W), mode="area").view(
        *frames_BTCHW.shape[:3], H, W
    )
    # From tokens to halves of the picture, which is what `grid_sample` counts in.
    halves_2 = displacement_R2HW.new_tensor([2 / columns, 2 / rows])
    shift_R2HW = F.interpolate(displacement_R2HW * halves_2[:, None, None], size=(H, W), mode="bilinear")
    y_H, x_W = ((torch.arange(side, device=shift_R2HW.device) + 0.5) * 2 / side - 1 for side in (H, W))
    place_RHW2 = torch.stack((x_W + shift_R2HW[:, 0], y_H[:, None] + shift_R2HW[:, 1]), dim=-1)
    carried_RCHW = F.grid_sample(
        small_BTCHW[:, 1:].flatten(0, 1), place_RHW2, padding_mode="border", align_corners=False
    )
    apart_RHW: Tensor = ((carried_RCHW - small_BTCHW[:, :-1].flatten(0, 1)).square() + _SOFTNESS**2).sqrt().mean(1)
    within_RHW = (place_RHW2.abs() < 1).all(-1)
    return torch.mean(apart_RHW * within_RHW)
