"""Positions of the objects in every frame: class-independent geometry, and the one state dimension that changes.

Shape suffixes: T frames, O objects, M tries or state dimensions (`classes.Dimension`), 2 image axes (x, y).

Let u_d be the coordinate of state dimension d, in [-1/2, 1/2]. A class moves one dimension along
u(t) = sign * (tau(t) - 1/2), where tau runs from 0 to 1. Every other dimension rests at a value drawn as
the coordinate of *another* such path, of either sign, at a frame drawn at random. All else (sizes,
amplitudes, starting points, textures, camera) is drawn without looking at the class. So in a frame drawn
uniformly from a clip the five coordinates are independent and have the same law in every class: the frame
has the same distribution whatever the class. Only frames together tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emim.datasets.synthetic.classes import Dimension, Motion

__all__ = [
    "CLEAR_PAIR_RANGES",
    "CLEAR_SOLO_RANGES",
    "FULL_RANGES",
    "Floats",
    "Geometry",
    "Ranges",
    "Tracks",
    "draw_camera_shift",
    "draw_geometry",
    "draw_path",
    "place",
]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranges:
    """(low, high) of what is drawn for a clip.

    Attributes:
        diameter: of an object, as a fraction of the short side.
        displacement: of the objects along each side, as a fraction of that side.
        zoom: largest over smallest size.
        rotation: angle in radians.
        separation_change: as a fraction of the frame's extent along the pair's axis.
    """

    diameter: tuple[float, float]
    displacement: tuple[float, float]
    zoom: tuple[float, float]
    rotation: tuple[float, float]
    separation_change: tuple[float, float]


FULL_RANGES = Ranges((0.12, 0.45), (0.15, 0.55), (1.35, 2.6), (np.radians(40.0), np.radians(170.0)), (0.20, 0.50))
CLEAR_SOLO_RANGES = Ranges((0.30, 0.55), (0.25, 0.45), (1.8, 2.6), (np.radians(90.0), np.radians(170.0)), (0.3, 0.5))
# Two objects need room for all amplitudes at once, so they are smaller and everything but the separation changes less.
CLEAR_PAIR_RANGES = Ranges((0.20, 0.30), (0.08, 0.20), (1.35, 1.8), (np.radians(60.0), np.radians(170.0)), (0.3, 0.5))

_CLOSEST = 0.9  # smallest separation over the sum of the two largest radii: a slight overlap at most
_CENTRE_INSET = 0.65  # a centre stays this many radii inside the frame: a sixth of the object is cut at most
_CANDIDATES = 256


@dataclass(frozen=True)
class Tracks:
    """Ground truth of a clip.

    Attributes:
        centres_TO2: object centres (x, y) in pixels; (0, 0) is the outer corner of the top left pixel.
        radius_TO: half the object's diameter in pixels (the half side of a square object).
        scale_TO: radius over the object's middle radius.
        angle_TO: angle in radians, growing clockwise as the viewer sees it.
        background_T2: shift (x, y) of the background in pixels.

    Objects are listed from back to front.
    """

    centres_TO2: Floats
    radius_TO: Floats
    scale_TO: Floats
    angle_TO: Floats
    background_T2: Floats


@dataclass(frozen=True)
class Geometry:
    """State of the objects at u = 0, and how far each dimension reaches; lengths in pixels."""

    centre_2: Floats
    displacement_2: Floats
    radius_O: Floats
    zoom: float
    angle_O: Floats
    rotation: float
    axis: float
    separation: float
    separation_change: float

    @property
    def largest_radius_O(self) -> Floats:
        """Largest radius of each object on its path."""
        return np.asarray(self.radius_O * np.sqrt(self.zoom))


def draw_geometry(
    rng: np.random.Generator,
    *,
    objects: int,
    height: int,
    width: int,
    upright: bool = False,
    ranges: Ranges = FULL_RANGES,
) -> Geometry:
    """Draw sizes, places and amplitudes such that the objects stay in the frame for any u.

    Args:
        rng: source of randomness.
        objects: 1 or 2.
        height: frame height in pixels.
        width: frame width in pixels.
        upright: start the objects at a multiple of 90 degrees.
        ranges: what to draw from.
    """
    side_2 = np.array([width, height], dtype=np.float64)
    short = float(side_2.min())
    while True:
        # Sizes first, then many tries at the rest, so that large objects are not crowded out.
        n = _CANDIDATES
        diameter = _log_uniform(rng, *ranges.diameter)
        second = float(np.clip(diameter * np.exp(rng.uniform(-0.4, 0.4)), *ranges.diameter))
        radius_O = short / 2 * np.array([diameter, second])[:objects]
        zoom = _log_uniform(rng, *ranges.zoom)
        largest_O = radius_O * np.sqrt(zoom)
        # A third of the pairs lie along a side of the frame, as pairs in real scenes often do.
        axis_M = rng.uniform(0.0, 2 * np.pi, n)
        snapped_M = rng.random(n) < 0.35
        axis_M = np.where(snapped_M, np.round(axis_M / (np.pi / 2)) * (np.pi / 2), axis_M)
        axis_M2 = np.abs(np.stack([np.cos(axis_M), np.sin(axis_M)], axis=1))
        chord_M = (side_2 / np.maximum(axis_M2, 1e-6)).min(axis=1)
        change_M = rng.uniform(*ranges.separation_change, n) * chord_M
        smallest_M = _CLOSEST * largest_O.sum() + rng.uniform(0.0, 0.15, n) * chord_M
        if objects == 1:
            change_M, smallest_M = np.zeros(n), np.zeros(n)
        span_M2 = (smallest_M + change_M)[:, None] * axis_M2
        room_M2 = side_2 - span_M2 - 2 * _CENTRE_INSET * largest_O.max()
        low, high = ranges.displacement
        reach_M2 = side_2 * (low + rng.random((n, 2)) * (np.minimum(room_M2 / side_2, high) - low))
        place_M2 = rng.uniform(-0.5, 0.5, (n, 2))
        fits_M = (room_M2 >= low * side_2).all(axis=1)
        if not fits_M.any():
            continue
        i = int(np.argmax(fits_M))
        angle_O = rng.uniform(0.0, 2 * np.pi, objects)
        return Geometry(
            centre_2=side_2 / 2 + place_M2[i] * (room_M2[i] - reach_M2[i]),
            displacement_2=reach_M2[i],
            radius_O=radius_O,
            zoom=zoom,
            angle_O=np.round(angle_O / (np.pi / 2)) * (np.pi / 2) if upright else angle_O,
            rotation=float(rng.uniform(*ranges.rotation)),
            axis=float(axis_M[i]),
            separation=float(smallest_M[i] + change_M[i] / 2),
            separation_change=float(change_M[i]),
        )


def draw_path(rng: np.random.Generator, *, motion: Motion, num_frames: int) -> Floats:
    """The coordinates u_TM of all state dimensions; only the dimension of `motion` changes."""
    u_TM = np.empty((num_frames, len(Dimension)))
    for dimension in Dimension:
        path_T = _draw_progress(rng, num_frames) - 0.5
        frame, sign = int(rng.integers(num_frames)), float(rng.choice((-1.0, 1.0)))
        moving = dimension == motion.dimension
        u_TM[:, dimension] = motion.sign * path_T if moving else sign * path_T[frame]
    return u_TM


def place(geometry: Geometry, u_TM: Floats, background_T2: Floats, *, start_upright: bool = False) -> Tracks:
    """Turn path coordinates into object tracks.

    Args:
        geometry: the state at u = 0 and the amplitudes.
        u_TM: path coordinates.
        background_T2: shift of the background in pixels, kept with the tracks.
        start_upright: add no angle in the first frame.
    """
    objects = len(geometry.radius_O)
    middle_T2 = geometry.centre_2 + u_TM[:, : Dimension.SCALE] * geometry.displacement_2
    scale_T = geometry.zoom ** u_TM[:, Dimension.SCALE]
    turn_T = u_TM[:, Dimension.ANGLE] - (u_TM[0, Dimension.ANGLE] if start_upright else 0.0)
    separation_T = geometry.separation + u_TM[:, Dimension.SEPARATION] * geometry.separation_change
    direction_2 = np.array([np.cos(geometry.axis), np.sin(geometry.axis)])
    side_O = np.array([-0.5, 0.5]) if objects == 2 else np.zeros(1)
    offset_TO2 = separation_T[:, None, None] * side_O[:, None] * direction_2
    scale_TO = np.repeat(scale_T[:, None], objects, axis=1)
    return Tracks(
        centres_TO2=middle_T2[:, None] + offset_TO2,
        radius_TO=scale_TO * geometry.radius_O,
        scale_TO=scale_TO,
        angle_TO=geometry.angle_O + geometry.rotation * turn_T[:, None],
        background_T2=background_T2,
    )


def draw_camera_shift(rng: np.random.Generator, *, num_frames: int, short_side: int) -> Floats:
    """Shift_T2 of the background in pixels: none, white jitter, or a slow sway that ends where it began."""
    kind, amount = rng.random(), rng.uniform(0.002, 0.02) * short_side
    jitter_T2 = rng.uniform(-amount, amount, (num_frames, 2))
    time_T1 = np.linspace(0.0, 1.0, num_frames)[:, None]
    cycles_2 = rng.integers(1, 4, 2)
    phase_2 = rng.uniform(0.0, 2 * np.pi, 2)
    sway_T2 = amount * np.sin(2 * np.pi * cycles_2 * time_T1 + phase_2)
    whole_pixels = rng.random() < 0.4
    if kind < 0.3:
        return np.zeros((num_frames, 2))
    shift_T2 = jitter_T2 if kind < 0.75 else sway_T2
    return np.round(shift_T2) if whole_pixels else shift_T2


def _draw_progress(rng: np.random.Generator, num_frames: int) -> Floats:
    """tau_T from 0 to 1: mostly even, else eased at one or both ends, or with a short pause."""
    time_T = np.linspace(0.0, 1.0, num_frames)
    kind, power = rng.random(), rng.uniform(1.2, 1.8)
    pause = rng.uniform(0.1, 0.3)
    pause_start = rng.uniform(0.0, 1.0 - pause)
    if kind < 0.65:
        return time_T
    if kind < 0.72:
        return np.asarray(time_T**power)
    if kind < 0.79:
        return np.asarray(1.0 - (1.0 - time_T) ** power)
    if kind < 0.86:
        mix = power - 1.0
        return np.asarray((1.0 - mix) * time_T + mix * time_T**2 * (3.0 - 2.0 * time_T))
    return np.interp(time_T, [0.0, pause_start, pause_start + pause, 1.0], _pause_levels(pause_start, pause))


def _pause_levels(start: float, length: float) -> list[float]:
    level = start / (1.0 - length)
    return [0.0, level, level, 1.0]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
