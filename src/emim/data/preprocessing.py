"""From decoded frames to the clips a network is tested on: the settings, and the test views.

The settings travel with the weights, so that a model is always fed as it was trained.

Shape legend: V views (clips x crops), C channels, T frames, H height, W width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from emim.data import sampling
from emim.errors import ConfigError
from emim.utils import nearest

if TYPE_CHECKING:
    from emim.data.video import VideoReader

__all__ = [
    "Fit",
    "Preprocessing",
    "Sampling",
    "check_keys",
    "crop_start",
    "cut_views",
    "finish_views",
    "fit_frames",
    "float_tuple",
    "is_number",
    "letterbox_size",
    "normalise",
    "pad_to_square",
    "raw_test_views",
    "resize",
    "test_indices",
    "test_views",
    "to_tensor",
    "train_indices",
    "views_from_frames",
]

Sampling = Literal["segment", "dense"]
Fit = Literal["crop", "letterbox", "stretch"]


@dataclass(frozen=True)
class Preprocessing:
    """Choice, size and normalisation of frames.

    Attributes:
        num_frames: frames per clip.
        sampling: "segment" (spread over the whole video) or "dense" (a span of num_frames * stride frames at
            30 fps).
        stride: frame distance of dense sampling, at 30 fps.
        size: side of the square network input, in pixels.
        train_size: side in training; null is `size`. Random crops enlarge what they show, so a somewhat larger side
            in testing than in training restores the size that the network has seen, and a smaller one in training
            is faster.
        fit: how a frame becomes square. "crop": the short side is scaled to `size` and squares are cut out.
            "letterbox": the whole frame is scaled into the square and the borders hold the mean. "stretch":
            the whole frame is scaled to the square, whatever its aspect.
        antialias: average where frames are made smaller; false takes bilinear samples, as published.
        square_pixels: scale frames whose pixels are not square, as a player does; false reads the stored pixels, as
            published.
        mean: per RGB channel, of values in [0, 1].
        std: per RGB channel.
        clips: test clips per video.
        crops: test crops per clip: 1 (centre) or 3 (along the long side); letterbox and stretch have one.
    """

    num_frames: int = 16
    sampling: Sampling = "segment"
    stride: int = 4
    size: int = 224
    train_size: int | None = None
    fit: Fit = "crop"
    antialias: bool = True
    square_pixels: bool = True
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)
    clips: int = 1
    crops: int = 3

    def __post_init__(self) -> None:
        for name in ("num_frames", "stride", "size", "train_size", "clips"):
            value = self.training_size if name == "train_size" else getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"preprocessing: {name} must be a whole number of at least 1, got {value!r}")
        for name, known in (("sampling", ("segment", "dense")), ("fit", ("crop", "letterbox", "stretch"))):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"preprocessing: {name} must be one of {', '.join(known)}, got {value!r}")
        for name in ("antialias", "square_pixels"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"preprocessing: {name} must be true or false, got {getattr(self, name)!r}")
        if self.crops not in (1, 3):
            raise ConfigError(f"preprocessing: crops must be 1 or 3, got {self.crops!r}")
        for name in ("mean", "std"):
            values = float_tuple("preprocessing", name, getattr(self, name), 3)
            if name == "std" and min(values) <= 0:
                raise ConfigError(f"preprocessing: std must be above 0, got {values}")
            object.__setattr__(self, name, values)  # a list read from JSON becomes a tuple

    @property
    def training_size(self) -> int:
        """Side of the network input in training."""
        return self.size if self.train_size is None else self.train_size

    @property
    def crops_per_clip(self) -> int:
        """Crops per test clip in effect: letterboxed and stretched frames have one."""
        return self.crops if self.fit == "crop" else 1

    @property
    def num_views(self) -> int:
        """Views per video in testing."""
        return self.clips * self.crops_per_clip

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Inverse of `to_dict`; missing keys have their defaults.

        Raises:
            ConfigError: unknown key, or wrong value.
        """
        check_keys("preprocessing", values, cls)
        return cls(**values)


def check_keys(what: str, values: Mapping[str, Any], cls: type) -> None:
    """Raise ConfigError for the first key of `values` that the dataclass `cls` has no field for."""
    known = [field.name for field in dataclasses.fields(cls)]
    for key in values:
        if key not in known:
            raise ConfigError(f"{what}: unknown key {key!r}; {nearest(key, known)}")


def float_tuple(what: str, name: str, values: Any, length: int) -> tuple[float, ...]:
    """`values` as a tuple of `length` finite floats, or ConfigError."""
    if not isinstance(values, list | tuple) or len(values) != length or not all(map(is_number, values)):
        raise ConfigError(f"{what}: {name} must be {length} numbers, got {values!r}")
    return tuple(map(float, values))


def is_number(value: Any) -> bool:
    """True for a finite int or float (and not a bool)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def train_indices(pre: Preprocessing, num_frames: int, fps: float, rng: np.random.Generator) -> sampling.IndexArray:
    """Frame indices of one random training clip: int64 [T] in [0, num_frames)."""
    if pre.sampling == "segment":
        return sampling.segment_indices_train(num_frames, pre.num_frames, rng)
    return sampling.dense_indices_train(num_frames, pre.num_frames, pre.stride, fps, rng)


def test_indices(pre: Preprocessing, num_frames: int, fps: float, clip: int) -> sampling.IndexArray:
    """Frame indices of test clip `clip` of `pre.clips`: int64 [T] in [0, num_frames)."""
    if pre.sampling == "segment":
        return sampling.segment_indices_test(num_frames, pre.num_frames, clip, pre.clips)
    return sampling.dense_indices_test(num_frames, pre.num_frames, pre.stride, fps, clip, pre.clips)


def test_views(
    reader: VideoReader,
    pre: Preprocessing,
    first: int = 0,
    stop: int | None = None,
) -> Tensor:
    """The test views of a video, or of its frames [first, stop).

    Returns:
        views_VCTHW: float32, normalised; V = pre.num_views, clip by clip: view v is crop v % crops of clip
        v // crops.

    Raises:
        VideoError: a frame cannot be read.
    """
    return finish_views(raw_test_views(reader, pre, first, stop), pre)


def raw_test_views(
    reader: VideoReader,
    pre: Preprocessing,
    first: int = 0,
    stop: int | None = None,
) -> Tensor:
    """`test_views` before `finish_views`: a quarter of the bytes to send from one process to another.

    Every frame is decoded and resized once, however many views share it.

    Returns:
        views_VCTHW: uint8 pixels, in the order of `test_views`; not padded to a square.

    Raises:
        VideoError: a frame cannot be read.
    """
    stop = reader.num_frames if stop is None else stop
    index_VT = np.stack([test_indices(pre, stop - first, reader.fps, clip) for clip in range(pre.clips)])
    unique, position = np.unique(index_VT, return_inverse=True)
    frames_THWC = reader.read((unique + first).tolist())
    return cut_views(frames_THWC, position.reshape(index_VT.shape), pre)


# These two are no tests, whatever their name looks like to pytest.
test_indices.__test__ = False  # type: ignore[attr-defined]
test_views.__test__ = False  # type: ignore[attr-defined]


def views_from_frames(frames_THWC: NDArray[np.uint8], position_VT: NDArray[np.int64], pre: Preprocessing) -> Tensor:
    """Crop and normalise decoded frames.

    Args:
        frames_THWC: RGB frames.
        position_VT: for every clip, the positions of its frames along T.
        pre: `size`, `fit`, `crops`, `mean` and `std` apply.

    Returns:
        views_VCTHW: float32, V = clips * crops, clip by clip.
    """
    return finish_views(cut_views(frames_THWC, position_VT, pre), pre)


def cut_views(frames_THWC: NDArray[np.uint8], position_VT: NDArray[np.int64], pre: Preprocessing) -> Tensor:
    """`views_from_frames` before `finish_views`: views_VCTHW in uint8, letterboxed frames without their borders."""
    frames_TCHW = fit_frames(to_tensor(frames_THWC), pre)
    views: list[Tensor] = []
    for position_T in torch.from_numpy(np.ascontiguousarray(position_VT)):
        clip_TCHW = frames_TCHW[position_T]
        for crop in range(pre.crops_per_clip):
            # The centre crop is the middle one of the three.
            place = crop if pre.crops_per_clip == 3 else 1
            views.append(_square(clip_TCHW, pre.size, place).transpose(0, 1))
    return torch.stack(views)


def finish_views(views_VCTHW: Tensor, pre: Preprocessing) -> Tensor:
    """Normalise the result of `raw_test_views` or `cut_views` and pad it to squares, on its device: float32."""
    views_VTCHW = pad_to_square(normalise(views_VCTHW.transpose(1, 2), pre), pre.size)
    return views_VTCHW.transpose(1, 2).contiguous()


def to_tensor(frames_THWC: NDArray[np.uint8]) -> Tensor:
    """View the frames as uint8 [T, C, H, W] without a copy (channels last, the fastest layout for the resize)."""
    return torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)


def fit_frames(frames_TCHW: Tensor, pre: Preprocessing) -> Tensor:
    """Resize frames for a square of `pre.size`; the result is square for fit "stretch" alone."""
    height, width = frames_TCHW.shape[-2:]
    if pre.fit == "stretch":
        target = pre.size, pre.size
    elif pre.fit == "letterbox":
        target = letterbox_size(height, width, pre.size)
    else:
        short = min(height, width)
        target = pre.size * height // short, pre.size * width // short
    return resize(frames_TCHW, *target, antialias=pre.antialias)


def letterbox_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of a whole frame scaled into a square of `size`."""
    long = max(height, width)
    return max(1, round(size * height / long)), max(1, round(size * width / long))


def resize(frames_TCHW: Tensor, height: int, width: int, *, antialias: bool = True) -> Tensor:
    """Bilinear resize; uint8 in, uint8 out."""
    if frames_TCHW.shape[-2:] == (height, width):
        return frames_TCHW
    return functional.interpolate(frames_TCHW, (height, width), mode="bilinear", antialias=antialias)


def normalise(frames_TCHW: Tensor, pre: Preprocessing) -> Tensor:
    """uint8 values to (value / 255 - mean) / std as float32; any axes may come before C."""
    std_C11 = torch.tensor(pre.std).view(3, 1, 1)
    mean_C11 = torch.tensor(pre.mean).view(3, 1, 1)
    scale_C11, shift_C11 = (1 / (255 * std_C11)).to(frames_TCHW.device), (mean_C11 / std_C11).to(frames_TCHW.device)
    return (frames_TCHW * scale_C11).sub_(shift_C11)


def pad_to_square(frames_TCHW: Tensor, size: int) -> Tensor:
    """Centre normalised frames in a square; the border is zero, the mean's value after normalising."""
    height, width = frames_TCHW.shape[-2:]
    if (height, width) == (size, size):
        return frames_TCHW
    top, left = (size - height) // 2, (size - width) // 2
    return functional.pad(frames_TCHW, (left, size - width - left, top, size - height - top))


def crop_start(length: int, size: int, place: int) -> int:
    """First pixel of a crop of `size` along a side of `length`: 0 left (or top), 1 centre, 2 right (or bottom).

    Half a pixel goes to the right, as published. A side that is not longer than the crop stays whole.
    """
    free = max(length - size, 0)
    return (0, (free + 1) // 2, free)[place]


def _square(frames_TCHW: Tensor, size: int, place: int) -> Tensor:
    """Cut `size` x `size` at a place along the long side; smaller sides stay whole."""
    top, left = (crop_start(length, size, place) for length in frames_TCHW.shape[-2:])
    return frames_TCHW[..., top : top + size, left : left + size]
