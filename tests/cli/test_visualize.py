"""`emim visualize` and `emim predict --explain`, as a person runs them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from conftest import CommandResult
from emim.data.video import open_video

Command = Callable[..., CommandResult]


@pytest.fixture(scope="module")
def clip(generated: Path) -> Path:
    return next((generated / "test" / "left").iterdir())


def test_the_bundled_model_draws_a_clip(emim_command: Command, clip: Path, tmp_path: Path) -> None:
    result = emim_command("visualize", clip, "-o", tmp_path / "out.mp4")
    assert result.status == 0, result.err
    assert f"{tmp_path / 'out.mp4'}: 8 frames" in result.err
    assert "full colour is a displacement of" in result.err
    with open_video(tmp_path / "out.mp4") as reader:
        assert reader.num_frames == 8
        assert reader.width == 2 * 64


def test_a_trained_model_draws_arrows_into_a_gif(
    emim_command: Command, clip: Path, trained: Path, tmp_path: Path
) -> None:
    words = ("--checkpoint", trained / "model.safetensors", "--style", "arrows", "--picture-size", 48, "--step", 1)
    result = emim_command("visualize", clip, "-o", tmp_path / "out.gif", *words, "--no-caption", "--head", 1)
    assert result.status == 0, result.err
    with Image.open(tmp_path / "out.gif") as gif:
        assert gif.width == 48


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "out.avi"), "out.avi: name the output .mp4 or .gif"),
        (("-o", "out.mp4", "--block", "blocks3.1.attn"), "no EMIM block 'blocks3.1.attn'; did you mean"),
        (("-o", "out.mp4", "--head", "9"), "has the heads 0 to 2, got head 9"),
    ],
)
def test_wrong_words_are_one_line(
    emim_command: Command,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = emim_command("visualize", clip, *words)
    assert result.status == 1
    assert message in result.err
    assert "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--seconds", "0"), "must be a number above 0"), (("--picture-size", "8"), "must be at least 32, got '8'")],
)
def test_wrong_numbers_are_usage_errors(emim_command: Command, words: tuple[str, ...], message: str) -> None:
    result = emim_command("visualize", "clip.mp4", "-o", "out.mp4", *words)
    assert result.status == 2
    assert message in result.err


def test_a_broken_video_is_one_line(emim_command: Command, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    result = emim_command("visualize", tmp_path / "broken.mp4", "-o", tmp_path / "out.mp4")
    assert result.status == 1
    assert "broken.mp4" in result.err
    assert not (tmp_path / "out.mp4").exists()


def test_a_prediction_is_explained(emim_command: Command, clip: Path, tmp_path: Path) -> None:
    result = emim_command("predict", clip, "--explain", tmp_path / "why.png")
    assert result.status == 0, result.err
    best = result.out.splitlines()[1].split()[0]
    assert f"{tmp_path / 'why.png'}: {best}, with a score of" in result.err
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.width > 800


def test_several_explanations_go_into_a_folder(emim_command: Command, generated: Path, tmp_path: Path) -> None:
    videos = []
    for label in ("left", "right"):  # two of one name
        (tmp_path / label).mkdir()
        videos.append(Path(shutil.copy(next((generated / "test" / label).iterdir()), tmp_path / label / "clip.mp4")))
    result = emim_command("predict", *videos, "--explain", tmp_path / "why")
    assert result.status == 0, result.err
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == ["clip-2.png", "clip.png"]
    refused = emim_command("predict", *videos, "--explain", tmp_path / "why.png")
    assert refused.status == 1
    assert "2 videos need a folder" in refused.err
    assert "name the picture .png or .jpg" in emim_command("predict", videos[0], "--explain", "why.bmp").err
