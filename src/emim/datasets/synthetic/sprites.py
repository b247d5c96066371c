"""Objects as cut-out images: a texture under the mask of a random shape.

Shape suffixes: H height and W width (sprites are square), C = 4 channels (colour multiplied by coverage, then
coverage), M polygon corners. Shape coordinates: 1 is the object's radius, x to the right, y down.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from emim.datasets.synthetic.textures import Texture, draw_palette

__all__ = ["SPRITE_REACH", "Points", "Sprite", "cut_out", "draw_outline", "draw_rectangle"]

#: Half the side of a sprite image, in object radii; leaves room for corners and shadow.
SPRITE_REACH = 1.75

Points = npt.NDArray[np.float64]
Sprite = npt.NDArray[np.float32]


def draw_outline(rng: np.random.Generator) -> Points:
    """Corners_M2 of a random shape: nearly half are rectangles, as crops of photographs are."""
    names, weights = zip(*_SHAPES.items(), strict=True)
    shape = names[int(rng.choice(len(names), p=np.array(weights) / sum(weights)))]
    # A turning disc is hard to see, so ellipses are never round.
    return _stretch(rng, shape(rng), least=0.12 if shape is _ellipse else 0.0)


def draw_rectangle(rng: np.random.Generator) -> Points:
    """Corners_M2 of a sharp rectangle of random aspect."""
    return _stretch(rng, _rectangle(rng))


def cut_out(rng: np.random.Generator, texture_HWC: Texture, outline_M2: Points, *, plain: bool = False) -> Sprite:
    """Mask a texture by a shape; some get a soft edge, an outline or a shadow unless `plain`.

    Args:
        rng: source of randomness.
        texture_HWC: square texture of 3 channels that covers `SPRITE_REACH` radii to each side.
        outline_M2: shape corners.
        plain: no decoration.

    Returns:
        Image_HWC of four channels, colour premultiplied by coverage.
    """
    side = texture_HWC.shape[0]
    soft, edged, shaded = (rng.random(3) < (0.2, 0.12, 0.2)) & (not plain)
    softness = rng.uniform(0.02, 0.08) * side if soft else 0.0
    mask_HW1 = _mask(outline_M2, side, softness)
    colour_HWC = texture_HWC
    if edged:
        inner_HW1 = _mask(outline_M2 * rng.uniform(0.8, 0.94), side, softness)
        colour_HWC = draw_palette(rng, 1)[0] + inner_HW1 * (colour_HWC - draw_palette(rng, 1)[0])
    sprite_HWC = np.concatenate([colour_HWC * mask_HW1, mask_HW1], axis=2)
    if shaded:
        offset_2 = rng.uniform(-0.15, 0.15, 2)
        shadow_HW1 = _mask(outline_M2 + offset_2, side, 0.03 * side) * np.float32(rng.uniform(0.2, 0.6))
        sprite_HWC[..., 3:] += (1 - mask_HW1) * shadow_HW1
    return np.asarray(np.clip(sprite_HWC, 0, 1), dtype=np.float32)


def _mask(outline_M2: Points, side: int, softness: float) -> npt.NDArray[np.float32]:
    scale = 3
    pixels_M2 = (outline_M2 / SPRITE_REACH + 1) * side * scale / 2
    image = Image.new("L", (side * scale, side * scale))
    ImageDraw.Draw(image).polygon([*map(tuple, pixels_M2)], fill=255)
    image = image.reduce(scale)
    if softness:
        image = image.filter(ImageFilter.GaussianBlur(softness))
    return np.asarray(image, dtype=np.float32)[..., None] / 255.0


def _stretch(rng: np.random.Generator, outline_M2: Points, *, least: float = 0.0) -> Points:
    """Change the aspect at constant area; corners stay within the sprite."""
    root = np.exp(rng.choice((-1.0, 1.0)) * rng.uniform(least, 0.3))
    return np.asarray(np.clip(outline_M2 * (root, 1 / root), -1.6, 1.6))


def _rectangle(rng: np.random.Generator) -> Points:
    return np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def _round_rectangle(rng: np.random.Generator) -> Points:
    """A superellipse, between an ellipse and a rectangle."""
    angle_M = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    power = rng.uniform(0.25, 0.7)
    cosine_M, sine_M = np.cos(angle_M), np.sin(angle_M)
    x_M, y_M = np.sign(cosine_M) * np.abs(cosine_M) ** power, np.sign(sine_M) * np.abs(sine_M) ** power
    return np.stack([x_M, y_M], axis=1)


def _ellipse(rng: np.random.Generator) -> Points:
    return _polar(np.full(72, 1.1))


def _polygon(rng: np.random.Generator) -> Points:
    corners = int(rng.integers(3, 8))
    angle_M = (np.arange(corners) + rng.uniform(-0.25, 0.25, corners)) * (2 * np.pi / corners)
    radius_M = rng.uniform(1.0, 1.4, corners)
    return np.stack([radius_M * np.cos(angle_M), radius_M * np.sin(angle_M)], axis=1)


def _star(rng: np.random.Generator) -> Points:
    radius_M = np.full(2 * int(rng.integers(3, 8)), 1.4)
    radius_M[1::2] = rng.uniform(0.5, 0.9)
    return _polar(radius_M)


def _blob(rng: np.random.Generator) -> Points:
    angle_M = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius_M = np.full(72, 1.1)
    for order in range(1, 5):
        radius_M += rng.normal(0, 0.16 / order) * np.cos(order * angle_M + rng.uniform(0, 2 * np.pi))
    return _polar(np.clip(radius_M, 0.4, 1.5))


def _polar(radius_M: npt.NDArray[np.float64]) -> Points:
    angle_M = np.linspace(0, 2 * np.pi, len(radius_M), endpoint=False)
    return np.stack([radius_M * np.cos(angle_M), radius_M * np.sin(angle_M)], axis=1)


_SHAPES: dict[Callable[[np.random.Generator], Points], float] = {
    _rectangle: 0.45,
    _round_rectangle: 0.1,
    _ellipse: 0.12,
    _polygon: 0.13,
    _star: 0.07,
    _blob: 0.13,
}
