"""Draw the picture of an explanation: a column for each frame, with the frame, the evidence, and the motion.

Shape suffixes: T frames, H and W pixels of a view, C the three colours, 2 axes (x, y), h and w the grid of the features
or of a field.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from emim.motion.drawing import Floats, Picture, draw_colours, draw_legend, fitted_text, resized, text_font

__all__ = ["draw_sheet"]

_MOST_FRAMES = 8
_TILE, _GAP, _MARGIN = 144, 6, 24
_HEADER, _LABELS, _BARS, _FOOT = 76, 136, 34, 76
_FOR = np.array([235.0, 100.0, 0.0], dtype=np.float32)
_AGAINST = np.array([30.0, 100.0, 200.0], dtype=np.float32)  # people who see few colours tell it from the orange
_INK, _QUIET, _PAPER = (28, 28, 30), (100, 100, 106), (255, 255, 255)


def draw_sheet(
    frames_THWC: Picture,
    cam_Thw: Floats,
    displacement_T2hw: Floats | None,
    confidence_Thw: Floats | None,
    *,
    label: str,
    title: str,
    subtitle: str,
) -> Picture:
    """Draw the picture; of more than eight frames, eight spread over the clip are shown.

    Args:
        frames_THWC: the frames.
        cam_Thw: evidence for the class (above 0) and against it, for any number of frames on any grid.
        displacement_T2hw: in pixels of the frames, likewise for any number of frames on any grid; None leaves the row
            out.
        confidence_Thw: of the displacements.
        label: the class.
        title: the first line.
        subtitle: the second line.
    """
    T, H, W = frames_THWC.shape[:3]
    times = np.unique(np.linspace(0, T - 1, min(T, _MOST_FRAMES)).round().astype(int)).tolist()
    factor = _TILE / max(H, W)
    tile = (max(1, round(H * factor)), max(1, round(W * factor)))
    moving = displacement_T2hw is not None and confidence_Thw is not None
    width = 2 * _MARGIN + _LABELS + len(times) * (tile[1] + _GAP) - _GAP
    height = 2 * _MARGIN + _HEADER + (2 + moving) * (tile[0] + _GAP) + _BARS + _FOOT
    page = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((_MARGIN, _MARGIN), fitted_text(title, text_font(26), width - 2 * _MARGIN), _INK, text_font(26))
    pen.text((_MARGIN, _MARGIN + 36), fitted_text(subtitle, text_font(15), width - 2 * _MARGIN), _QUIET, text_font(15))

    def row(top: int, name: str, note: str, tiles: list[Picture]) -> int:
        pen.text((_MARGIN, top), name, _INK, text_font(16))
        pen.text((_MARGIN, top + 22), fitted_text(note, text_font(13), _LABELS - 10), _QUIET, text_font(13))
        for column, tile_HWC in enumerate(tiles):
            page.paste(Image.fromarray(tile_HWC), (_MARGIN + _LABELS + column * (tile[1] + _GAP), top))
        return int(top + tile[0] + _GAP)

    shown = [_sized(frames_THWC[time], tile) for time in times]
    top = row(_MARGIN + _HEADER, "Frames", "at the network's size", shown)
    scaled_Thw = _scaled(cam_Thw)
    shares = [scaled_Thw[_at(time, T, len(scaled_Thw))] for time in times]
    pairs = zip(shown, shares, strict=True)
    top = row(top, "Evidence", f"for {label}", [_evidence(frame_HWC, values_hw) for frame_HWC, values_hw in pairs])
    top = _draw_shares(pen, top, cam_Thw, times, T, tile[1])
    if displacement_T2hw is not None and confidence_Thw is not None:
        largest = max(float(np.quantile(np.hypot(*displacement_T2hw.swapaxes(0, 1)), 0.99)), 1.0)
        at = [_at(time, T, len(confidence_Thw)) for time in times]
        colours = [
            draw_colours(frames_THWC[time], displacement_T2hw[step], confidence_Thw[step], largest)
            for time, step in zip(times, at, strict=True)
        ]
        top = row(top, "Motion", "to the next frame", [_sized(picture_HWC, tile) for picture_HWC in colours])
        draw_legend(page, width - _MARGIN, top + _FOOT, 46, largest)
    _draw_key(pen, top + 14, label, width)
    return np.asarray(page)


def _at(time: int, frames: int, steps: int) -> int:
    """Return the step of a frame: there may be a step for every second frame only."""
    return time * steps // frames


def _sized(picture_HWC: Picture, size: tuple[int, int]) -> Picture:
    return np.asarray(Image.fromarray(picture_HWC).resize(size[::-1], Image.Resampling.BICUBIC))


def _scaled(cam_Thw: Floats) -> Floats:
    """Scale to at most 1 in absolute value. What all places have in common is subtracted, since it separates none."""
    common = max(0.0, float(cam_Thw.min())) + min(0.0, float(cam_Thw.max()))
    apart_Thw = cam_Thw - common
    return np.asarray(apart_Thw / max(float(np.abs(apart_Thw).max()), 1e-12))


def _evidence(frame_HWC: Picture, cam_hw: Floats) -> Picture:
    """Draw the frame in light grey, under orange for evidence for the class and blue for evidence against it."""
    height, width = frame_HWC.shape[:2]
    grey_HWC = np.asarray(Image.fromarray(frame_HWC).convert("L"), dtype=np.float32)[..., None] * 0.6 + 90
    cam_HWC = resized(cam_hw, height, width)[..., None]
    share_HWC = 0.9 * np.abs(cam_HWC) ** 0.7
    return np.asarray((1 - share_HWC) * grey_HWC + share_HWC * np.where(cam_HWC > 0, _FOR, _AGAINST), dtype=np.uint8)


def _draw_shares(
    pen: ImageDraw.ImageDraw, top: int, cam_Thw: Floats, times: list[int], frames: int, tile_width: int
) -> int:
    """Draw a bar for each frame: its share of the evidence for the class."""
    evidence_T = np.maximum(cam_Thw, 0).sum(axis=(1, 2))
    share_T = evidence_T / max(float(evidence_T.sum()), 1e-12)
    pen.text((_MARGIN, top), "share of a frame", _QUIET, text_font(13))
    for column, time in enumerate(times):
        left = _MARGIN + _LABELS + column * (tile_width + _GAP)
        share = float(share_T[_at(time, frames, len(share_T))])
        length = share / max(float(share_T.max()), 1e-12) * (tile_width - 40)
        pen.rectangle((left, top + 3, left + max(1.0, length), top + 13), tuple(int(value) for value in _FOR))
        pen.text((left + length + 6, top), f"{share:.0%}", _QUIET, text_font(13))
    return top + _BARS


def _draw_key(pen: ImageDraw.ImageDraw, top: int, label: str, width: int) -> None:
    left = _MARGIN + _LABELS
    for colour, text in ((_FOR, f"evidence for {label}"), (_AGAINST, f"evidence against {label}")):
        pen.rectangle((left, top, left + 14, top + 14), tuple(int(value) for value in colour))
        text = fitted_text(text, text_font(14), (width - _MARGIN - _LABELS) / 3)
        pen.text((left + 22, top - 1), text, _QUIET, text_font(14))
        left += 22 + round(text_font(14).getlength(text)) + 28
