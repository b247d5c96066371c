from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from emim.data.preprocessing import Preprocessing
from emim.data.video import open_video
from emim.data.video.write import write_video
from emim.datasets.synthetic import ClipOptions, render_clip
from emim.datasets.synthetic.writer import write_clip
from emim.errors import ConfigError, UnknownNameError
from emim.models import create_model
from emim.motion.animation import Look, animate
from emim.motion.video import FieldOptions, video_motion, window_of

PRE = Preprocessing(num_frames=4, size=32, crops=1)
OPTIONS = FieldOptions(step=2, short_side=32)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("uniformer_tiny_emim", 3).eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(path, render_clip("left", seed=1, options=ClipOptions(num_frames=21, height=48, width=64, fps=16)))
    return path


@pytest.mark.parametrize("stop", [None, 2, 5, 8, 9, 14])
def test_every_frame_comes_once_and_in_order(model: torch.nn.Module, clip: Path, stop: int | None) -> None:
    with open_video(clip) as reader:
        count = reader.num_frames if stop is None else stop
        frames_THWC = reader.read(range(count))
        motion = list(video_motion(model, PRE, reader, OPTIONS, stop=stop))
    assert len(motion) == count
    assert all(np.array_equal(item.frame_HWC, frame) for item, frame in zip(motion, frames_THWC, strict=True))
    assert {item.displacement_2hw.shape for item in motion} == {(2, 4, 5)}


def test_a_part_of_a_video_starts_where_it_is_told(model: torch.nn.Module, clip: Path) -> None:
    with open_video(clip) as reader:
        [third, *rest] = video_motion(model, PRE, reader, OPTIONS, first=3, stop=15)
        assert np.array_equal(third.frame_HWC, reader.read([3])[0])
    assert len(rest) == 11


def test_the_field_is_that_of_a_clip_at_that_step(model: torch.nn.Module, clip: Path) -> None:
    from emim.data.preprocessing import normalise, resize, to_tensor
    from emim.motion import motion_field

    with open_video(clip) as reader:
        motion = list(video_motion(model, PRE, reader, replace(OPTIONS, raw=True)))
        less_still = list(video_motion(model, PRE, reader, OPTIONS))
        still_TCHW = resize(to_tensor(reader.read([5] * 4)), 32, 43)
        frames_TCHW = resize(to_tensor(reader.read([1, 3, 5, 7])), 32, 43)
    clip_1CTHW = normalise(frames_TCHW, PRE).transpose(0, 1)[None]
    field = motion_field(model, clip_1CTHW)["blocks3.0.attn"]
    still = motion_field(model, normalise(still_TCHW, PRE).transpose(0, 1)[None])["blocks3.0.attn"]
    to_frame_211 = np.array([64 / 43, 48 / 32])[:, None, None]
    for found, wanted in ((motion, field), (less_still, field.less(still))):
        expected_2hw = wanted.displacement_BT2HW[0, 1].numpy() * to_frame_211
        np.testing.assert_allclose(found[3].displacement_2hw, expected_2hw, rtol=1e-3, atol=1e-3)


def test_the_step_follows_the_frame_rate_and_the_length(clip: Path) -> None:
    with open_video(clip) as reader:
        assert window_of(PRE, reader, FieldOptions(), 21) == (4, 2)  # 16 fps: an eighth of a second
        assert window_of(PRE, reader, FieldOptions(step=9), 21) == (4, 5)  # four steps have to fit
        assert window_of(PRE, reader, FieldOptions(), 3) == (3, 1)
        dense = Preprocessing(num_frames=4, size=32, sampling="dense", stride=4)
        assert window_of(dense, reader, FieldOptions(), 21) == (4, 2)  # 4 frames of 30 a second


def test_an_animation_is_a_video_of_the_same_length_and_rate(
    model: torch.nn.Module, clip: Path, tmp_path: Path
) -> None:
    done: list[tuple[int, int]] = []
    out = tmp_path / "new" / "out.mp4"
    animation = animate(
        model, PRE, clip, out, options=OPTIONS, progress=lambda number, total: done.append((number, total))
    )
    assert (animation.frames, animation.fps, animation.step) == (21, 16, 2)
    assert done[-1] == (21, 21)
    with open_video(out) as reader:
        assert (reader.num_frames, reader.fps, reader.height, reader.width) == (21, 16, 48, 128)
    assert [path.name for path in out.parent.iterdir()] == ["out.mp4"]


def test_a_gif_leaves_frames_out_and_loops(model: torch.nn.Module, clip: Path, tmp_path: Path) -> None:
    look = Look(style="arrows", longest_side=32, seconds=0.75, caption="left")
    animate(model, PRE, clip, tmp_path / "out.gif", look=look, options=OPTIONS)
    with Image.open(tmp_path / "out.gif") as gif:
        assert gif.size == (32, 24)
        assert gif.info["loop"] == 0
        assert gif.n_frames == 12


def test_errors_name_the_value(model: torch.nn.Module, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"out\.avi: name the output \.mp4 or \.gif"):
        animate(model, PRE, clip, tmp_path / "out.avi")
    with pytest.raises(ConfigError, match="heads 0 to 2, got head 7"):
        animate(model, PRE, clip, tmp_path / "out.mp4", options=FieldOptions(head=7))
    with pytest.raises(UnknownNameError, match="no EMIM block"):
        animate(create_model("uniformer_tiny", 3), PRE, clip, tmp_path / "out.mp4")
    with pytest.raises(ConfigError, match="style must be one of both, arrows, colours, got 'red'"):
        Look(style="red")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="step must be at least 1, got 0"):
        FieldOptions(step=0)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        animate(model, PRE, clip, tmp_path / "file" / "out.mp4", options=OPTIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_frames_are_written_one_by_one(tmp_path: Path) -> None:
    taken = 0

    def frames():  # type: ignore[no-untyped-def]
        nonlocal taken
        for number in range(10):
            taken += 1
            yield np.full((31, 33, 3), 20 * number, dtype=np.uint8)

    assert write_video(tmp_path / "a.mp4", frames(), 25) == taken == 10
    with av.open(str(tmp_path / "a.mp4")) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert decoded[0].shape == (30, 32, 3)
    assert [round(float(frame.mean()) / 20) for frame in decoded] == list(range(10))
