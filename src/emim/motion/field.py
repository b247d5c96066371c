"""Displacement fields out of the affinity of EMIM blocks.

This is a look at what the classifier compares, and no optical-flow network: a field is as coarse as the tokens, reaches
no further than the window, and is right only as far as training made the affinity a measure of likeness. The
classification loss alone does not ask for that; see `emim.training.photometric` for a loss that does.

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


@dataclass(frozen=True)
class MotionField:
    """Where the places of each frame are in the next one, as one block sees it, on the block's token grid.

    There is a field for every frame of tokens: for every input frame, or every second one where the network's stem
    halves them; displacements lead to the next frame of tokens. The last one has no next frame and repeats the field
    before it, as the block does. A single frame is compared with itself.

    Attributes:
        displacement_BT2HW: (x to the right, y down) in pixels of the clip that the network was given.
        confidence_BTHW: 1 where one displacement has all the weight, 0 where all those that stay within the frame have
            the same.
    """

    displacement_BT2HW: Tensor
    confidence_BTHW: Tensor

    def less(self, still: MotionField) -> MotionField:
        """This field less that of a still clip: of one for each clip, or of one for all."""
        middle = still.displacement_BT2HW.shape[1] // 2
        still_B12HW = still.displacement_BT2HW[:, middle : middle + 1]
        return MotionField(self.displacement_BT2HW - still_B12HW, self.confidence_BTHW)


def still_clip(clip_BCTHW: Tensor) -> Tensor:
    """The middle frame of each clip for the clip's whole length."""
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
    """The displacement field of each chosen EMIM block, from one pass of a network over a clip.

    The soft-argmax of a head's affinity, without its bias, over the displacements that stay within the frame
    (`emim.nn.affinity.soft_displacement`).

    Args:
        model: any network that takes such a clip and has `emim.nn.EMIM` modules; it runs in evaluation mode, without
            gradients, and is left as it was.
        clip_BCTHW: normalised clip as the network takes it, [B, 3, T, H, W].
        blocks: names as in `emim.nn.affinity.emim_blocks`; None for all. The first of a network has the finest tokens.
        head: number of one head; None for the mean of all.
        less_still: take off what the block says of the clip's middle frame standing still (see `still_clip`), which
            tells motion from what a pattern or the lack of one looks like to it. Costs a second pass.

    Returns:
        A field for each block, by name.

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
            raise IndexError(f"{name} has the heads 0 to {block.num_heads - 1}, so none of number {head}")
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
    """EMIM blocks of a network by name; None for all.

    Raises:
        UnknownNameError: there is no such block, or none at all.
    """
    known = emim_blocks(model)
    if not known:
        raise UnknownNameError(f"this {type(model).__name__} has no EMIM block, so there is no affinity to look at")
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
"""Mean difference of a token's pixels, of 255: up to the first it may be noise, from the second on it is none."""


def faded_where_still(field: MotionField, pixels_BTCHW: Tensor) -> MotionField:
    """The field with no displacement where the picture does not change.

    Args:
        field: of clips.
        pixels_BTCHW: the clips' pixels from 0 to 255; those frames count that have tokens of their own.
    """
    steps, h, w = field.confidence_BTHW.shape[1:]
    every = pixels_BTCHW.shape[1] // steps
    change_BThw = picture_change(pixels_BTCHW[:, : every * steps : every], (h, w)).to(field.displacement_BT2HW.device)
    return replace(field, displacement_BT2HW=field.displacement_BT2HW * change_BThw[:, :, None])


def picture_change(frames_BTCHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """Whether a place differs from itself in the next frame, from 0 (no more than noise does) to 1.

    Where nothing changes no motion can be seen, but a network normalises what it sees, and so may compare noise. A
    place counts with its neighbours, as the inside of a plain thing that moves does not change.

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
    """Mean distance in pixels between the ends of estimated and true displacements (Baker et al., IJCV 2011).

    Args:
        displacement_2hw: the estimate in pixels of the truth, on any grid; read bilinearly.
        truth_2HW: the truth.
        where_HW: pixels that count.

    Returns:
        NaN where no pixel counts.
    """
    height, width = truth_2HW.shape[1:]
    apart_HW = np.hypot(*(np.stack([resized(axis_hw, height, width) for axis_hw in displacement_2hw]) - truth_2HW))
    return float(apart_HW[where_HW].mean()) if where_HW.any() else float("nan")
