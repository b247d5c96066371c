"""Random crops of whole clips: one box for all frames, resized to the network's square.

Shape legend: T frames, H height, W width, C channels; Placed has [T, C, h, w].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from emim.data.preprocessing import resize, to_tensor

__all__ = ["Box", "LetterboxCrop", "Placed", "RandomResizedCrop", "Range", "StretchCrop"]

Range = tuple[float, float]

_TRIES = 10


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Placed:
    """Frames (uint8 [T, C, h, w]) and their place in the square that they are a part of."""

    frames: Tensor
    top: int
    left: int


class RandomResizedCrop:
    """A box of random area and aspect, resized to a square; the usual sampling of image training.

    Ten tries to fit a box of area share uniform in `scale` and aspect log-uniform in `ratio`; after that the
    largest central box whose aspect is in `ratio`.
    """

    def __init__(
        self, size: int, scale: Range = (0.08, 1.0), ratio: Range = (0.75, 1.3333), antialias: bool = True
    ) -> None:
        """With `antialias`, a shrunk box is averaged over; without it, bilinear samples are taken, as published."""
        self.size = size
        self.scale = scale
        self.ratio = ratio
        self.antialias = antialias

    def box(self, height: int, width: int, rng: np.random.Generator) -> Box:
        """Draw a box within `height` x `width`."""
        for _ in range(_TRIES):
            area = height * width * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < box_width <= width and 0 < box_height <= height:
                top = int(rng.integers(0, height - box_height, endpoint=True))
                left = int(rng.integers(0, width - box_width, endpoint=True))
                return Box(top, left, box_height, box_width)
        box_width = min(width, max(1, round(height * self.ratio[1])))
        box_height = min(height, max(1, round(width / self.ratio[0])))
        return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)

    def __call__(self, frames_THWC: NDArray[np.uint8], rng: np.random.Generator) -> Placed:
        box = self.box(frames_THWC.shape[1], frames_THWC.shape[2], rng)
        return Placed(self._cut(frames_THWC, box, self.size, self.size), 0, 0)

    def _cut(self, frames_THWC: NDArray[np.uint8], box: Box, height: int, width: int) -> Tensor:
        # Resizing the cropped region alone costs a fraction of resizing the frame.
        region = to_tensor(frames_THWC[:, box.top : box.top + box.height, box.left : box.left + box.width])
        return resize(region, height, width, antialias=self.antialias)


class StretchCrop(RandomResizedCrop):
    """`RandomResizedCrop` of the frame stretched to a square; area and aspect are those in the square."""

    def __call__(self, frames_THWC: NDArray[np.uint8], rng: np.random.Generator) -> Placed:
        _, height, width, _ = frames_THWC.shape
        side = max(height, width)
        box = self.box(side, side, rng)
        top, bottom = _scaled_span(box.top, box.height, height / side, height)
        left, right = _scaled_span(box.left, box.width, width / side, width)
        inner = Box(top, left, bottom - top, right - left)
        return Placed(self._cut(frames_THWC, inner, self.size, self.size), 0, 0)


class LetterboxCrop(RandomResizedCrop):
    """`RandomResizedCrop` of the frame centred in a square.

    Only the part of the box that shows the frame is returned, with its place in the output; the rest is
    border. A box that shows little of the frame (under half of what it could) is drawn again.
    """

    def __call__(self, frames_THWC: NDArray[np.uint8], rng: np.random.Generator) -> Placed:
        _, height, width, _ = frames_THWC.shape
        side = max(height, width)
        offset_y, offset_x = (side - height) // 2, (side - width) // 2
        for _ in range(_TRIES):
            box = self.box(side, side, rng)
            inner = _intersect(box, Box(offset_y, offset_x, height, width))
            if 2 * inner.height * inner.width >= min(box.height * box.width, height * width):
                break
        else:
            box, inner = Box(0, 0, side, side), Box(offset_y, offset_x, height, width)
        top, bottom = _scaled_span(inner.top - box.top, inner.height, self.size / box.height, self.size)
        left, right = _scaled_span(inner.left - box.left, inner.width, self.size / box.width, self.size)
        shown = Box(inner.top - offset_y, inner.left - offset_x, inner.height, inner.width)
        return Placed(self._cut(frames_THWC, shown, bottom - top, right - left), top, left)


def _intersect(one: Box, other: Box) -> Box:
    top, left = max(one.top, other.top), max(one.left, other.left)
    bottom = min(one.top + one.height, other.top + other.height)
    right = min(one.left + one.width, other.left + other.width)
    return Box(top, left, max(bottom - top, 0), max(right - left, 0))


def _scaled_span(start: int, length: int, factor: float, limit: int) -> tuple[int, int]:
    """[start, start + length) times `factor` in whole pixels: at least one, within [0, limit)."""
    low = min(round(start * factor), limit - 1)
    return low, min(max(round((start + length) * factor), low + 1), limit)
