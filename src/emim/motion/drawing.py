"""Draw a motion field beside and over its frame: arrows, colours and their legend.

Shape suffixes: 2 axes (x to the right, y down) in pixels of the picture, H and W its pixels, C the three colours red,
green, blue; h and w the grid of a field.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

__all__ = [
    "STYLES",
    "Floats",
    "Picture",
    "Pixels",
    "Style",
    "draw",
    "draw_arrows",
    "draw_colours",
    "draw_legend",
    "fitted_text",
    "flow_colours",
    "resized",
    "text_font",
    "wheel",
]

Floats = npt.NDArray[np.floating]
Pixels = npt.NDArray[np.uint8]

# Steps from one pure colour to the next, more where people distinguish hues better.
_STEPS = (("red", 15), ("yellow", 6), ("green", 4), ("cyan", 11), ("blue", 13), ("magenta", 6))
_PURE = {
    "red": (1, 0, 0),
    "yellow": (1, 1, 0),
    "green": (0, 1, 0),
    "cyan": (0, 1, 1),
    "blue": (0, 0, 1),
    "magenta": (1, 0, 1),
}
_TOO_LONG = 0.75
"""Factor that darkens displacements longer than the largest length."""


def _hues() -> Floats:
    """Colours of the wheel in [0, 1], one row each; the first is pure red."""
    parts = []
    for index, (name, steps) in enumerate(_STEPS):
        start_C = np.array(_PURE[name], dtype=np.float64)
        end_C = np.array(_PURE[_STEPS[(index + 1) % len(_STEPS)][0]], dtype=np.float64)
        parts.append(start_C + (end_C - start_C) * np.arange(steps)[:, None] / steps)
    return np.concatenate(parts)


_HUE_RC = _hues()


def flow_colours(displacement_2HW: Floats, largest: float) -> Pixels:
    """Colour displacements as in the flow fields of Baker et al. (IJCV 2011).

    Args:
        displacement_2HW: in any unit.
        largest: length of full colour, in the same unit; shorter displacements are paler down to white for zero,
            longer ones are darkened.

    Returns:
        image_HWC, uint8 RGB.

    Raises:
        ValueError: `largest` is not above 0.
    """
    if not largest > 0:
        raise ValueError(f"largest must be above 0, got {largest}")
    x_HW, y_HW = np.asarray(displacement_2HW, dtype=np.float64) / largest
    length_HW = np.hypot(x_HW, y_HW)
    # From -1 to 1: the wheel begins with the direction to the left, half a turn from red at the right.
    turn_HW = np.arctan2(-y_HW, -x_HW) / np.pi
    place_HW = (turn_HW + 1) / 2 * (len(_HUE_RC) - 1)
    low_HW = np.floor(place_HW).astype(np.int64)
    share_HW1 = (place_HW - low_HW)[..., None]
    colour_HWC = (1 - share_HW1) * _HUE_RC[low_HW] + share_HW1 * _HUE_RC[(low_HW + 1) % len(_HUE_RC)]
    short_HW1 = (length_HW <= 1)[..., None]
    colour_HWC = np.where(short_HW1, 1 - length_HW[..., None] * (1 - colour_HWC), _TOO_LONG * colour_HWC)
    return np.asarray(np.floor(255 * colour_HWC), dtype=np.uint8)


def wheel(side: int) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """Draw the legend: a disc of `side` pixels, each point in the colour of the displacement from the centre to it.

    Returns:
        image_HWC and disc_HW, which is true within the disc.
    """
    step_S = (np.arange(side) + 0.5) / side * 2 - 1
    displacement_2SS = np.stack(np.broadcast_arrays(step_S[None, :], step_S[:, None]))
    return flow_colours(displacement_2SS, 1.0), np.hypot(*displacement_2SS) <= 1


Picture = npt.NDArray[np.uint8]

Style = Literal["both", "arrows", "colours"]
"""The frame with arrows side by side with the colours, or one of the two."""
STYLES: tuple[Style, ...] = get_args(Style)

_FINER = 3  # lines are drawn that much larger and then reduced, which smooths their edges
_SPACING = 16
_MOST_ARROWS = 36  # along a side
_SHORTEST = 0.1  # relative to the largest length: shorter displacements get no arrow
_SEEN_THROUGH = 0.35  # share of the grey frame under the colours


def draw(
    frame_HWC: Picture,
    displacement_2hw: Floats,
    confidence_hw: Floats,
    largest: float,
    *,
    style: Style = "both",
    caption: str = "",
) -> Picture:
    """Draw a frame and its field as one picture, with the legend of the colours.

    Args:
        frame_HWC: the frame.
        displacement_2hw: in pixels of the frame, on any grid.
        confidence_hw: from 0 to 1; less confident places are drawn fainter.
        largest: length of full colour in pixels.
        style: "both" puts two panels side by side, or one above the other if the frame is wider than twice its height.
        caption: a line of text at the top.
    """
    panels = []
    if style != "colours":
        panels.append(draw_arrows(frame_HWC, displacement_2hw, confidence_hw, largest))
    if style != "arrows":
        panels.append(draw_colours(frame_HWC, displacement_2hw, confidence_hw, largest))
    wide = frame_HWC.shape[1] > 2 * frame_HWC.shape[0]
    picture = Image.fromarray(np.concatenate(panels, axis=0 if wide else 1))
    side = round(min(96, max(28, 0.2 * min(picture.size))))
    gap = max(2, side // 10)
    draw_legend(picture, picture.width - gap, picture.height - gap, side, largest)
    if caption:
        _draw_caption(picture, caption)
    return np.asarray(picture)


def draw_arrows(frame_HWC: Picture, displacement_2hw: Floats, confidence_hw: Floats, largest: float) -> Picture:
    """Draw the frame with an arrow, in the hue of its direction, from each place to its position in the next frame."""
    height, width = frame_HWC.shape[:2]
    spacing = max(_SPACING, max(height, width) / _MOST_ARROWS)
    rows, columns = (max(1, round(side / spacing)) for side in (height, width))
    shift_2hw = np.stack([resized(axis_hw, rows, columns) for axis_hw in displacement_2hw])
    sure_hw = resized(confidence_hw, rows, columns)
    length_hw = np.hypot(*shift_2hw)
    hue_hwC = flow_colours(shift_2hw / np.maximum(length_hw, 1e-9), 1.0)
    layer = Image.new("RGBA", (width * _FINER, height * _FINER))
    pen = ImageDraw.Draw(layer)
    thickness = max(1.3, min(height, width) / 200) * _FINER
    for row, column in zip(*np.nonzero(length_hw > _SHORTEST * largest), strict=True):
        start_2 = np.array([(column + 0.5) * width / columns, (row + 0.5) * height / rows]) * _FINER
        red, green, blue = (int(value) for value in hue_hwC[row, column])
        ink = (red, green, blue, _opacity(sure_hw[row, column]))
        _draw_arrow(pen, start_2, shift_2hw[:, row, column] * _FINER, thickness, ink)
    drawn = Image.fromarray(frame_HWC).convert("RGBA")
    drawn.alpha_composite(layer.resize((width, height), Image.Resampling.BOX))
    return np.asarray(drawn.convert("RGB"))


def draw_colours(frame_HWC: Picture, displacement_2hw: Floats, confidence_hw: Floats, largest: float) -> Picture:
    """Draw the field's colours over the grey frame, which shows more where the field is less confident."""
    height, width = frame_HWC.shape[:2]
    shift_2HW = np.stack([resized(axis_hw, height, width) for axis_hw in displacement_2hw])
    colour_HWC = flow_colours(shift_2HW, largest).astype(np.float32)
    grey_HWC = np.asarray(Image.fromarray(frame_HWC).convert("L"), dtype=np.float32)[..., None]
    share_HWC = _SEEN_THROUGH * (1.5 - resized(confidence_hw, height, width)[..., None])
    return np.asarray((1 - share_HWC) * colour_HWC + share_HWC * grey_HWC, dtype=np.uint8)


def resized(values_hw: Floats, height: int, width: int) -> Floats:
    """Resample values to another grid, bilinear between the centres of its cells."""
    image = Image.fromarray(np.ascontiguousarray(values_hw, dtype=np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _opacity(confidence: float) -> int:
    return round(255 * min(1.0, 0.4 + confidence))


def _draw_arrow(
    pen: ImageDraw.ImageDraw, start_2: Floats, shift_2: Floats, thickness: float, ink: tuple[int, int, int, int]
) -> None:
    """Draw a line with a head and a dark outline, visible on any background."""
    length = float(np.hypot(*shift_2))
    along_2 = shift_2 / length
    across_2 = np.array([-along_2[1], along_2[0]])
    end_2 = start_2 + shift_2
    head = min(0.6 * length, 4.5 * thickness)
    neck_2 = end_2 - head * along_2
    for grown, colour in ((0.8 * thickness, (0, 0, 0, ink[3])), (0.0, ink)):
        pen.line([tuple(start_2), tuple(neck_2)], fill=colour, width=max(1, round(thickness + grown)))
        half_2 = (0.55 * head + grown / 2) * across_2
        tip_2 = end_2 + grown * along_2
        pen.polygon([tuple(tip_2), tuple(neck_2 + half_2), tuple(neck_2 - half_2)], fill=colour)


def draw_legend(picture: Image.Image, right: int, bottom: int, side: int, largest: float) -> None:
    """Draw the wheel of colours on a dark plate that ends at `right` and `bottom`, with the length of its radius."""
    disc_SSC, inside_SS = wheel(side * _FINER)
    pad = max(2, side // 10)
    font = text_font(max(9, side // 6))
    text = f"{largest:.2g} px"
    left, top = right - side - pad, bottom - side - round(font.getbbox(text)[3]) - 2 * pad
    pen = ImageDraw.Draw(picture, "RGBA")
    pen.rounded_rectangle((left - pad, top - pad, right, bottom), pad, (0, 0, 0, 150))
    mask = Image.fromarray(np.where(inside_SS, 255, 0).astype(np.uint8)).resize((side, side), Image.Resampling.BOX)
    disc = Image.fromarray(disc_SSC).resize((side, side), Image.Resampling.BOX)
    picture.paste(disc, (left, top), mask)
    pen.text((left + side / 2, top + side + pad / 2), text, fill="white", font=font, anchor="ma")


def text_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that comes with Pillow, so that pictures are the same everywhere."""
    return ImageFont.load_default(size)


def fitted_text(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Shorten the text with an ellipsis if it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _draw_caption(picture: Image.Image, caption: str) -> None:
    size = max(11, round(0.05 * min(picture.size)))
    font, pad = text_font(size), size // 3
    caption = fitted_text(caption, font, picture.width - 4 * pad)
    pen = ImageDraw.Draw(picture, "RGBA")
    pen.rounded_rectangle((pad, pad, 3 * pad + font.getlength(caption), 2 * pad + size), pad, (0, 0, 0, 170))
    pen.text((2 * pad, 1.5 * pad + size / 2), caption, fill="white", font=font, anchor="lm")
