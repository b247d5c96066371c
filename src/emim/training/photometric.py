"""Photometric loss: it makes the affinity of an EMIM block a measure of similarity (ours, off by default).

The published training supervises the class alone, so a block may encode motion in its affinity in any way. With this
loss, the soft-argmax of the affinity must also be a displacement that warps the next frame onto the present one. It is
photometric self-supervision, which also learns optical flow without labels (Yu et al., "Back to Basics", 2016).

Shape suffixes: B clips of a batch, N heads, T frames, P window positions, C channels, 2 axes (x, y); H and W pixels of
the clip or of a downsampled one, or tokens; F = B * (T - 1) pairs of frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emim.errors import ConfigError
from emim.nn.affinity import affinity_of, emim_blocks, soft_displacement

__all__ = ["PhotometricLoss", "photometric_loss"]

_LEVELS = ((2, 1.0), (4, 0.5))
"""Downsampling factor and weight of the frames compared. Smaller frames give gradients over longer distances."""
_SMOOTHNESS = 0.05
_REST = 0.01
"""Weight of the length of displacements, so that uniform areas have none."""
_SOFTNESS = 1e-2
"""Difference of two values below which the loss is quadratic (Charbonnier)."""
_LARGEST_ZOOM = 4.0
_EVERY = 2
"""One of so many clips of a batch is used: this loss converges long before the classification."""


class PhotometricLoss:
    """Photometric loss of a network's first EMIM block, which has the finest tokens.

    It is computed on random crops enlarged to the clip's size, so that motion over more than one token is learned, too.
    The forward pass stops after the block.

    Args:
        model: the network.

    Raises:
        ConfigError: the network has no EMIM block.
    """

    def __init__(self, model: nn.Module) -> None:
        blocks = emim_blocks(model)
        if not blocks:
            raise ConfigError(
                f"optim.photometric needs an EMIM block, and this {type(model).__name__} has none; set it to 0"
            )
        self._model = model
        self._name, self._block = next(iter(blocks.items()))

    def __call__(self, clip_BCTHW: Tensor) -> Tensor:
        """Return the loss (a scalar) of normalised clips; 0 for clips of one frame. Uses PyTorch's generator."""
        closer_BCTHW = _zoomed(clip_BCTHW[::_EVERY])
        affinity_BNTHWP = affinity_of(self._model, closer_BCTHW, {self._name: self._block})[self._name]
        displacement_BNTHW2, _ = soft_displacement(affinity_BNTHWP, self._block.rpb)
        return photometric_loss(closer_BCTHW, displacement_BNTHW2.mean(1))


def _zoomed(clip_BCTHW: Tensor) -> Tensor:
    """Enlarge a random crop, the same of all clips, to the clips' size."""
    H, W = clip_BCTHW.shape[3:]
    zoom, down, right = torch.rand(3).tolist()
    share = _LARGEST_ZOOM**-zoom
    height, width = max(1, round(H * share)), max(1, round(W * share))
    top, left = round(down * (H - height)), round(right * (W - width))
    part_BCTHW = clip_BCTHW[..., top : top + height, left : left + width]
    return F.interpolate(part_BCTHW, size=(clip_BCTHW.shape[2], H, W), mode="trilinear")


def photometric_loss(clip_BCTHW: Tensor, displacement_BTHW2: Tensor) -> Tensor:
    """Return the difference of each frame from the next one warped back, plus the roughness and length of the field.

    Args:
        clip_BCTHW: normalised clips of T, 2 T or more frames; the frames that the T tokens start at are compared.
        displacement_BTHW2: displacement (x, y) in tokens, on the token grid.

    Returns:
        A scalar in float32.
    """
    T = displacement_BTHW2.shape[1]
    if T < 2:
        return displacement_BTHW2.sum() * 0.0
    step = clip_BCTHW.shape[2] // T
    frames_BTCHW = clip_BCTHW[:, :, : step * T : step].transpose(1, 2).float()
    displacement_F2HW = displacement_BTHW2[:, :-1].flatten(0, 1).permute(0, 3, 1, 2).float()
    with torch.autocast(clip_BCTHW.device.type, enabled=False):
        differences = [weight * _difference(frames_BTCHW, displacement_F2HW, smaller) for smaller, weight in _LEVELS]
        down, right = (displacement_F2HW.diff(dim=axis).abs().sum() for axis in (2, 3))
        rough = (down + right) / displacement_F2HW.numel()
        length = torch.linalg.vector_norm(displacement_F2HW, dim=1).mean()
        loss: Tensor = torch.stack(differences).sum() + _SMOOTHNESS * rough + _REST * length
        return loss


def _difference(frames_BTCHW: Tensor, displacement_F2HW: Tensor, smaller: int) -> Tensor:
    """Return the mean difference between each frame and the next one warped back, where that lies within the frame."""
    height, width = frames_BTCHW.shape[3:]
    rows, columns = displacement_F2HW.shape[2:]
    H, W = max(rows, height // smaller), max(columns, width // smaller)
    small_BTCHW = F.interpolate(frames_BTCHW.flatten(0, 1), size=(H, W), mode="area").view(
        *frames_BTCHW.shape[:3], H, W
    )
    # From tokens to half frames, the unit of `grid_sample`.
    halves_2 = displacement_F2HW.new_tensor([2 / columns, 2 / rows])
    shift_F2HW = F.interpolate(displacement_F2HW * halves_2[:, None, None], size=(H, W), mode="bilinear")
    y_H, x_W = ((torch.arange(side, device=shift_F2HW.device) + 0.5) * 2 / side - 1 for side in (H, W))
    place_FHW2 = torch.stack((x_W + shift_F2HW[:, 0], y_H[:, None] + shift_F2HW[:, 1]), dim=-1)
    warped_FCHW = F.grid_sample(
        small_BTCHW[:, 1:].flatten(0, 1), place_FHW2, padding_mode="border", align_corners=False
    )
    difference_FHW: Tensor = ((warped_FCHW - small_BTCHW[:, :-1].flatten(0, 1)).square() + _SOFTNESS**2).sqrt().mean(1)
    within_FHW = (place_FHW2.abs() < 1).all(-1)
    return torch.mean(difference_FHW * within_FHW)
