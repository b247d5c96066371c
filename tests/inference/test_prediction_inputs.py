"""Videos of every kind give the same prediction, and say what was looked at."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from emim.data.preprocessing import Preprocessing
from emim.data.video import open_video
from emim.errors import ConfigError, EmimError, VideoError
from emim.inference import reading
from emim.inference.reading import ViewReader, describe_views
from emim.inference.recogniser import Predictions, Recogniser

FPS = 25.0


@pytest.fixture
def recogniser(trained: Path) -> Recogniser:
    return Recogniser.load(trained / "model.safetensors", device="cpu")


@pytest.fixture(scope="module")
def video(generated: Path) -> Path:
    return next((generated / "test" / "left").iterdir())


@pytest.fixture(scope="module")
def frames(video: Path) -> NDArray[np.uint8]:
    with open_video(video) as reader:
        return reader.read(range(reader.num_frames))


def test_every_kind_of_video_gives_the_same_scores(
    recogniser: Recogniser, video: Path, frames: NDArray[np.uint8]
) -> None:
    expected = recogniser.predict(video, topk=11)
    with open_video(video) as reader:
        fps = reader.fps
        assert recogniser.predict(reader, topk=11).predictions == expected.predictions
        assert reader.read([0]).shape  # is still open
    assert recogniser.predict(str(video), topk=11) == expected
    for content in (video.read_bytes(), bytearray(video.read_bytes()), io.BytesIO(video.read_bytes())):
        found = recogniser.predict(content, topk=11)
        assert found.predictions == expected.predictions
        assert found.views == expected.views
        assert str(found.path) == "<bytes>"
    mirrored_twice = np.ascontiguousarray(frames[:, :, ::-1])[:, :, ::-1]  # of negative strides
    for given in (
        frames,
        mirrored_twice,
        torch.from_numpy(frames),
        list(frames),
        iter(frames),
        map(torch.from_numpy, frames),
    ):
        found = recogniser.predict(given, topk=11, fps=fps)
        assert found.predictions == expected.predictions
        assert (found.duration, found.fps, len(found.views)) == (pytest.approx(expected.duration), fps, 1)
        assert dataclasses.replace(found.views[0], times=()) == dataclasses.replace(expected.views[0], times=())
        assert str(found.path) == "<frames>"


@pytest.mark.parametrize("workers", [0, 2])
def test_many_of_different_kinds_come_in_order(
    recogniser: Recogniser, video: Path, frames: NDArray[np.uint8], workers: int
) -> None:
    floats = frames.astype(np.float32)
    given = [video, frames, video.read_bytes(), iter(frames), floats, "nowhere.mp4", frames[:1]]
    found = list(recogniser.predict_many(given, workers=workers, batch_size=2, fps=FPS))
    assert [one for one, _ in found[1:5]] == given[1:5] or all(
        one is other for (one, _), other in zip(found[1:5], given[1:5], strict=True)
    )
    assert [one for one, _ in (found[0], found[5])] == [video, Path("nowhere.mp4")]
    expected = recogniser.predict(video)
    for _, predictions in found[:4]:
        assert isinstance(predictions, Predictions)
        assert [item.label for item in predictions] == [item.label for item in expected]
    errors = [str(error) for _, error in found[4:]]
    assert "float32" in errors[0]
    assert errors[1].startswith("nowhere.mp4: no such file")
    assert "one frame only" in errors[2]


def test_a_part_of_a_video_is_that_part_alone(recogniser: Recogniser, video: Path, frames: NDArray[np.uint8]) -> None:
    part = recogniser.predict(frames[2:7], topk=11, fps=FPS)
    for given in (frames, iter(frames)):
        found = recogniser.predict(given, topk=11, fps=FPS, start=0.08, end=0.28)
        assert found.predictions == part.predictions
        assert found.views[0].frames == tuple(number + 2 for number in part.views[0].frames)
        assert found.views[0].times == pytest.approx([number / FPS for number in found.views[0].frames])
    with open_video(video) as reader:
        start, end = reader.time_of(2), reader.time_of(7)
    assert recogniser.predict(video, topk=11, start=start, end=end).predictions == part.predictions
    (_, many), *_ = recogniser.predict_many([video], topk=11, start=start, end=end)
    assert isinstance(many, Predictions)
    assert many.predictions == part.predictions
    # An iterator is not read beyond the end.
    taken = 0

    def counted() -> Iterator[NDArray[np.uint8]]:
        nonlocal taken
        for frame_HWC in frames:
            taken += 1
            yield frame_HWC

    recogniser.predict(counted(), fps=FPS, end=0.2)
    assert taken == 5


def test_an_iterator_without_end_is_an_error_in_bounded_memory(
    recogniser: Recogniser, frames: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_ITERATOR_BYTES", 1 << 20)

    def without_end() -> Iterator[NDArray[np.uint8]]:
        while True:
            yield frames[0]

    with pytest.raises(VideoError, match=r"<frames>: the first \d+ of an iterator take 1 MiB; give a file"):
        recogniser.predict(without_end(), fps=FPS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("float", r"float32 of shape \[8, 48, 64, 3\]; give uint8 RGB of shape \[T, H, W, 3\]"),
        ("channels", r"uint8 of shape \[8, 3, 48, 64\]"),
        ("one", "one frame only"),
        ("none", "holds no frame"),
        ("float frames", r"frame 0 is float32 of shape \[48, 64, 3\]; give uint8 RGB of shape \[H, W, 3\]"),
        ("sizes", r"frame 1 has the shape \[47, 64, 3\], those before it \[48, 64, 3\]"),
        ("no frames", "holds no frame"),
        ("later", "the iterator ends after 8 frames, 0.32 s: before the start"),
        ("latest", r"holds no frame from 9 s to 0\.32 s"),
        ("negative", "a time of -1.0 s: give seconds from 0"),
        ("end first", "holds no frame from 0.2 s to 0.1 s"),
    ],
)
def test_wrong_frames_and_times_are_named(
    recogniser: Recogniser, frames: NDArray[np.uint8], wrong: str, message: str
) -> None:
    given = {
        "float": frames.astype(np.float32),
        "channels": torch.from_numpy(frames).permute(0, 3, 1, 2),
        "one": frames[:1],
        "none": frames[:0],
        "float frames": iter(frames.astype(np.float32)),
        "sizes": iter([frames[0], frames[1][:47]]),
        "no frames": iter([]),
        "later": iter(frames),
    }
    times = {"later": (9.0, None), "latest": (9.0, None), "negative": (-1.0, None), "end first": (0.2, 0.1)}
    start, end = times.get(wrong, (None, None))
    with pytest.raises(EmimError, match=message):
        recogniser.predict(given.get(wrong, frames), fps=FPS, start=start, end=end)


def test_frames_need_a_rate_and_files_have_one(recogniser: Recogniser, video: Path, frames: NDArray[np.uint8]) -> None:
    for given in (frames, iter(frames)):
        with pytest.raises(ConfigError, match="give fps"):
            recogniser.predict(given)
        with pytest.raises(ConfigError, match="fps must be above 0, got -1"):
            recogniser.predict(given, fps=-1)
    with pytest.raises(ConfigError, match="fps=25 is for frames in memory"):
        recogniser.predict(video, fps=FPS)


def test_it_is_a_sequence_of_predictions(recogniser: Recogniser, video: Path) -> None:
    found = recogniser.predict(video, topk=3)
    assert len(found) == 3
    assert found[0] == next(iter(found)) == found.predictions[0]
    assert found[1:] == tuple(found)[1:]
    assert found[0] in found
    assert repr(found) == f"Predictions({list(found)}, path='{video}')"
    first, second, *_ = str(found).splitlines()
    assert first == str(video)
    assert second.split()[:2] == [found[0].label, f"{found[0].score:.1%}"]


@pytest.mark.parametrize(
    ("height", "width", "boxes"),
    [
        (48, 64, {"left": (0, 0, 48, 48), "centre": (8, 0, 48, 48), "right": (16, 0, 48, 48)}),
        (64, 48, {"top": (0, 0, 48, 48), "centre": (0, 8, 48, 48), "bottom": (0, 16, 48, 48)}),
    ],
)
def test_views_name_their_crops(height: int, width: int, boxes: dict[str, tuple[int, int, int, int]]) -> None:
    pre = Preprocessing(num_frames=4, size=24, clips=2, crops=3)
    # A plain picture, of which each crop can be told by its brightness.
    rows, columns = np.mgrid[:height, :width]
    frame_HWC = np.stack([rows * 3, columns * 3, rows * 0], -1).astype(np.uint8)
    read = ViewReader(pre, fps=FPS)(np.stack([frame_HWC] * 9))
    views = read.info.views
    assert [(view.clip, view.crop) for view in views] == [(clip, name) for clip in (0, 1) for name in boxes]
    for view, view_CTHW in zip(views, read.views_VCTHW, strict=True):
        left, top, box_width, box_height = view.box
        assert view.box == boxes[view.crop]
        seen = view_CTHW[:2, 0].float().mean((1, 2))
        inside = frame_HWC[top : top + box_height, left : left + box_width, :2].mean((0, 1))
        assert seen.tolist() == pytest.approx(inside.tolist(), abs=1.5)
    with open_video_of(frame_HWC) as reader:
        whole = describe_views(reader, dataclasses.replace(pre, fit="letterbox"))
    assert {(view.crop, view.box) for view in whole.views} == {("whole", (0, 0, width, height))}


def open_video_of(frame_HWC: NDArray[np.uint8]) -> reading.VideoReader:
    return reading.ArrayVideo(np.stack([frame_HWC] * 9), FPS)


def test_importing_it_loads_no_trainer() -> None:
    code = (
        "import sys; from emim import Recogniser; "
        "print([name for name in ('lightning', 'torchmetrics', 'emim.training', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
