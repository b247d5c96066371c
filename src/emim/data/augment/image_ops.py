"""Pillow's image operations on whole clips of uint8 frames, each within one grey level of Pillow's own.

Every function gives a new array and leaves its input alone; frames are handled one by one, as published recipes do
(each frame's own histogram and mean). Why not Pillow itself: on clips of 340 x 256 it takes two to nine times as long
for most; where it does not, as for `color` and `equalize`, it is used (benchmarks/augment.py).

Shape legend: T frames, H height, W width, C channels (3: RGB), M taps of a filter, R pixels of a frame
(rows of a table), X the values of a row of pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch.nn import functional

__all__ = [
    "Frames",
    "auto_contrast",
    "brightness",
    "color",
    "contrast",
    "equalize",
    "invert",
    "posterize",
    "rotate",
    "sharpness",
    "shear_x",
    "shear_y",
    "solarize",
    "solarize_add",
    "translate_x",
    "translate_y",
]

Frames = NDArray[np.uint8]

_VALUES = np.arange(256)
_BAND_PIXELS = 1 << 14  # the taps of this many pixels fit into a core's cache
_TABLE_BYTES = 1 << 26
_ROUNDING = 1e-3  # above the error of float32 sums, so that cutting the fraction off keeps whole values


def invert(frames_THWC: Frames) -> Frames:
    """255 - value."""
    return 255 - frames_THWC


def posterize(frames_THWC: Frames, bits: int) -> Frames:
    """Keep the `bits` most significant bits."""
    return frames_THWC & np.uint8(256 - (1 << (8 - bits)))


def solarize(frames_THWC: Frames, threshold: int) -> Frames:
    """Invert values of at least `threshold`, 0..256."""
    # 255 - v is v with all bits flipped.
    return frames_THWC ^ (np.uint8(255) * (frames_THWC >= threshold))


def solarize_add(frames_THWC: Frames, add: int, threshold: int = 128) -> Frames:
    """Add 0..128 to values below `threshold`, which is 128 at most."""
    return frames_THWC + np.uint8(add) * (frames_THWC < threshold)


def brightness(frames_THWC: Frames, factor: float) -> Frames:
    """Blend with black: factor 0 is black, 1 the frame, above 1 brighter."""
    return _look_up(frames_THWC, _blend(np.zeros((1, 256)), _VALUES, factor))


def contrast(frames_THWC: Frames, factor: float) -> Frames:
    """Blend with the mean grey of each frame."""
    histogram_T256 = np.array([Image.fromarray(frame_HWC).convert("L").histogram() for frame_HWC in frames_THWC])
    mean_T = histogram_T256 @ _VALUES / histogram_T256.sum(1)
    return _look_up(frames_THWC, _blend(np.floor(mean_T + 0.5)[:, None], _VALUES, factor))


def auto_contrast(frames_THWC: Frames) -> Frames:
    """Stretch every channel of every frame to 0..255."""
    # Rows first: those are long runs of memory.
    low_TC1 = frames_THWC.min(1).min(1)[..., None].astype(np.float64)
    high_TC1 = frames_THWC.max(1).max(1)[..., None].astype(np.float64)
    flat = high_TC1 <= low_TC1
    scale_TC1 = 255 / np.where(flat, 1, high_TC1 - low_TC1)
    table_TC256 = np.clip(_VALUES * scale_TC1 - low_TC1 * scale_TC1, 0, 255)
    return _look_up(frames_THWC, np.where(flat, _VALUES, table_TC256))


def equalize(frames_THWC: Frames) -> Frames:
    """Make the histogram of every channel of every frame as level as a table of values can."""
    return _each(frames_THWC, ImageOps.equalize)


def color(frames_THWC: Frames, factor: float) -> Frames:
    """Blend with the grey frame: factor 0 is grey, 1 the frame, above 1 more colourful."""
    return _each(frames_THWC, lambda image: ImageEnhance.Color(image).enhance(factor))


def sharpness(frames_THWC: Frames, factor: float) -> Frames:
    """Blend with the smoothed frame (3 x 3, centre 5, neighbours 1, over 13); the outermost pixels stay."""
    frames, height, width, channels = frames_THWC.shape
    result_THWC = frames_THWC.copy()
    source_THX = frames_THWC.reshape(frames, height, width * channels)
    target_THX = result_THWC.reshape(frames, height, width * channels)
    for source_HX, target_HX in zip(source_THX, target_THX, strict=True):
        wide_HX = source_HX.astype(np.uint16)
        rows = wide_HX[:-2] + wide_HX[1:-1]
        rows += wide_HX[2:]
        total = rows[:, : -2 * channels] + rows[:, channels:-channels]
        total += rows[:, 2 * channels :]
        centre = wide_HX[1:-1, channels:-channels]
        total += centre << 2
        total += 6
        total //= 13
        target_HX[1:-1, channels:-channels] = _blend(total, centre, factor)
    return result_THWC


def shear_x(frames_THWC: Frames, factor: float, fill: int) -> Frames:
    """Row y is read `factor` * y pixels to the right; bicubic."""
    return _shift_rows(frames_THWC, factor * (np.arange(frames_THWC.shape[1], dtype=np.float64) + 0.5), fill)


def shear_y(frames_THWC: Frames, factor: float, fill: int) -> Frames:
    """Column x is read `factor` * x pixels further down; bicubic."""
    return _transposed(shear_x(_transposed(frames_THWC), factor, fill))


def translate_x(frames_THWC: Frames, pixels: float, fill: int) -> Frames:
    """Read `pixels` to the right; bicubic."""
    return _shift_rows(frames_THWC, np.full(frames_THWC.shape[1], pixels), fill)


def translate_y(frames_THWC: Frames, pixels: float, fill: int) -> Frames:
    """Read `pixels` further down; bicubic."""
    frames, height, width, channels = frames_THWC.shape
    # The frame as one row whose pixels are the frame's rows.
    row_T1HX = frames_THWC.reshape(frames, 1, height, width * channels)
    return _shift_rows(row_T1HX, np.array([pixels]), fill).reshape(frames_THWC.shape)


def rotate(frames_THWC: Frames, degrees: float, fill: int) -> Frames:
    """Turn counterclockwise about the centre; bicubic."""
    frames, height, width, channels = frames_THWC.shape
    parts = math.ceil(4 * frames_THWC.size / _TABLE_BYTES)  # bounds the memory that large frames take
    if parts > 1 and frames > 1:
        return np.concatenate([rotate(part, degrees, fill) for part in np.array_split(frames_THWC, min(parts, frames))])
    # All frames share the taps, so a pixel of all frames is one row of a table, and a result one weighted sum of rows.
    pixels_RTC = _swapped(frames_THWC.reshape(frames, height * width, channels))
    table_RX = torch.empty((height * width + 1, frames * channels))
    table_RX[:-1] = torch.from_numpy(pixels_RTC).flatten(1)
    table_RX[-1] = fill
    result_RX = torch.empty((height * width, frames * channels), dtype=torch.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        index_RM, weight_RM = _rotation_taps(height, width, degrees, top, bottom)
        values_RX = functional.embedding_bag(index_RM, table_RX, mode="sum", per_sample_weights=weight_RM)
        result_RX[top * width : bottom * width] = values_RX.add_(_ROUNDING).clamp_(0, 255)
    result_RTC = result_RX.view(height * width, frames, channels).numpy()
    return _swapped(result_RTC).reshape(frames_THWC.shape)


def _rotation_taps(height: int, width: int, degrees: float, top: int, bottom: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels to read (height * width is the fill) and their weights, for the rows [top, bottom) of the result."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x_W = np.arange(width) + 0.5 - width / 2
    y_H1 = np.arange(top, bottom)[:, None] + 0.5 - height / 2
    x_R = (cos * x_W - sin * y_H1 + width / 2).ravel()
    y_R = (sin * x_W + cos * y_H1 + height / 2).ravel()
    outside_R = (x_R < 0) | (x_R >= width) | (y_R < 0) | (y_R >= height)
    column_MR, weight_x_MR = _taps(x_R, width)
    row_MR, weight_y_MR = _taps(y_R, height)
    row_MR *= width
    index_RMM = np.empty((x_R.size, 4, 4), dtype=np.int32)
    weight_RMM = np.empty((x_R.size, 4, 4), dtype=np.float32)
    for i in range(4):
        for j in range(4):
            index_RMM[:, i, j] = row_MR[i] + column_MR[j]
            weight_RMM[:, i, j] = weight_y_MR[i] * weight_x_MR[j]
    index_RMM[outside_R] = height * width  # the weights sum to 1
    return torch.from_numpy(index_RMM).flatten(1), torch.from_numpy(weight_RMM).flatten(1)


def _taps(place_R: NDArray[np.float64], length: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The four samples around each place along an axis, and their weights."""
    first_R = np.floor(place_R - 0.5)
    weight_MR = _cubic(place_R - 0.5 - first_R)
    index_MR = first_R.astype(np.int32) + np.arange(-1, 3, dtype=np.int32)[:, None]
    return np.clip(index_MR, 0, length - 1), weight_MR


def _cubic(part_R: NDArray[np.float64]) -> NDArray[np.float32]:
    """Weights of four neighbours, [4, R], at `part` of the way from the second to the third.

    The cubic is the one with slope -1, which Pillow's transforms have (its resize has -1/2).
    """
    d = part_R.astype(np.float32)
    d2, d3 = d * d, d * d * d
    return np.stack([2 * d2 - d - d3, 1 - 2 * d2 + d3, d + d2 - d3, d3 - d2])


def _shift_rows(frames_THWC: Frames, shift_H: NDArray[np.float64], fill: int) -> Frames:
    """Read every row `shift` pixels to the right, bicubic; what lies outside the frame is `fill`."""
    frames, height, width, channels = frames_THWC.shape
    whole_H = np.floor(shift_H).astype(np.int64)
    weight_MH1 = torch.from_numpy(_cubic(shift_H - whole_H))[..., None]
    padded_THX = torch.from_numpy(_align_rows(frames_THWC, whole_H)).flatten(2)
    result_THX = torch.empty((frames, height, width * channels), dtype=torch.uint8)
    for padded_HX, target_HX in zip(padded_THX, result_THX, strict=True):
        values_HX = padded_HX.float()
        total_HX = torch.full((height, width * channels), _ROUNDING)
        for tap in range(4):
            total_HX.addcmul_(values_HX[:, tap * channels : (tap + width) * channels], weight_MH1[tap])
        target_HX.copy_(total_HX.clamp_(0, 255))
    result_THWC = result_THX.view(frames_THWC.shape).numpy()
    first_H = np.clip(np.ceil(-0.5 - shift_H), 0, width).astype(np.int64)
    last_H = np.clip(np.ceil(width - 0.5 - shift_H), 0, width).astype(np.int64)
    for y in range(height):
        result_THWC[:, y, : first_H[y]] = fill
        result_THWC[:, y, last_H[y] :] = fill
    return result_THWC


def _align_rows(frames_THWC: Frames, whole_H: NDArray[np.int64]) -> Frames:
    """[T, H, W + 3, C]: row y from pixel whole[y] - 1 on, its edge pixels repeated where there are none."""
    frames, height, width, channels = frames_THWC.shape
    padded = np.empty((frames, height, width + 3, channels), dtype=np.uint8)
    steps = [0, *(np.flatnonzero(np.diff(whole_H)) + 1), height]
    for top, bottom in itertools.pairwise(steps):
        start = int(whole_H[top]) - 1
        left = min(max(-start, 0), width + 3)
        right = max(min(width - start, width + 3), 0)
        source, target = frames_THWC[:, top:bottom], padded[:, top:bottom]
        if left < right:
            target[:, :, left:right] = source[:, :, left + start : right + start]
        target[:, :, :left] = source[:, :, :1]
        target[:, :, right:] = source[:, :, -1:]
    return padded


def _transposed(frames_THWC: Frames) -> Frames:
    """[T, W, H, C]."""
    frames, height, width, channels = frames_THWC.shape
    result_TWHC = np.empty((frames, width, height, channels), dtype=np.uint8)
    for source_HWC, target_WHC in zip(frames_THWC, result_TWHC, strict=True):
        target_WHC[...] = np.asarray(Image.fromarray(source_HWC).transpose(Image.Transpose.TRANSPOSE))
    return result_TWHC


def _swapped(pixels_ABC: Frames) -> Frames:
    """[B, A, C], contiguous."""
    # Whole pixels move twice as fast as their channels one by one.
    pixels_AB = pixels_ABC.view(f"V{pixels_ABC.shape[-1]}")[..., 0]
    return np.ascontiguousarray(pixels_AB.T)[..., None].view(np.uint8)


def _blend(base: NDArray[Any], values: NDArray[Any], factor: float) -> NDArray[np.float32]:
    """Base + factor * (values - base) within 0..255; Pillow cuts the fraction off, as storing it as uint8 does."""
    base = base.astype(np.float32)
    mixed: NDArray[np.float32] = values.astype(np.float32) - base
    mixed *= np.float32(factor)
    mixed += base
    np.clip(mixed, 0, 255, out=mixed)
    return mixed


def _each(frames_THWC: Frames, change: Callable[[Image.Image], Image.Image]) -> Frames:
    result_THWC = np.empty_like(frames_THWC)
    for source_HWC, target_HWC in zip(frames_THWC, result_THWC, strict=True):
        target_HWC[...] = np.asarray(change(Image.fromarray(source_HWC)))
    return result_THWC


def _look_up(frames_THWC: Frames, table: NDArray[Any]) -> Frames:
    """Replace values by those of tables: one [1, 256], or one for each frame [T, 256] or each channel [T, C, 256]."""
    width, channels = frames_THWC.shape[-2:]
    parts = frames_THWC.reshape(len(table), -1, width, channels)
    result = np.empty_like(parts)
    for source, target, row in zip(parts, result, table.astype(np.uint8), strict=True):
        # Where all channels share a table, Pillow may take them for one wide grey image.
        image = Image.fromarray(source if row.ndim == 2 else source.reshape(-1, width * channels))
        target[...] = np.asarray(image.point(row.ravel().tolist())).reshape(target.shape)
    return result.reshape(frames_THWC.shape)
