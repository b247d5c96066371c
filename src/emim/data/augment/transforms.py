"""Training transforms on whole clips: every random value is drawn once and used for all frames.

All draws come from an explicit `np.random.Generator`, so a clip depends on the generator's seed alone.
Exceptions to "once for all frames", on purpose: sensor noise (`GaussianNoise`) differs from frame to frame, as a
camera's does; the noise of an erased block does where `erasing_noise` says so; and the operations of RandAugment that
need statistics (histogram, mean) take those of each frame.

Shape legend: C channels, T frames, H height, W width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from emim.data.augment.randaugment import RandAugment
from emim.data.preprocessing import Preprocessing, check_keys, float_tuple, is_number, normalise, resize, to_tensor
from emim.errors import ConfigError
from emim.utils import nearest

__all__ = [
    "AugmentOptions",
    "Box",
    "ColorJitter",
    "ErasingNoise",
    "GaussianNoise",
    "HorizontalFlip",
    "LabelMap",
    "LetterboxCrop",
    "Placed",
    "RandomErasing",
    "RandomResizedCrop",
    "RandomRotation",
    "Range",
    "StretchCrop",
    "TimeReverse",
    "TrainTransform",
    "in_clip_order",
    "reduced",
    "resolve_label_map",
]

ErasingNoise = Literal["clip", "frame"]
LabelMap = Mapping[int, int]
Range = tuple[float, float]

# ITU-R BT.601 luma, as in image libraries' grey conversion.
_LUMA = (0.299, 0.587, 0.114)
_TRIES = 10


@dataclass(frozen=True)
class AugmentOptions:
    """Training augmentation; everything but the crop is off by default.

    The recipe that UniFormer and others are trained with is `randaugment="rand-m7-n4-mstd0.5-inc1"`, `erasing=0.25`,
    `erasing_noise="frame"`, `Preprocessing.antialias=False`, and `flip=0.5` where labels have no direction.

    Attributes:
        reduce_to: larger frames are first made this many pixels on the short side, as data sets are stored for training
            (256 to 340 lines): what follows would be slow on full HD. Null takes frames as they are.
        randaugment: random operations before the crop, as a string such as rand-m7-n4-mstd0.5-inc1: m magnitude, n
            operations, mstd noise of the magnitude, inc1 operations that get stronger with it, p probability of
            each (0.5 if left out). They run on frames of the video's size: store large videos at 256 to 320 lines.
        crop_scale: range of the crop's share of the frame's area. With fit "letterbox" or "stretch" the crop
            is taken from the square frame.
        crop_ratio: range of the crop's aspect (width / height).
        flip: probability of a horizontal flip. Leave 0 where labels have a direction, or give a map.
        flip_map: class pairs that a horizontal flip swaps, by name; one entry serves both ways.
        reverse: probability of playing the clip backwards.
        reverse_map: class pairs that playing backwards swaps.
        brightness, contrast, saturation: strength s; the factor is uniform in [max(0, 1 - s), 1 + s].
        grayscale: probability of dropping colour.
        invert: probability of inverting values.
        rotation: largest angle in degrees, either way.
        erasing: probability of one block of noise at the same place in every frame.
        erasing_noise: "clip" has the same noise in every frame, "frame" new noise in each, as published.
        noise: largest standard deviation of sensor noise, of values in [0, 1].
    """

    reduce_to: int | None = None
    randaugment: str | None = None
    crop_scale: Range = (0.08, 1.0)
    crop_ratio: Range = (0.75, 1.3333)
    flip: float = 0.0
    flip_map: Mapping[str, str] = field(default_factory=dict)
    reverse: float = 0.0
    reverse_map: Mapping[str, str] = field(default_factory=dict)
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    grayscale: float = 0.0
    invert: float = 0.0
    rotation: float = 0.0
    erasing: float = 0.0
    erasing_noise: ErasingNoise = "clip"
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.randaugment is not None:
            RandAugment.parse(self.randaugment)
        if self.reduce_to is not None and (not is_number(self.reduce_to) or self.reduce_to < 1):
            raise ConfigError(f"augment: reduce_to must be null or a number of pixels, got {self.reduce_to!r}")
        if self.erasing_noise not in ("clip", "frame"):
            raise ConfigError(f"augment: erasing_noise must be one of clip, frame, got {self.erasing_noise!r}")
        for name in ("flip", "reverse", "grayscale", "invert", "erasing"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= 1:
                raise ConfigError(f"augment: {name} is a probability in [0, 1], got {value!r}")
        for name in ("brightness", "contrast", "saturation", "rotation", "noise"):
            value = getattr(self, name)
            if not is_number(value) or value < 0:
                raise ConfigError(f"augment: {name} must be a number of at least 0, got {value!r}")
        for name in ("flip_map", "reverse_map"):
            if not isinstance(getattr(self, name), Mapping):
                raise ConfigError(f"augment: {name} must map class names to class names, got {getattr(self, name)!r}")
        for name in ("crop_scale", "crop_ratio"):
            values = float_tuple("augment", name, getattr(self, name), 2)
            if not 0 < values[0] <= values[1]:
                raise ConfigError(f"augment: {name} must be (low, high) with 0 < low <= high, got {values}")
            object.__setattr__(self, name, values)
        if self.crop_scale[1] > 1:
            raise ConfigError(f"augment: crop_scale is a share of the area, at most 1, got {self.crop_scale}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        for key, value in values.items():
            if isinstance(value, tuple):
                values[key] = list(value)
            elif isinstance(value, Mapping):
                values[key] = dict(value)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AugmentOptions:
        """Inverse of `to_dict`; missing keys have their defaults.

        Raises:
            ConfigError: unknown key, or wrong value.
        """
        check_keys("augment", values, cls)
        return cls(**values)


def resolve_label_map(names: Mapping[str, str], classes: Sequence[str]) -> dict[int, int]:
    """Pairs of class names as a map of class indices that works both ways.

    Raises:
        ConfigError: a name is not a class, or a class is paired with two others.
    """
    index_of = {name: index for index, name in enumerate(classes)}
    pairs: dict[int, int] = {}
    for one, other in names.items():
        for name in (one, other):
            if name not in index_of:
                hint = nearest(name, classes, cutoff=0.0)
                raise ConfigError(f"label map: {name!r} is not a class; {hint}")
        for source, target in ((one, other), (other, one)):
            paired = pairs.setdefault(index_of[source], index_of[target])
            if paired != index_of[target]:
                raise ConfigError(f"label map: {source!r} is paired with both {classes[paired]!r} and {target!r}")
    return pairs


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
        """Transform the frames of a clip."""
        box = self.box(frames_THWC.shape[1], frames_THWC.shape[2], rng)
        return Placed(self._cut(frames_THWC, box, self.size, self.size), 0, 0)

    def _cut(self, frames_THWC: NDArray[np.uint8], box: Box, height: int, width: int) -> Tensor:
        # Resizing the cropped region alone costs a fraction of resizing the frame.
        region = to_tensor(frames_THWC[:, box.top : box.top + box.height, box.left : box.left + box.width])
        return resize(region, height, width, antialias=self.antialias)


class StretchCrop(RandomResizedCrop):
    """`RandomResizedCrop` of the frame stretched to a square; area and aspect are those in the square."""

    def __call__(self, frames_THWC: NDArray[np.uint8], rng: np.random.Generator) -> Placed:
        """Transform the frames of a clip."""
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
        """Transform the frames of a clip."""
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


class ColorJitter:
    """Brightness, contrast and saturation by random factors in random order; with `p_gray`, no colour.

    Contrast turns about the mean grey of the whole clip, so that it does not flicker.
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        p_gray: float = 0.0,
        p_invert: float = 0.0,
    ) -> None:
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.p_gray = p_gray
        self.p_invert = p_invert

    @property
    def active(self) -> bool:
        """True if the transform can change anything."""
        return any((self.brightness, self.contrast, self.saturation, self.p_gray, self.p_invert))

    def __call__(self, frames_TCHW: Tensor, rng: np.random.Generator) -> Tensor:
        """float32 in [0, 1] to the same."""
        steps: list[tuple[float, Callable[[Tensor], Tensor | float]]] = [
            (self.brightness, lambda _: 0.0),
            (self.contrast, lambda frames: _gray(frames).mean()),
            (self.saturation, _gray),
        ]
        for step in rng.permutation(len(steps)):
            strength, anchor = steps[step]
            factor = float(rng.uniform(max(0.0, 1 - strength), 1 + strength))
            if strength:
                frames_TCHW = (frames_TCHW * factor + anchor(frames_TCHW) * (1 - factor)).clamp_(0, 1)
        if rng.random() < self.p_gray:
            frames_TCHW = _gray(frames_TCHW).expand_as(frames_TCHW)
        if rng.random() < self.p_invert:
            frames_TCHW = 1 - frames_TCHW
        return frames_TCHW


class GaussianNoise:
    """Sensor noise: one strength per clip, uniform in [0, largest]; new noise in every frame."""

    def __init__(self, largest: float) -> None:
        self.largest = largest

    def __call__(self, frames_TCHW: Tensor, rng: np.random.Generator) -> Tensor:
        """float32 in [0, 1] to the same."""
        strength = float(rng.uniform(0.0, self.largest))
        noise = torch.from_numpy(rng.standard_normal(tuple(frames_TCHW.shape), dtype=np.float32))
        return frames_TCHW.add(noise, alpha=strength).clamp_(0, 1)


class _AxisFlip:
    """Flip one axis of the clip with probability `p`, and swap the label where `label_map` has it."""

    axis: int  # of [T, C, H, W]

    def __init__(self, p: float, label_map: LabelMap | None = None) -> None:
        self.p = p
        self.label_map = dict(label_map or {})

    def __call__(self, clip_TCHW: Tensor, label: int, rng: np.random.Generator) -> tuple[Tensor, int]:
        if rng.random() >= self.p:
            return clip_TCHW, label
        return clip_TCHW.flip(self.axis), self.label_map.get(label, label)


class HorizontalFlip(_AxisFlip):
    """Mirror the clip with probability `p`, and the label with it where `label_map` has it."""

    axis = 3


class TimeReverse(_AxisFlip):
    """Play the clip backwards with probability `p`, and swap the label where `label_map` has it."""

    axis = 0


class RandomRotation:
    """Rotate by one angle uniform in [-degrees, degrees]; uncovered corners become zero."""

    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __call__(self, clip_TCHW: Tensor, rng: np.random.Generator) -> Tensor:
        """Square normalised frames to the same."""
        angle = math.radians(float(rng.uniform(-self.degrees, self.degrees)))
        cos, sin = math.cos(angle), math.sin(angle)
        # Frames as channels of one image share one sampling grid.
        image = clip_TCHW.flatten(0, 1)[None]
        theta = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]])
        grid = functional.affine_grid(theta, list(image.shape), align_corners=False)
        rotated = functional.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return rotated.view(clip_TCHW.shape)


class RandomErasing:
    """With probability `p`, one block of standard normal noise at the same place in every frame.

    The noise is the same in every frame, or with `noise` "frame" new in each, as the published "cube" erasing has it.
    The block's area share is uniform in `scale`, its aspect (height / width) log-uniform in `ratio`; after
    ten tries that do not fit, the clip stays whole.
    """

    def __init__(
        self, p: float, scale: Range = (0.02, 1 / 3), ratio: Range = (0.3, 1 / 0.3), noise: ErasingNoise = "clip"
    ) -> None:
        self.p = p
        self.noise = noise
        self.scale = scale
        self.ratio = ratio

    def __call__(self, clip_TCHW: Tensor, rng: np.random.Generator) -> Tensor:
        """Normalised frames to the same; the input is left as it is."""
        if rng.random() >= self.p:
            return clip_TCHW
        frames, channels, height, width = clip_TCHW.shape
        for _ in range(_TRIES):
            area = height * width * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            block_height, block_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < block_height < height and 0 < block_width < width:
                top = int(rng.integers(0, height - block_height, endpoint=True))
                left = int(rng.integers(0, width - block_width, endpoint=True))
                noises = 1 if self.noise == "clip" else frames
                noise = rng.standard_normal((noises, channels, block_height, block_width), dtype=np.float32)
                erased = clip_TCHW.clone()
                erased[:, :, top : top + block_height, left : left + block_width] = torch.from_numpy(noise)
                return erased
        return clip_TCHW


class TrainTransform:
    """All training transforms in order: RandAugment, crop, colour, noise, normalise, flip, reverse, rotate, erase.

    Published recipes normalise before they crop, which is the same but for rounding: ours rounds the crop's pixels to
    whole grey levels. Letterbox borders and the corners that `rotation` uncovers hold the mean (zero after
    normalising), and colour changes leave them alone.
    """

    def __init__(self, options: AugmentOptions, pre: Preprocessing, classes: Sequence[str] = ()) -> None:
        """`classes` are the names that the label maps of `options` refer to.

        Raises:
            ConfigError: a label map names an unknown class or pairs one twice.
        """
        self.pre = pre
        scale = options.crop_scale
        if pre.fit != "crop":
            scale = (options.crop_scale[0], 1.0)
        kind = {"crop": RandomResizedCrop, "letterbox": LetterboxCrop, "stretch": StretchCrop}[pre.fit]
        self.reduce_to = options.reduce_to
        self.randaugment = RandAugment.parse(options.randaugment) if options.randaugment is not None else None
        self.crop = kind(pre.training_size, scale, options.crop_ratio, pre.antialias)
        self.color = ColorJitter(
            options.brightness, options.contrast, options.saturation, options.grayscale, options.invert
        )
        self.noise = GaussianNoise(options.noise) if options.noise else None
        self.flip = HorizontalFlip(options.flip, resolve_label_map(options.flip_map, classes))
        self.reverse = TimeReverse(options.reverse, resolve_label_map(options.reverse_map, classes))
        self.rotate = RandomRotation(options.rotation) if options.rotation else None
        self.erase = RandomErasing(options.erasing, noise=options.erasing_noise)

    def __call__(self, frames_THWC: NDArray[np.uint8], label: int, rng: np.random.Generator) -> tuple[Tensor, int]:
        """One training clip.

        Args:
            frames_THWC: uint8 RGB frames of any size.
            label: class index.
            rng: source of all draws.

        Returns:
            clip_CTHW: float32 [C, T, size, size], normalised and contiguous; and the label, swapped where a
            flip or reversal has swapped it.
        """
        frames_THWC = reduced(frames_THWC, self.reduce_to)
        if self.randaugment:
            frames_THWC = self.randaugment(frames_THWC, rng)
        placed = self.crop(frames_THWC, rng)
        frames_TCHW = placed.frames
        if self.color.active or self.noise:
            frames_TCHW = frames_TCHW * (1 / 255)
            frames_TCHW = self.color(frames_TCHW, rng)
            if self.noise:
                frames_TCHW = self.noise(frames_TCHW, rng)
            frames_TCHW = frames_TCHW * 255
        clip_TCHW = _place(normalise(in_clip_order(frames_TCHW), self.pre), placed, self.pre.training_size)
        clip_TCHW, label = self.flip(clip_TCHW, label, rng)
        clip_TCHW, label = self.reverse(clip_TCHW, label, rng)
        if self.rotate:
            clip_TCHW = self.rotate(clip_TCHW, rng)
        clip_TCHW = self.erase(clip_TCHW, rng)
        return clip_TCHW.transpose(0, 1).contiguous(), label


def reduced(frames_THWC: NDArray[np.uint8], short_side: int | None) -> NDArray[np.uint8]:
    """Frames with their short side made `short_side` where it is longer; the same frames otherwise, or for None."""
    height, width = frames_THWC.shape[1:3]
    short = min(height, width)
    if short_side is None or short <= short_side:
        return frames_THWC
    small_TCHW = resize(to_tensor(frames_THWC), round(height * short_side / short), round(width * short_side / short))
    small_THWC: NDArray[np.uint8] = small_TCHW.permute(0, 2, 3, 1).contiguous().numpy()
    return small_THWC


def in_clip_order(frames_TCHW: Tensor) -> Tensor:
    """Copy the values into [C, T, H, W] order, the order of a finished clip, which later steps keep.

    Moving uint8 values is cheap; moving the normalised ones at the end took longer than all else but RandAugment.
    """
    return frames_TCHW.transpose(0, 1).contiguous().transpose(0, 1)


def _place(frames_TCHW: Tensor, placed: Placed, size: int) -> Tensor:
    height, width = frames_TCHW.shape[-2:]
    if (height, width) == (size, size):
        return frames_TCHW
    right, bottom = size - width - placed.left, size - height - placed.top
    return functional.pad(frames_TCHW, (placed.left, right, placed.top, bottom))


def _gray(frames_TCHW: Tensor) -> Tensor:
    red, green, blue = frames_TCHW.unbind(1)
    return (red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2])[:, None]
