"""Data sets on real files: the right frames, reproducible draws, loader workers, cache and errors.

Shape legend: V views (clips x crops), C channels, T frames, H height, W width.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from emim.data.augment.transforms import AugmentOptions
from emim.data.dataset import TestClips, TrainClips, init_worker
from emim.data.folder import load_clips
from emim.data.loader import ClipLoader, EpochBatches
from emim.data.manifest import ClipEntry, ClipList
from emim.data.preprocessing import Preprocessing, test_views
from emim.data.sampling import segment_indices_test
from emim.data.video import open_video
from emim.errors import BrokenClipsError, ConfigError, DataError, NotAVideoError, VideoError

PRE = Preprocessing(num_frames=4, size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
PLAIN = AugmentOptions(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
# Frames are flat grey, one level per frame; lossy coding moves a level by less than half the step.
STEP = 6


def encode(path: Path, num_frames: int, *, height: int = 48, width: int = 64, fps: int = 25) -> None:
    """Write a video whose frame i is grey of level STEP * i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 4_000_000
        for i in range(num_frames):
            frame_HWC = np.full((height, width, 3), STEP * i, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode(None))


def frame_numbers(clip_CTHW: torch.Tensor) -> list[int]:
    return (clip_CTHW.mean((0, 2, 3)) * 255 / STEP).round().int().tolist()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ClipList:
    """Two classes of three videos of 20 to 40 frames."""
    root = tmp_path_factory.mktemp("videos")
    for number, length in enumerate((20, 25, 40)):
        encode(root / "wave" / f"{number}.mp4", length)
        encode(root / "clap" / f"{number}.avi", length)
    return load_clips(root, split=None)


def test_test_views_hold_the_frames_of_the_recipe(clips: ClipList) -> None:
    pre = Preprocessing(num_frames=4, size=32, mean=PRE.mean, std=PRE.std, clips=2)
    dataset = TestClips(clips, pre)
    assert len(dataset) == 6
    for index, entry in enumerate(clips):
        item = dataset[index]
        assert item["views"].shape == (6, 3, 4, 32, 32)
        assert (item["label"], item["index"]) == (entry.label, index)
        length = (20, 25, 40)[index % 3]
        for view in range(6):
            assert frame_numbers(item["views"][view]) == segment_indices_test(length, 4, view // 3, 2).tolist()


def test_start_and_end_limit_the_frames(clips: ClipList) -> None:
    path = clips.entries[2].path  # 40 frames at 25 fps
    entries = (
        ClipEntry(path, 0, 10.0, 19.0, "frame"),
        ClipEntry(path, 0, 0.4, 0.76),
        ClipEntry(path, 0, 9.0),
    )
    part = ClipList(entries, clips.classes, clips.source)
    expected = (10 + segment_indices_test(9, 4)).tolist()
    for index in (0, 1):
        assert frame_numbers(TestClips(part, PRE)[index]["views"][0]) == expected
        train = TrainClips(part, PRE, PLAIN)
        numbers = [n for epoch in range(30) for n in frame_numbers(train[epoch, index]["clip"])]
        assert (min(numbers), max(numbers)) == (10, 18)
    for dataset in (TestClips(part, PRE), TrainClips(part, PRE)):
        with pytest.raises(DataError, match=r"2\.\w+: clip range 9 to end holds no frame"):
            dataset[2]


def test_views_of_a_reader_equal_those_of_the_data_set(clips: ClipList) -> None:
    with open_video(clips.entries[4].path) as reader:
        assert torch.equal(test_views(reader, PRE), TestClips(clips, PRE)[4]["views"])


def test_short_videos_repeat_frames(tmp_path: Path) -> None:
    encode(tmp_path / "short.mp4", 3)
    clips = ClipList((ClipEntry(tmp_path / "short.mp4", 0),), ("a",), tmp_path)
    dense = Preprocessing(num_frames=4, sampling="dense", stride=2, size=32, mean=PRE.mean, std=PRE.std)
    # Span 4 * 2 * 25 / 30 = 6.67 frames from 0, step 1.89, and no frame after number 2.
    assert frame_numbers(TestClips(clips, dense)[0]["views"][0]) == [0, 1, 2, 2]
    assert frame_numbers(TestClips(clips, PRE)[0]["views"][0]) == [0, 0, 1, 2]
    assert frame_numbers(TrainClips(clips, dense, PLAIN)[0]["clip"]) == [0, 1, 2, 2]


def test_folders_of_frames_read_like_videos(tmp_path: Path, clips: ClipList) -> None:
    from PIL import Image

    for name in ("a/clip", "b/clip"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(12):
            level = np.full((48, 64, 3), STEP * i, dtype=np.uint8)
            Image.fromarray(level).save(tmp_path / name / f"{i + 1:05d}.png")
    dataset = TestClips(load_clips(tmp_path, split=None), PRE)
    assert frame_numbers(dataset[1]["views"][0]) == segment_indices_test(12, 4).tolist()


def test_an_item_depends_on_seed_epoch_and_index_alone(clips: ClipList) -> None:
    augment = AugmentOptions(flip=0.5, brightness=0.3, erasing=0.3)
    one, other = TrainClips(clips, PRE, augment, seed=1), TrainClips(clips, PRE, augment, seed=1)
    for index in reversed(range(6)):
        assert torch.equal(one[3, index]["clip"], other[3, index]["clip"])
    assert torch.equal(one[0, 2]["clip"], other[2]["clip"])
    assert not torch.equal(one[3, 2]["clip"], one[4, 2]["clip"])
    assert not torch.equal(one[3, 2]["clip"], TrainClips(clips, PRE, augment, seed=2)[3, 2]["clip"])


def test_persistent_workers_see_every_epoch(clips: ClipList) -> None:
    dataset = TrainClips(clips, PRE, AugmentOptions(flip=0.5), seed=5)
    epochs = []
    for workers in (0, 2):
        batches = EpochBatches(len(dataset), 2, seed=5)
        loader = ClipLoader(dataset, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0)
        seen = []
        for epoch in range(3):
            batches.set_epoch(epoch)
            found = list(loader)
            seen.append(
                {int(i): clip for batch in found for i, clip in zip(batch["index"], batch["clip"], strict=True)}
            )
            assert [len(batch["label"]) for batch in found] == [2, 2, 2]
        epochs.append(seen)
    for plain, parallel in zip(*epochs, strict=True):
        assert list(plain) == list(parallel)
        assert all(torch.equal(plain[index], parallel[index]) for index in range(6))
    assert not torch.equal(epochs[1][0][0], epochs[1][1][0])


def test_the_cache_samples_the_same_frames(clips: ClipList) -> None:
    plain = TrainClips(clips, PRE, PLAIN)
    cached = TrainClips(clips, PRE, PLAIN, cache=True)
    for epoch in range(3):
        for index in range(6):
            assert frame_numbers(cached[epoch, index]["clip"]) == frame_numbers(plain[epoch, index]["clip"])


def test_the_cache_serves_videos_without_the_file_up_to_its_limit(tmp_path: Path) -> None:
    entries = []
    for name in ("a.mp4", "b.mp4"):
        encode(tmp_path / name, 20, height=96, width=128)
        entries.append(ClipEntry(tmp_path / name, 0, 5.0, 15.0, "frame"))
    clips = ClipList(tuple(entries), ("a",), tmp_path)
    # Ten frames of 42 x 56 (1.3 * 32 rounded up, aspect kept): room for one clip and a half.
    one_clip_mb = 10 * 42 * 56 * 3 / 2**20
    dataset = TrainClips(clips, PRE, PLAIN, cache=True, cache_mb=1.5 * one_clip_mb)
    first = [dataset[0, index]["clip"] for index in (0, 1)]
    (tmp_path / "a.mp4").unlink()
    assert torch.equal(dataset[0, 0]["clip"], first[0])
    assert min(frame_numbers(dataset[1, 0]["clip"])) >= 5
    assert torch.equal(dataset[0, 1]["clip"], first[1])
    (tmp_path / "b.mp4").unlink()
    with pytest.raises(VideoError, match=r"b\.mp4"):
        dataset[0, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_named_and_never_replaced(tmp_path: Path, clips: ClipList, workers: int) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video" * 100)
    mixed = ClipList((clips.entries[0], ClipEntry(broken, 0)), clips.classes, tmp_path)
    for dataset in (TrainClips(mixed, PRE), TestClips(mixed, PRE)):
        loader = iter(ClipLoader(dataset, batch_size=1, num_workers=workers))
        assert next(loader)["index"].tolist() == [0]
        with pytest.raises(NotAVideoError) as caught:
            next(loader)
        assert caught.value.path == broken
        assert str(caught.value).startswith(f"{broken}: ")
        assert "\n" not in str(caught.value)
        with pytest.raises(NotAVideoError):  # a batch with a broken clip is no smaller batch
            next(iter(ClipLoader(dataset, batch_size=2, num_workers=workers)))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_readable_clip_takes_the_place_of_a_broken_one(tmp_path: Path, clips: ClipList, workers: int) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video" * 100)
    entries = (clips.entries[0], ClipEntry(broken, 0), *clips.entries[1:4])
    dataset = TrainClips(ClipList(entries, clips.classes, tmp_path), PRE, AugmentOptions(flip=0.5))
    found: list[int] = []
    loader = ClipLoader(
        dataset,
        max_skipped=1,
        on_skip=lambda index, error: found.append(index),
        batch_sampler=EpochBatches(5, 5, seed=1),
        num_workers=workers,
    )
    for _ in range(2):
        (batch,) = loader
        assert sorted(batch["index"].tolist()) == [0, 2, 2, 3, 4]
        for index, clip in zip(batch["index"].tolist(), batch["clip"], strict=True):
            assert torch.equal(clip, dataset[0, index]["clip"])
    assert found == [1]  # said once
    assert list(loader.skipped) == [1]


def test_too_many_broken_clips_stop_with_all_of_them(tmp_path: Path, clips: ClipList) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"no video" * 100)
    entries = (ClipEntry(tmp_path / "a.mp4", 0), ClipEntry(tmp_path / "b.mp4", 0), clips.entries[0])
    dataset = TrainClips(ClipList(entries, clips.classes, tmp_path), PRE)
    with pytest.raises(BrokenClipsError, match=r"2 training clips cannot be read, 1 are allowed.*a\.mp4.*b\.mp4"):
        list(ClipLoader(dataset, max_skipped=1, batch_sampler=EpochBatches(3, 3)))


def test_label_maps_reach_the_items(clips: ClipList) -> None:
    augment = AugmentOptions(flip=1.0, flip_map={"wave": "clap"})
    dataset = TrainClips(clips, PRE, augment)
    assert [dataset[i]["label"] for i in range(6)] == [1 - entry.label for entry in clips]
    with pytest.raises(ConfigError, match="'wavee' is not a class"):
        TrainClips(clips, PRE, AugmentOptions(flip_map={"wavee": "clap"}))


def test_wrong_options(clips: ClipList) -> None:
    with pytest.raises(ConfigError, match="seed must be at least 0"):
        TrainClips(clips, PRE, seed=-1)


def test_one_thread_in_workers() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        init_worker(0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
