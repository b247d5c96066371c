"""Procedural textures, from plain surfaces to photo-like mixtures, all anti-aliased.

Shape suffixes: H and W the two sides in pixels, C the three colour channels, M items, R pixels. Values are in [0, 1].

The dead-leaves model (shapes of power-law sizes that hide each other: Lee, Mumford and Huang 2001) and 1/f
noise share the scale-free statistics of photographs, so they carry most of the weight.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

__all__ = ["Field", "Texture", "draw_palette", "draw_texture", "ensure_contrast", "noise_field", "polygon_mask"]

Texture = npt.NDArray[np.float32]
Field = npt.NDArray[np.float32]


def draw_texture(rng: np.random.Generator, height: int, width: int) -> Texture:
    """One random texture_HWC."""
    names, weights = zip(*_WEIGHTS.items(), strict=True)
    maker = names[int(rng.choice(len(names), p=np.array(weights) / sum(weights)))]
    texture_HWC = maker(rng, height, width)
    if rng.random() < 0.3:  # uneven light
        light_HW = _ramp(rng, height, width)[..., None] * np.float32(rng.uniform(0.2, 0.7))
        texture_HWC = texture_HWC * (1.0 - light_HW)
    if rng.random() < 0.08:
        texture_HWC = np.repeat(texture_HWC.mean(axis=2, keepdims=True), 3, axis=2)
    return ensure_contrast(texture_HWC)


def ensure_contrast(texture_HWC: Texture, least: float = 0.05) -> Texture:
    """Stretch a texture whose standard deviation over the image is below `least`; clip to [0, 1]."""
    spread = float(texture_HWC.std(axis=(0, 1)).max())
    if spread < least:
        mean_C = texture_HWC.mean(axis=(0, 1))
        texture_HWC = np.clip(mean_C, 0.15, 0.85) + (texture_HWC - mean_C) * (least / max(spread, 1e-4))
    return np.clip(texture_HWC, 0.0, 1.0).astype(np.float32)


def draw_palette(rng: np.random.Generator, colours: int) -> npt.NDArray[np.float32]:
    """Random colours_MC around a common one: mostly muted as in photographs, some vivid, some grey."""
    vividness = rng.choice((0.0, 0.06, 0.3), p=(0.12, 0.58, 0.30))
    light_M1 = rng.uniform(0.15, 0.85) + rng.normal(0.0, rng.uniform(0.08, 0.4), (colours, 1))
    common_C = rng.normal(0.0, vividness, 3)
    palette_MC = light_M1 + common_C + rng.normal(0.0, vividness * rng.uniform(0.3, 1.2), (colours, 3))
    return np.clip(palette_MC, 0.0, 1.0).astype(np.float32)


def noise_field(
    rng: np.random.Generator, height: int, width: int, *, exponent: float = 0.0, band: float | None = None
) -> Field:
    """Gaussian noise_HW of zero mean and unit deviation.

    Args:
        rng: source of randomness.
        height: rows.
        width: columns.
        exponent: amplitude falls as 1 / frequency ** exponent.
        band: keep about an octave around this many cycles per longer side instead.
    """
    rows, columns = _fft_length(height), _fft_length(width)
    frequency_HW = np.hypot(
        np.fft.fftfreq(rows).astype(np.float32)[:, None], np.fft.rfftfreq(columns).astype(np.float32)
    ) * max(rows, columns)
    frequency_HW[0, 0] = 1.0
    octaves_HW = np.log(frequency_HW / (band or 1.0))
    gain_HW = np.exp(-exponent * octaves_HW if band is None else -2.0 * octaves_HW**2)
    gain_HW[0, 0] = 0.0
    shape = (2, *frequency_HW.shape)
    real_HW, imaginary_HW = rng.standard_normal(shape, dtype=np.float32) * gain_HW
    field_HW = np.fft.irfft2(real_HW + 1j * imaginary_HW, s=(rows, columns))[:height, :width]
    field_HW = field_HW - field_HW.mean()
    return np.asarray(field_HW / max(float(field_HW.std()), 1e-6), dtype=np.float32)


def polygon_mask(points_M2: npt.NDArray[np.float64], height: int, width: int, supersample: int = 4) -> Field:
    """Coverage_HW in [0, 1] of a polygon given by pixel corners (x, y)."""
    image = Image.new("L", (width * supersample, height * supersample))
    ImageDraw.Draw(image).polygon([*map(tuple, points_M2 * supersample)], fill=255)
    return np.asarray(image.reduce(supersample), dtype=np.float32) / 255.0


def _coloured_noise(rng: np.random.Generator, height: int, width: int) -> Texture:
    exponent = rng.triangular(0.5, 1.6, 2.5)
    if rng.random() < 0.5:
        return _tint(rng, noise_field(rng, height, width, exponent=exponent))
    fields_HWC = np.stack([noise_field(rng, height, width, exponent=exponent) for _ in range(3)], axis=2)
    mixing = rng.normal(0.0, rng.uniform(0.05, 0.5), (3, 3)) + rng.uniform(0.3, 1.0)
    base_C = draw_palette(rng, 1)[0]
    return np.asarray(base_C + rng.uniform(0.05, 0.16) * fields_HWC @ mixing, dtype=np.float32)


def _band_noise(rng: np.random.Generator, height: int, width: int) -> Texture:
    return _tint(rng, noise_field(rng, height, width, band=np.exp(rng.uniform(np.log(3), np.log(18)))))


def _plain(rng: np.random.Generator, height: int, width: int) -> Texture:
    field_HW = noise_field(rng, height, width, exponent=rng.uniform(0.3, 2.0))
    colour_C = draw_palette(rng, 1)[0]
    return np.asarray(colour_C + rng.uniform(0.03, 0.08) * field_HW[..., None], dtype=np.float32)


def _gradient(rng: np.random.Generator, height: int, width: int) -> Texture:
    return _look_up(draw_palette(rng, int(rng.integers(2, 5))), _ramp(rng, height, width))


def _stripes(rng: np.random.Generator, height: int, width: int) -> Texture:
    return _mix_two(rng, _stripe_field(rng, height, width, rng.uniform(0, np.pi)))


def _checkers(rng: np.random.Generator, height: int, width: int) -> Texture:
    angle = rng.uniform(0, np.pi)
    one_HW = _stripe_field(rng, height, width, angle)
    two_HW = _stripe_field(rng, height, width, angle + np.pi / 2)
    return _mix_two(rng, one_HW * two_HW + (1 - one_HW) * (1 - two_HW))


def _dots(rng: np.random.Generator, height: int, width: int) -> Texture:
    period = _period(rng, height, width) * 1.3
    x_HW, y_HW = _rotated_axes(height, width, rng.uniform(0, np.pi / 2))
    row_HW = np.floor(y_HW / period)
    x_HW = x_HW + (row_HW % 2) * period * rng.choice((0.0, 0.5))
    distance_HW = np.hypot(x_HW % period - period / 2, y_HW % period - period / 2)
    return _mix_two(rng, np.clip(period * rng.uniform(0.2, 0.45) - distance_HW + 0.5, 0, 1))


def _patches(rng: np.random.Generator, height: int, width: int) -> Texture:
    """Voronoi cells, drawn at twice the size."""
    cells = int(rng.integers(4, 25))
    seeds_M2 = rng.uniform(-0.1, 1.1, (cells, 2)) * (2 * height, 2 * width)
    grid_HW2 = np.stack(np.meshgrid(np.arange(2 * height), np.arange(2 * width), indexing="ij"), axis=2)
    flat_R2 = grid_HW2.reshape(-1, 2).astype(np.float32)
    score_RM = flat_R2 @ (2 * seeds_M2.T).astype(np.float32) - (seeds_M2**2).sum(axis=1).astype(np.float32)
    cell_HW = score_RM.argmax(axis=1).reshape(2 * height, 2 * width)
    return _halve(draw_palette(rng, cells)[cell_HW])


def _dead_leaves(rng: np.random.Generator, height: int, width: int) -> Texture:
    """Opaque shapes with sizes of a power law, then light grain and shading."""
    leaves = int(rng.integers(50, 220))
    side = float(max(height, width))
    smallest, largest = rng.uniform(0.012, 0.04) * side, rng.uniform(0.25, 0.6) * side
    # Inverse of the distribution function of a density ~ size ** -3.
    share_M = rng.random(leaves)
    size_M = (smallest**-2 + share_M * (largest**-2 - smallest**-2)) ** -0.5
    # A few large ones come first, so that no ground shows through.
    size_M[:8] = largest
    palette_MC = draw_palette(rng, int(rng.integers(4, 12)))
    colour_MC = palette_MC[rng.integers(len(palette_MC), size=leaves)] + rng.normal(0, 0.05, (leaves, 3))
    colour_MC = (np.clip(colour_MC, 0, 1) * 255).astype(np.uint8)
    centre_M2 = rng.uniform(0.0, 1.0, (leaves, 2)) * (width, height)
    square_M = rng.random(leaves) < rng.random()
    corners_M42 = 2 * (size_M[:, None, None] * _quadrangles(rng, leaves) + centre_M2[:, None])
    half_M2 = size_M[:, None] * np.exp(rng.uniform(-0.7, 0.5, (leaves, 2)))
    box_M4 = 2 * np.concatenate([centre_M2 - half_M2, centre_M2 + half_M2], axis=1)
    image = Image.new("RGB", (2 * width, 2 * height), tuple(colour_MC[0].tolist()))
    draw = ImageDraw.Draw(image)
    for fill, square, corners_8, box_4 in zip(
        map(tuple, colour_MC.tolist()),
        square_M,
        corners_M42.reshape(leaves, 8).tolist(),
        box_M4.tolist(),
        strict=True,
    ):
        if square:
            draw.polygon(corners_8, fill=fill)
        else:
            draw.ellipse(box_4, fill=fill)
    texture_HWC = np.asarray(image.reduce(2), dtype=np.float32) / 255.0
    grain_HW = noise_field(rng, height, width, exponent=rng.uniform(0.7, 2.2))
    return np.asarray(texture_HWC * (1 + rng.uniform(0.0, 0.15) * grain_HW[..., None]), dtype=np.float32)


def _collage(rng: np.random.Generator, height: int, width: int) -> Texture:
    """A texture with pieces of others on it."""
    texture_HWC = _basic(rng, height, width)
    for _ in range(int(rng.integers(1, 5))):
        centre_2 = rng.uniform(0.1, 0.9, 2) * (width, height)
        reach = rng.uniform(0.12, 0.5) * max(height, width)
        mask_HW1 = polygon_mask(reach * _quadrangles(rng, 1)[0] + centre_2, height, width, 2)[..., None]
        texture_HWC = texture_HWC + mask_HW1 * (_basic(rng, height, width) - texture_HWC)
    return texture_HWC


def _blend(rng: np.random.Generator, height: int, width: int) -> Texture:
    """Two textures mixed along a smooth random border."""
    border_HW = noise_field(rng, height, width, exponent=rng.uniform(1.5, 3.0))
    weight_HW1 = np.clip(0.5 + border_HW * np.exp(rng.uniform(-1.0, 2.5)), 0, 1)[..., None]
    one_HWC, two_HWC = _basic(rng, height, width), _basic(rng, height, width)
    return np.asarray(one_HWC + weight_HW1 * (two_HWC - one_HWC), dtype=np.float32)


_Maker = Callable[[np.random.Generator, int, int], Texture]
_BASIC: tuple[_Maker, ...] = (_coloured_noise, _band_noise, _plain, _gradient, _stripes, _checkers, _patches)
_WEIGHTS: dict[_Maker, float] = {
    _dead_leaves: 0.30,
    _coloured_noise: 0.16,
    _collage: 0.12,
    _blend: 0.12,
    _patches: 0.07,
    _band_noise: 0.05,
    _stripes: 0.04,
    _checkers: 0.04,
    _dots: 0.03,
    _gradient: 0.03,
    _plain: 0.04,
}


def _basic(rng: np.random.Generator, height: int, width: int) -> Texture:
    return _BASIC[int(rng.integers(len(_BASIC)))](rng, height, width)


def _tint(rng: np.random.Generator, field_HW: Field) -> Texture:
    """Colour a field of unit deviation along a palette."""
    level_HW = np.clip(0.5 + field_HW * np.float32(rng.uniform(0.15, 0.4)), 0, 1)
    return _look_up(draw_palette(rng, int(rng.integers(2, 6))), level_HW)


def _look_up(palette_MC: npt.NDArray[np.float32], level_HW: Field) -> Texture:
    stops_M = np.linspace(0, 255, len(palette_MC))
    table_C = [np.interp(np.arange(256), stops_M, palette_MC[:, c]) for c in range(3)]
    index_HW = (np.clip(level_HW, 0, 1) * 255).astype(np.uint8)
    return np.stack(table_C, axis=1).astype(np.float32)[index_HW]


def _mix_two(rng: np.random.Generator, level_HW: Field) -> Texture:
    """Two colours mixed by a pattern, with some grain; kept apart enough to be seen."""
    one_C, two_C = draw_palette(rng, 2)
    if np.abs(one_C - two_C).max() < 0.15:
        two_C = np.where(one_C > 0.5, one_C - 0.3, one_C + 0.3).astype(np.float32)
    grain_HW = noise_field(rng, *level_HW.shape, exponent=1.0) * np.float32(rng.uniform(0.0, 0.08))
    texture_HWC = one_C + level_HW[..., None] * (two_C - one_C) + grain_HW[..., None]
    return np.asarray(texture_HWC, dtype=np.float32)


def _ramp(rng: np.random.Generator, height: int, width: int) -> Field:
    """A linear or radial ramp_HW from 0 to 1."""
    x_HW, y_HW = _rotated_axes(height, width, rng.uniform(0, 2 * np.pi))
    if rng.random() < 0.3:
        x_HW = np.hypot(x_HW - rng.uniform(-0.5, 0.5) * width, y_HW - rng.uniform(-0.5, 0.5) * height)
    return np.asarray((x_HW - x_HW.min()) / max(float(np.ptp(x_HW)), 1e-6), dtype=np.float32)


def _stripe_field(rng: np.random.Generator, height: int, width: int, angle: float) -> Field:
    """Stripes_HW whose edges are about one pixel wide or softer."""
    period = _period(rng, height, width)
    x_HW, _ = _rotated_axes(height, width, angle)
    if rng.random() < 0.3:
        x_HW = x_HW + noise_field(rng, height, width, exponent=2.0) * np.float32(period * 0.3)
    wave_HW = np.sin(2 * np.pi / period * x_HW + rng.uniform(0, 2 * np.pi))
    sharpness = period / (2 * np.pi) * rng.uniform(0.2, 1.0)
    return np.asarray(np.clip(0.5 + wave_HW * max(sharpness, 0.5), 0, 1), dtype=np.float32)


def _period(rng: np.random.Generator, height: int, width: int) -> float:
    """A pattern period of at least 4 pixels."""
    side = max(height, width)
    return max(4.0, side * float(np.exp(rng.uniform(np.log(0.05), np.log(0.4)))))


def _rotated_axes(height: int, width: int, angle: float) -> tuple[Field, Field]:
    y_H1 = np.arange(height, dtype=np.float32)[:, None] - height / 2
    x_W = np.arange(width, dtype=np.float32) - width / 2
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cosine * x_W + sine * y_H1, cosine * y_H1 - sine * x_W


def _quadrangles(rng: np.random.Generator, number: int) -> npt.NDArray[np.float64]:
    """Corners_M42 of rectangles (half of them upright) and of loose quadrangles; radius about 1."""
    angle_M = rng.uniform(0, 2 * np.pi, number) * (rng.random(number) < 0.5)
    half_M12 = np.exp(rng.uniform(-0.8, 0.3, (number, 1, 2)))
    loose_M = rng.random(number) < 0.3
    loose_M42 = np.where(loose_M[:, None, None], rng.uniform(0.5, 1.2, (number, 4, 2)), 1.0)
    corners_M42 = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half_M12 * loose_M42
    cosine_M, sine_M = np.cos(angle_M), np.sin(angle_M)
    turn_M22 = np.stack([cosine_M, sine_M, -sine_M, cosine_M], axis=1).reshape(number, 2, 2)
    return np.asarray(corners_M42 @ turn_M22)


def _halve(image_HWC: Texture) -> Texture:
    top_HWC = image_HWC[0::2] + image_HWC[1::2]
    return (top_HWC[:, 0::2] + top_HWC[:, 1::2]) * np.float32(0.25)


def _fft_length(length: int) -> int:
    """The next multiple of 16 that is at least a little longer, so that the field does not wrap visibly."""
    return 16 * (length // 16 + 1)
