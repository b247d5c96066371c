"""Displacement fields from the affinity of EMIM blocks (paper section 3.2).

A field shows what the classifier compares. It is no optical flow: it is as coarse as the tokens, reaches no further
than the window, and is accurate only as far as training made the affinity a measure of similarity. The classification
loss alone does not require that; `emim.training.photometric` has a loss that does.

Shape suffixes: B batch, N heads, P displacements, 2 axes (x, y), C channels, T frames; H and W are pixels of a clip,
else the token grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emim.errors import ClipSizeError, UnknownNameError
from emim.motion.drawing import resized
from emim.nn import EMIM
from emim.nn.affinity import affinity_of, emim_blocks, soft_displacement, window_steps
from emim.utils import nearest

__all__ = [
    "MotionField",
    "choose_blocks",
    "end_point_error",
    "faded_where_still",
    "motion_field",
    "picture_change",
    "still_clip",
]


@dataclass(frozen=True)
class MotionField:
    """Displacements from each frame to the next, by one EMIM block, on the block's token grid.

    T counts frames of tokens: input frames, or every second one where the network's stem halves them; displacements
    lead to the next frame of tokens. The last frame has no next one and repeats the field before it, as the block does.
    A single frame is compared with itself.

    Attributes:
        displacement_BT2HW: [B, T, 2, H, W], (x to the right, y down), in pixels of the clip that the network was given.
        confidence_BTHW: [B, T, H, W], 1 where one displacement has all the weight, 0 where all those that stay within
            the frame have equal weight.
    """

    displacement_BT2HW: Tensor
    confidence_BTHW: Tensor

    def less(self, still: MotionField) -> MotionField:
        """Subtract the field of a still clip: one for each clip, or one for all."""
        middle = still.displacement_BT2HW.shape[1] // 2
        still_B12HW = still.displacement_BT2HW[:, middle : middle + 1]
        return MotionField(self.displacement_BT2HW - still_B12HW, self.confidence_BTHW)


def still_clip(clip_BCTHW: Tensor) -> Tensor:
    """Repeat the middle frame of each clip for the clip's whole length."""
    T = clip_BCTHW.shape[2]
    return clip_BCTHW[:, :, T // 2 : T // 2 + 1].expand(-1, -1, T, -1, -1)


def motion_field(
    model: nn.Module,
    clip_BCTHW: Tensor,
    *,
    blocks: Iterable[str] | None = None,
    head: int | None = None,
    less_still: bool = False,
) -> dict[str, MotionField]:
    """Compute the displacement field of EMIM blocks in one pass of a network over clips.

    >>> import emim, torch
    >>> model = emim.create_model("uniformer_tiny_emim", num_classes=11)
    >>> fields = emim.motion_field(model, torch.randn(1, 3, 8, 96, 96))
    >>> next(iter(fields.values())).displacement_BT2HW.shape
    torch.Size([1, 8, 2, 12, 12])

    The field is the soft-argmax of a head's affinity, without its bias, over the displacements that stay within the
    frame (`emim.nn.affinity.soft_displacement`).

    Args:
        model: any network that takes such clips and has `emim.nn.EMIM` modules; it runs in evaluation mode, without
            gradients, and is left as it was.
        clip_BCTHW: normalised clips as the network takes them, [B, 3, T, H, W] with H and W in pixels, on the device of
            the network.
        blocks: names as in `emim.nn.affinity.emim_blocks`; None for all. The first block has the finest tokens.
        head: number of one head, from 0; None for the mean of all heads.
        less_still: subtract the field of the clip's middle frame at rest (see `still_clip`), which separates motion
            from what patterns and plain areas look like to the block. Costs a second pass.

    Returns:
        The field of each block by its name, in the order of the network; displacements in pixels of the clip.

    Raises:
        UnknownNameError: the network has no such block, or no EMIM block at all.
        IndexError: a block has no such head.
        ClipSizeError: the clip does not suit the network.
    """
    if clip_BCTHW.dim() != 5:
        raise ClipSizeError(f"a clip must be [B, 3, T, H, W], got {list(clip_BCTHW.shape)}")
    chosen = choose_blocks(model, blocks)
    for name, block in chosen.items():
        if head is not None and not 0 <= head < block.num_heads:
            raise IndexError(f"{name} has the heads 0 to {block.num_heads - 1}, got head {head}")
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            affinity = affinity_of(model, clip_BCTHW, chosen)
            H, W = clip_BCTHW.shape[3:]
            fields = {name: _field(affinity[name], block, head, (H, W)) for name, block in chosen.items()}
            if less_still:
                affinity = affinity_of(model, still_clip(clip_BCTHW), chosen)
                fields = {
                    name: field.less(_field(affinity[name], chosen[name], head, (H, W)))
                    for name, field in fields.items()
                }
            return fields
    finally:
        model.train(was_training)


def choose_blocks(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, EMIM]:
    """Return EMIM blocks of a network by name; None for all.

    Raises:
        UnknownNameError: there is no such block, or none at all.
    """
    known = emim_blocks(model)
    if not known:
        raise UnknownNameError(f"this {type(model).__name__} has no EMIM block, so it has no motion field")
    chosen = list(known) if names is None else list(names)
    for name in chosen:
        if name not in known:
            raise UnknownNameError(f"no EMIM block {name!r}; {nearest(name, known)}")
    return {name: known[name] for name in chosen}


def _field(affinity_BNTHWP: Tensor, block: EMIM, head: int | None, sides: tuple[int, int]) -> MotionField:
    displacement_BNTHW2, weight_BNTHWP = soft_displacement(affinity_BNTHWP, block.rpb)
    if head is not None:
        displacement_BNTHW2, weight_BNTHWP = (x[:, head : head + 1] for x in (displacement_BNTHW2, weight_BNTHWP))
    displacement_BTHW2, weight_BTHWP = displacement_BNTHW2.mean(1), weight_BNTHWP.mean(1)
    grid = affinity_BNTHWP.shape[3:5]
    # A grid leaves out the last pixels of a side that its stride does not divide.
    rows, columns = (side // tokens for side, tokens in zip(sides, grid, strict=True))
    displacement_BTHW2 = displacement_BTHW2 * torch.tensor([columns, rows]).to(displacement_BTHW2)
    inside_HWP, _ = window_steps(grid, block.rpb.shape[1:], affinity_BNTHWP.device)
    entropy_BTHW = torch.special.entr(weight_BTHWP).sum(-1)
    most_HW = inside_HWP.sum(-1).clamp(min=2).log()
    return MotionField(displacement_BTHW2.permute(0, 1, 4, 2, 3).contiguous(), (1 - entropy_BTHW / most_HW).clamp(0, 1))


_NOISE, _CLEAR = 2.0, 6.0
"""Mean difference of a token's pixels, of 255: below the first it may be noise, above the second it is change."""


def faded_where_still(field: MotionField, pixels_BTCHW: Tensor) -> MotionField:
    """Fade displacements to zero where the picture does not change.

    Args:
        field: the field of some clips.
        pixels_BTCHW: the clips' pixels from 0 to 255; only frames with tokens of their own are used.
    """
    steps, h, w = field.confidence_BTHW.shape[1:]
    every = pixels_BTCHW.shape[1] // steps
    change_BThw = picture_change(pixels_BTCHW[:, : every * steps : every], (h, w)).to(field.displacement_BT2HW.device)
    return replace(field, displacement_BT2HW=field.displacement_BT2HW * change_BThw[:, :, None])


def picture_change(frames_BTCHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """Measure how much each place changes to the next frame, from 0 (no more than noise) to 1.

    Where nothing changes, no motion is visible; but a network normalises its input, and so may compare noise. A place
    takes the largest change of its neighbourhood, because the inside of a plain moving object does not change.

    Args:
        frames_BTCHW: pixels from 0 to 255, of any dtype.
        grid: h, w.

    Returns:
        change_BThw; the last frame repeats the one before it, and a single frame has no change.
    """
    B, T = frames_BTCHW.shape[:2]
    if T < 2:
        return torch.zeros(B, T, *grid, device=frames_BTCHW.device)
    difference_BTCHW = frames_BTCHW.float().diff(dim=1).abs()
    mean_BThw = F.adaptive_avg_pool2d(difference_BTCHW.mean(2), grid)
    change_BThw = ((mean_BThw - _NOISE) / (_CLEAR - _NOISE)).clamp(0, 1)
    change_BThw = F.max_pool2d(change_BThw, 3, stride=1, padding=1)
    return torch.cat((change_BThw, change_BThw[:, -1:]), dim=1)


Floats = npt.NDArray[np.floating]


def end_point_error(displacement_2hw: Floats, truth_2HW: Floats, where_HW: npt.NDArray[np.bool_]) -> float:
    """Compute the mean end-point error in pixels (Baker et al., IJCV 2011).

    Args:
        displacement_2hw: estimated displacements in pixels of the truth, on any grid; interpolated bilinearly.
        truth_2HW: true displacements.
        where_HW: true for the pixels to average over.

    Returns:
        The error; NaN if there is no such pixel.
    """
    height, width = truth_2HW.shape[1:]
    apart_HW = np.hypot(*(np.stack([resized(axis_hw, height, width) for axis_hw in displacement_2hw]) - truth_2HW))
    return float(apart_HW[where_HW].mean()) if where_HW.any() else float("nan")
