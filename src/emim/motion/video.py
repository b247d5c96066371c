"""The motion of a whole video, frame by frame, in bounded memory.

Shape suffixes: P phases of a step, T frames of a window, C colours, H and W pixels, 2 axes (x to the right, y down),
h and w the grid of a field.
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

Floats = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

_STEP_SECONDS = 1 / 8
_READ_AT_ONCE = 8
_LEAST_SIDE = 192
"""Of the frames that the network is given, whatever it was trained on: tokens are then fine against what moves."""


@dataclass(frozen=True)
class FieldOptions:
    """How fields are read off a video.

    Attributes:
        step: frames between the two that are compared; None takes the distance in the model's own clips if they are
            sampled at a fixed rate, else an eighth of a second.
        short_side: of the frames that the network is given, in pixels; None is what it was trained on, at least 192.
        block: name of an EMIM block; None for the network's first, which has the finest tokens.
        head: number of one head; None for the mean of all.
        raw: the field as it is. Otherwise what the block says of each window's middle frame standing still is taken
            off, and displacements fade out where the picture does not change (`emim.motion.field`).
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
    """A frame of a video, and where its places go.

    Attributes:
        frame_HWC: RGB, made smaller if need be.
        displacement_2hw: to the frame one step later, in pixels of `frame_HWC`.
        confidence_hw: see `emim.motion.MotionField`.
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
    """Every frame of a video with its field, in order.

    The network sees windows of as many frames as it was trained on, `step` apart, whole and in their own aspect; for
    every frame there is a window in which it and the frame one step later are neighbours. The frames of the last step
    have none later and repeat the field before them. What is held at a time is one window, made small.

    Args:
        model: a network with EMIM blocks.
        pre: the preprocessing it was trained with.
        reader: the open video.
        options: how fields are read off.
        longest_side: frames are handed out no larger than this, in pixels.
        first: number of the first frame taken.
        stop: number of the first frame not taken; None for all.

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
    begin = given = 0  # the first frame held, and how many have been handed out
    while given < total:
        start = min(given, total - step * length)
        for _ in range(start - begin):
            held.popleft()
        begin = start
        held.extend(itertools.islice(frames, step * length - len(held)))
        pixels_TCHW = torch.stack([small_CHW for _, small_CHW in held]).to(device)
        # A clip for each phase of the step.
        pixels_PTCHW = pixels_TCHW.view(length, step, 3, *seen).transpose(0, 1)
        field = _field(model, pixels_PTCHW, pre, block, options)
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
    model: nn.Module, pixels_PTCHW: Tensor, pre: Preprocessing, block: str, options: FieldOptions
) -> MotionField:
    """The field of each phase of a window."""
    clip_PCTHW = normalise(pixels_PTCHW, pre).transpose(1, 2)
    field = motion_field(model, clip_PCTHW, blocks=[block], head=options.head)[block]
    if options.raw:
        return field
    still_1CTHW = still_clip(clip_PCTHW[len(clip_PCTHW) // 2 :][:1])  # one for all phases: they see the same places
    still = motion_field(model, still_1CTHW, blocks=[block], head=options.head)[block]
    return faded_where_still(field.less(still), pixels_PTCHW)


def sampled_lengths(
    model: nn.Module, pre: Preprocessing, reader: VideoReader, options: FieldOptions, *, total: int, windows: int
) -> Floats:
    """Lengths of the displacements at places spread over a video's first `total` frames, in pixels of the video, flat.

    One clip is read at each of at most `windows` places. Errors are those of `video_motion`.
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
        raise ConfigError(f"{name} has the heads 0 to {block.num_heads - 1}, so none of number {options.head}")
    return name


def _seen_size(pre: Preprocessing, reader: VideoReader, options: FieldOptions) -> tuple[int, int]:
    """Height and width that the network is given."""
    return scaled_size(reader.height, reader.width, short=options.short_side or max(_LEAST_SIDE, pre.size))


def window_of(pre: Preprocessing, reader: VideoReader, options: FieldOptions, total: int) -> tuple[int, int]:
    """How many frames of `total` the network sees at once, and the step between them: less for short videos."""
    length = min(pre.num_frames, total)
    seconds = pre.stride / REFERENCE_FPS if pre.sampling == "dense" else _STEP_SECONDS
    return length, min(options.step or max(1, round(seconds * reader.fps)), total // length)


def scaled_size(height: int, width: int, *, short: int | None = None, long: int | None = None) -> tuple[int, int]:
    """Height and width in the same aspect, with the short or the long side as given."""
    factor = short / min(height, width) if short is not None else (long or 1) / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _frames(
    reader: VideoReader, indices: range, pre: Preprocessing, seen: tuple[int, int], shown: tuple[int, int]
) -> Iterator[tuple[Picture, Tensor]]:
    """Each frame as it is shown, frame_HWC, and as the network sees it, small_CHW in uint8."""
    for place in range(0, len(indices), _READ_AT_ONCE):
        frames_TCHW = to_tensor(reader.read(indices[place : place + _READ_AT_ONCE]))
        shown_THWC = resize(frames_TCHW, *shown).permute(0, 2, 3, 1).contiguous().numpy()
        seen_TCHW = resize(frames_TCHW, *seen, antialias=pre.antialias)
        yield from zip(shown_THWC, seen_TCHW, strict=True)
