"""The motion of a whole video, frame by frame, in bounded memory.

Shape suffixes: B phases of a step (one clip each), T frames of a window, C colours, H and W pixels, 2 axes (x to the
right, y down), h and w the grid of a field.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from emim.data.preprocessing import Preprocessing, normalise, resize, to_tensor
from emim.data.sampling import REFERENCE_FPS
from emim.data.video import VideoReader
from emim.errors import ConfigError
from emim.motion.field import MotionField, choose_blocks, faded_where_still, motion_field, still_clip

__all__ = [
    "DEFAULT_OPTIONS",
    "FieldOptions",
    "FrameMotion",
    "sampled_lengths",
    "scaled_size",
    "video_motion",
    "window_of",
]

Floats = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

_STEP_SECONDS = 1 / 8
_READ_AT_ONCE = 8
_LEAST_SIDE = 192
"""Least short side of the network's input, whatever it was trained on, so that tokens are small against objects."""


@dataclass(frozen=True)
class FieldOptions:
    """Options for computing the fields of a video.

    Attributes:
        step: frames from a frame to the one that it is compared with; None takes the distance in the model's own clips
            if they are sampled at a fixed rate, else an eighth of a second.
        short_side: short side of the network's input, in pixels; None is what it was trained on, at least 192.
        block: name of an EMIM block; None for the network's first, which has the finest tokens.
        head: number of one head; None for the mean of all.
        raw: keep the field as it is. Otherwise the field of each window's middle frame at rest is subtracted, and
            displacements fade out where the picture does not change (`emim.motion.field`).
    """

    step: int | None = None
    short_side: int | None = None
    block: str | None = None
    head: int | None = None
    raw: bool = False

    def __post_init__(self) -> None:
        for name, least in (("step", 1), ("short_side", 1), ("head", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")


DEFAULT_OPTIONS = FieldOptions()


@dataclass(frozen=True)
class FrameMotion:
    """A frame of a video with its motion field.

    Attributes:
        frame_HWC: RGB, uint8, reduced to the longest side asked for.
        displacement_2hw: to the frame one step later, in pixels of `frame_HWC`.
        confidence_hw: from 0 to 1, see `emim.motion.MotionField`.
    """

    frame_HWC: Picture
    displacement_2hw: Floats
    confidence_hw: Floats


def video_motion(
    model: nn.Module,
    pre: Preprocessing,
    reader: VideoReader,
    options: FieldOptions = DEFAULT_OPTIONS,
    *,
    longest_side: int = 640,
    first: int = 0,
    stop: int | None = None,
) -> Iterator[FrameMotion]:
    """Yield every frame of a video with its field, in order.

    The network sees windows of as many frames as it was trained on, `step` apart, uncropped and in their own aspect
    ratio; for every frame there is a window in which it and the frame one step later are neighbours. The frames of the
    last step have no later frame and repeat the field before them. One window of reduced frames is in memory at a time.

    Args:
        model: a network with EMIM blocks.
        pre: the preprocessing it was trained with.
        reader: the open video.
        options: how fields are computed.
        longest_side: largest side of the frames that are yielded, in pixels.
        first: number of the first frame.
        stop: number of the frame after the last one; None for all.

    Raises:
        UnknownNameError: the network has no such block.
        ConfigError: the block has no such head.
        VideoError: a frame cannot be read.
    """
    block = _choose_block(model, options)
    last = reader.num_frames if stop is None else min(stop, reader.num_frames)
    total = last - first
    if total < 1:
        return
    length, step = window_of(pre, reader, options, total)
    seen = _seen_size(pre, reader, options)
    shown = scaled_size(reader.height, reader.width, long=min(longest_side, max(reader.height, reader.width)))
    to_shown_21 = torch.tensor([shown[1] / seen[1], shown[0] / seen[0]]).view(2, 1, 1)
    device = next(model.parameters()).device

    frames = _frames(reader, range(first, last), pre, seen, shown)
    held: deque[tuple[Picture, Tensor]] = deque()
    begin = given = 0  # number of the first frame held, and of frames yielded
    while given < total:
        start = min(given, total - step * length)
        for _ in range(start - begin):
            held.popleft()
        begin = start
        held.extend(itertools.islice(frames, step * length - len(held)))
        pixels_TCHW = torch.stack([small_CHW for _, small_CHW in held]).to(device)
        # A clip for each phase of the step.
        pixels_BTCHW = pixels_TCHW.view(length, step, 3, *seen).transpose(0, 1)
        field = _field(model, pixels_BTCHW, pre, block, options)
        ends = begin + step * length == total
        for offset in range(given - begin, step * (length if ends else max(1, length - 1))):
            # A stem that halves the frames has a field for every second one.
            time = offset // step * field.confidence_BTHW.shape[1] // length
            phase = offset % step
            yield FrameMotion(
                held[offset][0],
                (field.displacement_BT2HW[phase, time].cpu() * to_shown_21).numpy(),
                field.confidence_BTHW[phase, time].cpu().numpy(),
            )
            given += 1


def _field(
    model: nn.Module, pixels_BTCHW: Tensor, pre: Preprocessing, block: str, options: FieldOptions
) -> MotionField:
    """Compute the field of each phase of a window."""
    clip_BCTHW = normalise(pixels_BTCHW, pre).transpose(1, 2)
    field = motion_field(model, clip_BCTHW, blocks=[block], head=options.head)[block]
    if options.raw:
        return field
    still_1CTHW = still_clip(clip_BCTHW[len(clip_BCTHW) // 2 :][:1])  # one for all phases, which see the same scene
    still = motion_field(model, still_1CTHW, blocks=[block], head=options.head)[block]
    return faded_where_still(field.less(still), pixels_BTCHW)


def sampled_lengths(
    model: nn.Module, pre: Preprocessing, reader: VideoReader, options: FieldOptions, *, total: int, windows: int
) -> Floats:
    """Sample lengths of displacements over a video's first `total` frames, in pixels of the video, as a flat array.

    One clip is read at each of at most `windows` moments. Errors are those of `video_motion`.
    """
    block = _choose_block(model, options)
    length, step = window_of(pre, reader, options, total)
    seen = _seen_size(pre, reader, options)
    device = next(model.parameters()).device
    lengths = []
    for start in sorted({round(share * (total - step * length)) for share in np.linspace(0, 1, windows)}):
        frames_TCHW = to_tensor(reader.read(range(start, start + step * length, step)))
        pixels_1TCHW = resize(frames_TCHW, *seen, antialias=pre.antialias)[None].to(device)
        shift_T2hw = _field(model, pixels_1TCHW, pre, block, options).displacement_BT2HW[0] * (reader.height / seen[0])
        lengths.append(shift_T2hw.norm(dim=1).flatten().cpu().numpy())
    return np.concatenate(lengths)


def _choose_block(model: nn.Module, options: FieldOptions) -> str:
    name = options.block or next(iter(choose_blocks(model)))
    [block] = choose_blocks(model, [name]).values()
    if options.head is not None and options.head >= block.num_heads:
        raise ConfigError(f"{name} has the heads 0 to {block.num_heads - 1}, got head {options.head}")
    return name


def _seen_size(pre: Preprocessing, reader: VideoReader, options: FieldOptions) -> tuple[int, int]:
    """Height and width of the network's input."""
    return scaled_size(reader.height, reader.width, short=options.short_side or max(_LEAST_SIDE, pre.size))


def window_of(pre: Preprocessing, reader: VideoReader, options: FieldOptions, total: int) -> tuple[int, int]:
    """Return the frames of a window and the step between them; both are smaller for short videos.

    Args:
        pre: the preprocessing that the network was trained with.
        reader: the open video.
        options: a step, if one is set.
        total: frames of the video that are used.
    """
    length = min(pre.num_frames, total)
    seconds = pre.stride / REFERENCE_FPS if pre.sampling == "dense" else _STEP_SECONDS
    return length, min(options.step or max(1, round(seconds * reader.fps)), total // length)


def scaled_size(height: int, width: int, *, short: int | None = None, long: int | None = None) -> tuple[int, int]:
    """Scale height and width to a short or a long side in pixels."""
    factor = short / min(height, width) if short is not None else (long or 1) / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _frames(
    reader: VideoReader, indices: range, pre: Preprocessing, seen: tuple[int, int], shown: tuple[int, int]
) -> Iterator[tuple[Picture, Tensor]]:
    """Yield each frame as it is shown, frame_HWC, and as the network sees it, small_CHW in uint8."""
    for place in range(0, len(indices), _READ_AT_ONCE):
        frames_TCHW = to_tensor(reader.read(indices[place : place + _READ_AT_ONCE]))
        shown_THWC = resize(frames_TCHW, *shown).permute(0, 2, 3, 1).contiguous().numpy()
        seen_TCHW = resize(frames_TCHW, *seen, antialias=pre.antialias)
        yield from zip(shown_THWC, seen_TCHW, strict=True)
