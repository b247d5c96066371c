"""Data sets of training clips and test views.

The content of an item depends on (seed, draw, index) alone, so the number of loader workers does not matter. The
number of the draw comes with every index (from `emim.data.loader`), because the copies of a data set in
persistent workers would not learn of a new epoch otherwise.

Shape legend: V views (clips x crops), C channels, T frames, H height, W width.
"""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from emim.data.augment.transforms import AugmentOptions, TrainTransform
from emim.data.manifest import ClipEntry, ClipList
from emim.data.preprocessing import Preprocessing, resize, test_views, to_tensor, train_indices
from emim.data.video import VideoReader, open_video
from emim.errors import ConfigError

__all__ = ["DrawIndex", "TestClips", "TrainClips", "TrainItem", "ViewsItem", "init_worker"]

DrawIndex = tuple[int, int]
"""(draw, index): the number of the random draw, and the clip."""

# Cached frames keep this much more than the crop's size, so that crops still have detail to scale down.
_CACHE_MARGIN = 1.3
# Frames decoded at once while filling the cache: bounds the memory that full-size frames take.
_CACHE_CHUNK = 64
_MIB = 2**20


class TrainItem(TypedDict):
    """clip: float32 [C, T, H, W]; label: class index after augmentation; index: position in the list."""

    clip: Tensor
    label: int
    index: int


class ViewsItem(TypedDict):
    """views: float32 [V, C, T, H, W]; label: class index; index: position in the list."""

    views: Tensor
    label: int
    index: int


class TrainClips(Dataset[TrainItem]):
    """Random training clips of labelled videos.

    Indexed by (draw, index), as `emim.data.loader.EpochBatches` gives it, or by index alone for draw 0.

    Args:
        clip_list: the clips.
        preprocessing: frame count, sampling, size and normalisation.
        augment: training transforms; label maps name classes of `clip_list`.
        seed: seed of every draw.
        cache: keep the decoded frames of videos in memory, with the short side reduced to 1.3 times the
            size. The same frames are sampled as without; crops of a small part of the frame are coarser.
            For small data sets. Every loader worker has a cache of its own.
        cache_mb: limit of one cache, in MiB; videos beyond it are decoded every time.

    Raises:
        ConfigError: wrong option, or a label map names an unknown class.
    """

    def __init__(
        self,
        clip_list: ClipList,
        preprocessing: Preprocessing,
        augment: AugmentOptions | None = None,
        seed: int = 0,
        *,
        cache: bool = False,
        cache_mb: float = 1024,
    ) -> None:
        _check_seed(seed)
        self.clip_list = clip_list
        self.preprocessing = preprocessing
        self.transform = TrainTransform(augment or AugmentOptions(), preprocessing, clip_list.classes)
        self.seed = seed
        self._cache = _FrameCache(math.ceil(preprocessing.training_size * _CACHE_MARGIN), cache_mb) if cache else None

    def __len__(self) -> int:
        return len(self.clip_list)

    def __getitem__(self, item: int | DrawIndex) -> TrainItem:
        """One training clip.

        Raises:
            VideoError: the video cannot be read.
            DataError: the entry's start and end hold no frame of the video.
        """
        draw, index = item if isinstance(item, tuple) else (0, item)
        entry = self.clip_list.entries[index]
        rng = np.random.default_rng((self.seed, draw, index))
        frames_THWC = self._sample(entry, index, rng)
        clip_CTHW, label = self.transform(frames_THWC, entry.label, rng)
        return {"clip": clip_CTHW, "label": label, "index": index}

    def _sample(self, entry: ClipEntry, index: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        pre = self.preprocessing
        cached = None if self._cache is None else self._cache.get(index)
        if cached is None:
            with open_video(entry.path, square_pixels=pre.square_pixels) as reader:
                first, stop = entry.frame_range(reader.num_frames, reader.fps)
                if self._cache is not None:
                    cached = self._cache.fill(index, reader, first, stop)
                if cached is None:
                    positions = train_indices(pre, stop - first, reader.fps, rng)
                    return reader.read((positions + first).tolist())
        frames_THWC, fps = cached
        return frames_THWC[train_indices(pre, len(frames_THWC), fps, rng)]


class TestClips(Dataset[ViewsItem]):
    """The test views of labelled videos; nothing is random and nothing is replaced.

    An item raises VideoError (which names the file) when its video cannot be read.
    """

    __test__ = False  # not a test case, whatever its name looks like to pytest

    def __init__(self, clip_list: ClipList, preprocessing: Preprocessing) -> None:
        self.clip_list = clip_list
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.clip_list)

    def __getitem__(self, index: int) -> ViewsItem:
        """The views of one video.

        Raises:
            VideoError: the video cannot be read.
            DataError: the entry's start and end hold no frame of the video.
        """
        entry = self.clip_list.entries[index]
        with open_video(entry.path, square_pixels=self.preprocessing.square_pixels) as reader:
            first, stop = entry.frame_range(reader.num_frames, reader.fps)
            views_VCTHW = test_views(reader, self.preprocessing, first, stop)
        return {"views": views_VCTHW, "label": entry.label, "index": index}


def init_worker(worker_id: int) -> None:
    """`worker_init_fn` of a loader: one thread per worker, since the workers share the cores."""
    del worker_id  # draws do not depend on the worker
    torch.set_num_threads(1)


class _FrameCache:
    """Whole clips as reduced uint8 frames, up to a memory limit; nothing is evicted.

    Eviction would not help: an epoch visits every clip once, in random order.
    """

    def __init__(self, short_side: int, limit_mb: float) -> None:
        self._short_side = short_side
        self._free = limit_mb * _MIB
        self._clips: dict[int, tuple[NDArray[np.uint8], float]] = {}

    def get(self, index: int) -> tuple[NDArray[np.uint8], float] | None:
        """Frames [T, H, W, C] of a clip and their frame rate, if kept."""
        return self._clips.get(index)

    def fill(self, index: int, reader: VideoReader, first: int, stop: int) -> tuple[NDArray[np.uint8], float] | None:
        """Decode and keep frames [first, stop); None if the cache has no room left."""
        scale = min(1.0, self._short_side / min(reader.height, reader.width))
        height, width = max(1, round(reader.height * scale)), max(1, round(reader.width * scale))
        needed = (stop - first) * height * width * 3
        if needed > self._free:
            return None
        frames_THWC = np.empty((stop - first, height, width, 3), dtype=np.uint8)
        for start in range(first, stop, _CACHE_CHUNK):
            chunk = range(start, min(start + _CACHE_CHUNK, stop))
            reduced_TCHW = resize(to_tensor(reader.read(list(chunk))), height, width)
            frames_THWC[start - first : chunk.stop - first] = reduced_TCHW.permute(0, 2, 3, 1).numpy()
        self._free -= needed
        self._clips[index] = frames_THWC, reader.fps
        return self._clips[index]


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}")
