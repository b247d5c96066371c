"""Draw clips: procedural ones, and crops of given images that move over a given image.

Shape suffixes: T frames, O objects, H height and W width of a frame, of a sprite or of the square around an object,
C channels (3 colours, or 4 with coverage), M taps of a filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from emim.datasets.synthetic.classes import ClipOptions, Dimension, Motion, motion_of
from emim.datasets.synthetic.motion import (
    CLEAR_PAIR_RANGES,
    CLEAR_SOLO_RANGES,
    FULL_RANGES,
    Geometry,
    Tracks,
    draw_camera_shift,
    draw_geometry,
    draw_path,
    place,
)
from emim.datasets.synthetic.sprites import SPRITE_REACH, Sprite, cut_out, draw_outline, draw_rectangle
from emim.datasets.synthetic.textures import Texture, draw_texture, ensure_contrast
from emim.errors import ConfigError, DataError

__all__ = ["Floats", "RenderedClip", "composite_clip", "render_clip", "true_displacement"]

_DEFAULT_OPTIONS = ClipOptions()
_MIP_LEVELS = 3


@dataclass(frozen=True)
class RenderedClip:
    """A clip and its ground truth.

    Attributes:
        frames_THWC: RGB, uint8.
        label: class name.
        fps: frames per second.
        tracks: positions of objects and background in every frame.
        objects_THW: the visible surface at a pixel: 0 the background, k + 1 object k of `tracks`.
    """

    frames_THWC: npt.NDArray[np.uint8]
    label: str
    fps: int
    tracks: Tracks
    objects_THW: npt.NDArray[np.uint8]


def render_clip(label: str, *, seed: int, options: ClipOptions = _DEFAULT_OPTIONS) -> RenderedClip:
    """Draw one clip of a class with procedural objects and background.

    The same label, seed and options give the same pixels. Clips of two classes with one seed share objects,
    background, camera and frame size, and differ in the motion (with `solo_share`, also in the object count).

    Args:
        label: one of `CLASSES`.
        seed: a whole number, at least 0, of any size.
        options: size, length and make-up.

    Raises:
        UnknownNameError: there is no such class.
        ConfigError: the seed is negative.
    """
    scene = _draw_scene(label, seed, options)
    height, width = scene.options.height, scene.options.width
    rng = scene.appearance
    margin = scene.margin
    background_HWC = draw_texture(rng, height + 2 * margin, width + 2 * margin)
    look_alike = rng.random() < 0.08
    sprites = []
    for largest_radius in scene.geometry.largest_radius_O:
        side = _sprite_side(largest_radius)
        texture_HWC = draw_texture(rng, side, side)
        if look_alike:
            texture_HWC = _part_of(rng, background_HWC, side)
        texture_HWC = ensure_contrast(_apart_from(background_HWC, texture_HWC), least=0.07)
        sprites.append(cut_out(rng, texture_HWC, draw_outline(rng)))
    return _render(label, scene, background_HWC, sprites)


def composite_clip(
    label: str,
    object_textures: Sequence[npt.NDArray[np.uint8]],
    background: npt.NDArray[np.uint8],
    *,
    seed: int,
    options: ClipOptions = _DEFAULT_OPTIONS,
) -> RenderedClip:
    """Draw one clip in which rectangular crops of given images move over a given image.

    Motion, sizes, camera and noise are those of `render_clip`; only the surfaces differ. The crops and the
    part of the background are drawn at random from the images.

    Args:
        label: one of `CLASSES`.
        object_textures: images_HWC, RGB uint8; objects take them in turn.
        background: image_HWC, RGB uint8.
        seed: a whole number, at least 0.
        options: size, length and make-up.

    Raises:
        UnknownNameError: there is no such class.
        ConfigError: the seed is negative.
        DataError: no object texture, or an image that is not HWC uint8 of three channels.
    """
    if not object_textures:
        raise DataError("object_textures is empty: give at least one image")
    for image_HWC in (*object_textures, background):
        if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3:
            raise DataError(f"an image of shape {image_HWC.shape}, {image_HWC.dtype}: give HWC uint8 RGB")
    scene = _draw_scene(label, seed, options)
    rng = scene.appearance
    margin = scene.margin
    rows, columns = scene.options.height + 2 * margin, scene.options.width + 2 * margin
    background_HWC = _crop_of(rng, background, rows, columns, least=0.6, most=1.0)
    sprites = []
    for k, largest_radius in enumerate(scene.geometry.largest_radius_O):
        side = _sprite_side(largest_radius)
        source_HWC = object_textures[k % len(object_textures)]
        texture_HWC = _crop_of(rng, source_HWC, side, side, least=0.3, most=0.9)
        sprites.append(cut_out(rng, texture_HWC, draw_rectangle(rng), plain=True))
    return _render(label, scene, background_HWC, sprites)


@dataclass(frozen=True)
class _Scene:
    """All about a clip but its surfaces; `options` has size, length and frame rate fixed."""

    options: ClipOptions
    geometry: Geometry
    tracks: Tracks
    margin: int
    appearance: np.random.Generator
    noise: np.random.Generator


def _draw_scene(label: str, seed: int, options: ClipOptions) -> _Scene:
    motion = motion_of(label)
    if seed < 0:
        raise ConfigError(f"seed={seed}: give a whole number, at least 0")
    # One stream per matter, so that the class cannot shift the draws of another.
    sequences = np.random.SeedSequence(seed).spawn(6)
    layout, shape, path, camera, appearance, noise = map(np.random.default_rng, sequences)
    options = options.draw(layout)
    shares = (options.solo_share, options.upright_share, options.clear_share)
    solo, upright, clear = (bool(chosen) for chosen in layout.random(3) < shares)
    objects = 1 if solo and motion.dimension is not Dimension.SEPARATION else 2
    clear_ranges = CLEAR_SOLO_RANGES if objects == 1 else CLEAR_PAIR_RANGES
    geometry = draw_geometry(
        shape,
        objects=objects,
        height=options.height,
        width=options.width,
        upright=upright,
        ranges=clear_ranges if clear else FULL_RANGES,
    )
    shift_T2 = draw_camera_shift(camera, num_frames=options.num_frames, short_side=min(options.height, options.width))
    if clear:
        shift_T2 = np.zeros_like(shift_T2)
    tracks = _draw_tracks(path, camera, motion, geometry, shift_T2, upright=upright)
    margin = int(np.ceil(np.abs(shift_T2).max())) + 2
    return _Scene(options, geometry, tracks, margin, appearance, noise)


def _draw_tracks(
    path: np.random.Generator,
    camera: np.random.Generator,
    motion: Motion,
    geometry: Geometry,
    shift_T2: npt.NDArray[np.float64],
    *,
    upright: bool,
) -> Tracks:
    u_TM = draw_path(path, motion=motion, num_frames=len(shift_T2))
    tracks = place(geometry, u_TM, shift_T2, start_upright=upright)
    shaken, whole_pixels = camera.random(2) < 0.25
    centres_TO2 = tracks.centres_TO2 + (shift_T2[:, None] if shaken else 0.0)
    return replace(tracks, centres_TO2=np.round(centres_TO2) if whole_pixels else centres_TO2)


def _render(label: str, scene: _Scene, background_HWC: Texture, sprites: list[Sprite]) -> RenderedClip:
    tracks, options = scene.tracks, scene.options
    frames_TCHW = _background_frames(background_HWC, tracks.background_T2, scene.margin)
    objects_THW = torch.zeros(frames_TCHW[:, 0].shape, dtype=torch.uint8)
    for k, sprite_HWC in enumerate(sprites):
        _paste(frames_TCHW, objects_THW, sprite_HWC, tracks, k)
    frames_THWC = _finish(frames_TCHW, scene.noise)
    assert options.fps is not None
    return RenderedClip(frames_THWC, label, options.fps, tracks, objects_THW.numpy())


def _background_frames(background_HWC: Texture, shift_T2: npt.NDArray[np.float64], margin: int) -> torch.Tensor:
    """Frames_TCHW of the background moved by a shift below `margin` pixels."""
    canvas_CHW = torch.from_numpy(background_HWC).permute(2, 0, 1).contiguous()
    height, width = canvas_CHW.shape[1] - 2 * margin, canvas_CHW.shape[2] - 2 * margin
    frames_TCHW = torch.empty(len(shift_T2), 3, height, width)
    for t, (x, y) in enumerate(margin - shift_T2):
        column, row = int(np.floor(x)), int(np.floor(y))
        part_CHW = canvas_CHW[:, row : row + height + 1, column : column + width + 1]
        part_CHW = torch.lerp(part_CHW[:, :-1], part_CHW[:, 1:], float(y - row))
        torch.lerp(part_CHW[..., :-1], part_CHW[..., 1:], float(x - column), out=frames_TCHW[t])
    return frames_TCHW


def _paste(frames_TCHW: torch.Tensor, objects_THW: torch.Tensor, sprite_HWC: Sprite, tracks: Tracks, k: int) -> None:
    """Draw object k over the frames, and its number over `objects_THW`, in place.

    Frame pixels are mapped back into the sprite and read bilinearly from the two nearest levels of a
    pyramid, so that a shrunken object does not alias.
    """
    height, width = frames_TCHW.shape[2:]
    centre_T2 = torch.from_numpy(tracks.centres_TO2[:, k])
    radius_T, angle_T = torch.from_numpy(tracks.radius_TO[:, k]), torch.from_numpy(tracks.angle_TO[:, k])
    # A window around the object, the same size in all frames.
    reach = float(radius_T.max()) * SPRITE_REACH
    box = int(np.ceil(2 * reach)) + 2
    corner_T2 = torch.floor(centre_T2 - reach - 0.5).long()
    pixel_TW2 = corner_T2[:, None] + torch.arange(box)[:, None]
    offset_TW2 = pixel_TW2 + 0.5 - centre_T2[:, None]
    x_THW, y_THW = offset_TW2[:, None, :, 0], offset_TW2[:, :, None, 1]
    unit_T11 = (radius_T * SPRITE_REACH)[:, None, None]
    cosine_T11, sine_T11 = torch.cos(angle_T)[:, None, None], torch.sin(angle_T)[:, None, None]
    grid_THW2 = torch.stack(
        [
            (cosine_T11 * x_THW + sine_T11 * y_THW) / unit_T11,
            (cosine_T11 * y_THW - sine_T11 * x_THW) / unit_T11,
        ],
        dim=3,
    ).float()
    level_T = torch.log2(sprite_HWC.shape[0] / (2 * SPRITE_REACH * radius_T)).clamp(0, _MIP_LEVELS - 1)
    patch_TCHW = torch.zeros(len(radius_T), 4, box, box)
    level_CHW = torch.from_numpy(sprite_HWC).permute(2, 0, 1).contiguous()
    for level in range(_MIP_LEVELS):
        weight_T = (1 - (level_T - level).abs()).clamp(min=0).float()
        used_T = weight_T > 0
        if used_T.any():
            sample_TCHW = functional.grid_sample(
                level_CHW.expand(int(used_T.sum()), -1, -1, -1), grid_THW2[used_T], align_corners=False
            )
            patch_TCHW[used_T] += weight_T[used_T, None, None, None] * sample_TCHW
        level_CHW = functional.avg_pool2d(level_CHW, 2)
    for t, (column, row) in enumerate(corner_T2.tolist()):
        top, left = max(row, 0), max(column, 0)
        bottom, right = min(row + box, height), min(column + box, width)
        if top >= bottom or left >= right:
            continue
        patch_CHW = patch_TCHW[t, :, top - row : bottom - row, left - column : right - column]
        target_CHW = frames_TCHW[t, :, top:bottom, left:right]
        target_CHW.mul_(1 - patch_CHW[3]).add_(patch_CHW[:3])
        objects_THW[t, top:bottom, left:right][patch_CHW[3] > 0.5] = k + 1


def _finish(frames_TCHW: torch.Tensor, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Blur (in some clips), flicker and sensor noise; then to uint8 frames_THWC."""
    frames = len(frames_TCHW)
    blurred, flickering, noisy = rng.random(3) < (0.2, 0.5, 0.6)
    sigma = rng.uniform(0.5, 1.3)
    gain_T = 1 + rng.normal(0, rng.uniform(0.002, 0.02), frames)
    noise_level = rng.uniform(0.003, 0.03)
    if blurred:
        frames_TCHW = _blur(frames_TCHW, sigma)
    if flickering:
        frames_TCHW = frames_TCHW * torch.from_numpy(gain_T).float()[:, None, None, None]
    if noisy:
        noise_TCHW = rng.standard_normal(tuple(frames_TCHW.shape), dtype=np.float32)
        frames_TCHW = frames_TCHW + torch.from_numpy(noise_TCHW) * noise_level
    bytes_TCHW = frames_TCHW.mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return bytes_TCHW.permute(0, 2, 3, 1).contiguous().numpy()


def _blur(frames_TCHW: torch.Tensor, sigma: float) -> torch.Tensor:
    reach = 3
    tap_M = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    tap_M = (tap_M / tap_M.sum()).repeat(3, 1)
    padded = functional.pad(frames_TCHW, (reach, reach, reach, reach), mode="replicate")
    padded = functional.conv2d(padded, tap_M[:, None, :, None], groups=3)
    return functional.conv2d(padded, tap_M[:, None, None, :], groups=3)


def _sprite_side(largest_radius: float) -> int:
    """Pixels of a sprite image such that the largest object is drawn at about its own resolution."""
    return max(16, 4 * int(np.ceil(2 * SPRITE_REACH * largest_radius / 4)))


def _part_of(rng: np.random.Generator, background_HWC: Texture, side: int) -> Texture:
    """A random part of the background, lightened or darkened: an object of the same stuff."""
    image_HWC = (background_HWC * 255).astype(np.uint8)
    part_HWC = _crop_of(rng, image_HWC, side, side, least=0.2, most=0.7)
    return part_HWC + np.float32(rng.choice((-1.0, 1.0)) * rng.uniform(0.05, 0.2))


def _apart_from(background_HWC: Texture, texture_HWC: Texture) -> Texture:
    """Lighten or darken an object that has nearly the colour and contrast of the background."""
    least = 0.12
    mean_C, other_C = texture_HWC.mean(axis=(0, 1)), background_HWC.mean(axis=(0, 1))
    spread = max(float(texture_HWC.std()), float(background_HWC.std()))
    if np.abs(mean_C - other_C).max() + spread >= least:
        return texture_HWC
    shift = least if float(mean_C.mean()) < 0.5 else -least
    return np.asarray(np.clip(texture_HWC + np.float32(2 * shift), 0, 1), dtype=np.float32)


def _crop_of(
    rng: np.random.Generator,
    image_HWC: npt.NDArray[np.uint8],
    rows: int,
    columns: int,
    *,
    least: float,
    most: float,
) -> Texture:
    """A random part of an image with the aspect asked for, between two shares of the largest that fits."""
    height, width = image_HWC.shape[:2]
    scale = min(height / rows, width / columns) * rng.uniform(least, most)
    top, left = rng.uniform(0, height - scale * rows), rng.uniform(0, width - scale * columns)
    box = (left, top, left + scale * columns, top + scale * rows)
    part = Image.fromarray(image_HWC).resize((columns, rows), Image.Resampling.BICUBIC, box=box)
    return np.asarray(part, dtype=np.float32) / 255.0


Floats = npt.NDArray[np.float64]


def true_displacement(clip: RenderedClip) -> Floats:
    """Return the displacement of each pixel to the next frame, also where it is hidden there.

    Objects are rigid but for their size: they move, grow and turn as `clip.tracks` says; the background moves with the
    camera.

    Returns:
        displacement_T2HW in pixels, one field fewer than there are frames.
    """
    tracks = clip.tracks
    T, H, W = clip.objects_THW.shape
    y_H1, x_1W = np.arange(H)[:, None] + 0.5, np.arange(W)[None, :] + 0.5
    displacement_T2HW = np.empty((T - 1, 2, H, W))
    displacement_T2HW[:] = np.diff(tracks.background_T2, axis=0)[:, :, None, None]
    for k in range(tracks.radius_TO.shape[1]):
        for t in range(T - 1):
            here_HW = clip.objects_THW[t] == k + 1
            (x, y), (next_x, next_y) = tracks.centres_TO2[t, k], tracks.centres_TO2[t + 1, k]
            growth = tracks.radius_TO[t + 1, k] / tracks.radius_TO[t, k]
            turn = tracks.angle_TO[t + 1, k] - tracks.angle_TO[t, k]
            cosine, sine = growth * np.cos(turn), growth * np.sin(turn)
            right_1W, down_H1 = x_1W - x, y_H1 - y
            moved_2HW = np.stack(
                np.broadcast_arrays(
                    next_x + cosine * right_1W - sine * down_H1 - x_1W,
                    next_y + sine * right_1W + cosine * down_H1 - y_H1,
                )
            )
            displacement_T2HW[t][:, here_HW] = moved_2HW[:, here_HW]
    return displacement_T2HW
