"""`emim bench`: prints what it measured, and says plainly what is wrong with its arguments."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

QUICK = ["preprocessing.num_frames=4", "preprocessing.size=32", "data.val_share=0.2"]


def test_loader_report_is_printed_and_written(generated: Path, tmp_path: Path, emim_command) -> None:
    file = tmp_path / "loader.json"
    result = emim_command(
        "bench", "loader", "--data", generated, "--measure-clips", 4, "--try-workers", "0,1",
        "--batch-size", 2, "--repeats", 1, "--step-ms", 0.001, "--output", file, *QUICK,
    )  # fmt: skip
    assert result.status == 0, result.err
    for word in ("open", "decode", "transform", "collate", "workers", "clips/s", "Use ", "times too slow", "torch"):
        assert word in result.out
    content = json.loads(file.read_text())
    assert content["data"] == str(generated)
    assert content["overrides"] == QUICK
    assert [rate["workers"] for rate in content["rates"]] == [0, 1]
    assert content["machine"]["cores"] >= 1
    assert (content["clips"], content["repeats"], content["batch_size"]) == (4, 1, 2)
    assert content["verdict"][0] in result.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--try-workers", "two"], "whole numbers of at least 0"),
        (["--try-workers", "1,-2"], "whole numbers of at least 0"),
        (["--measure-clips", "0"], "must be at least 1"),
        (["--step-ms", "0"], "must be a number above 0"),
    ],
)
def test_wrong_arguments(words: list[str], message: str, generated: Path, emim_command) -> None:
    result = emim_command("bench", "loader", "--data", generated, *words)
    assert result.status == 2
    assert message in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "9", "--measure-clips", "4"], "batch size"),
        (["--recipe", "nonesuch"], "nonesuch"),
        (["stray"], "unexpected argument 'stray'"),
        (["preprocessing.nonesuch=4"], "nonesuch"),
    ],
)
def test_wrong_values(words: list[str], message: str, generated: Path, emim_command) -> None:
    result = emim_command("bench", "loader", "--data", generated, *words)
    assert result.status == 1
    assert message in result.err
    assert result.err.strip().count("\n") <= 1


def test_part_is_needed(emim_command) -> None:
    result = emim_command("bench")
    assert result.status == 2
    assert "PART" in result.err


def test_op_is_printed_and_written(tmp_path: Path, emim_command) -> None:
    file = tmp_path / "op.json"
    result = emim_command(
        "bench", "op", "--quick", "--frames", 2, "--height", 4, "--width", 4, "--heads", 1, "--head-width", 8,
        "--window", 3, "--threads", 1, "--peers", "unfold,natten", "--repeats", 2, "--warmup", 1, "--output", file,
    )  # fmt: skip
    assert result.status == 0, result.err
    for words in ("The operator, forward + backward", "/ bare-products", "not run: ", "2 rounds after 1"):
        assert words in result.out
    content = json.loads(file.read_text())
    assert content["part"] == "op"
    assert content["problem"]["window"] == 3
    assert {row["name"] for row in content["rows"]} >= {"unfold", "bare-products"}


def test_model_and_train_are_printed_and_written(tmp_path: Path, emim_command) -> None:
    tiny = ("--network", "tiny", "--frames", 2, "--size", 32, "--threads", 1, "--repeats", 1, "--warmup", 0)
    file = tmp_path / "model.json"
    result = emim_command("bench", "model", "--quick", "--batch", "1,2", "--dtype", "float32", *tiny, "--output", file)
    assert result.status == 0, result.err
    for words in ("One clip", "Batches of 2, times per clip", "GMAC", "/ batch 1", "/ unfold, float32"):
        assert words in result.out
    assert {row["network"] for row in json.loads(file.read_text())["rows"]} == {"emim", "unfold", "plain"}

    file = tmp_path / "train.json"
    result = emim_command("bench", "train", "--quick", "--batch", 2, *tiny, "--no-memory", "--output", file)
    assert result.status == 0, result.err
    assert "One training step" in result.out
    assert json.loads(file.read_text())["problem"]["frames"] == 2


def test_scaling_is_printed_written_and_drawn(tmp_path: Path, emim_command) -> None:
    words = [
        "bench", "scaling", "--quick", "--frames", "2,4", "--batch", "1", "--limit", 1e-6, "--threads", 1,
        "--repeats", 1, "--warmup", 0, "--output", tmp_path / "scaling.json",
    ]  # fmt: skip
    result = emim_command(*words)
    assert result.status == 0, result.err
    for text in ("By frames", "By batch", "attention / EMIM", "not run: emim at frames 4 (would take"):
        assert text in result.out
    content = json.loads((tmp_path / "scaling.json").read_text())
    assert [r["value"] for r in content["results"] if r["axis"] == "frames"] == [2, 2, 4, 4]

    picture = tmp_path / "scaling.png"
    result = emim_command(*words, "--plot", picture)
    if find_spec("matplotlib") is None:
        assert result.status == 1
        assert "pip install 'emim[plot]'" in result.err
        assert not picture.exists()
    else:
        assert result.status == 0, result.err
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["op", "--window", "4"], 1, "the window must be odd, got 4"),
        (["op", "--peers", "unfld"], 1, "did you mean 'unfold'"),
        (["op", "--peers", ","], 2, "names with commas"),
        (["op", "--dtype", "int8"], 2, "int8"),
        (["op", "--device", "tpu"], 2, "must be auto, cpu, cuda or cuda:N"),
        (["op", "--repeats", "0"], 2, "at least 1"),
        (["op", "--published-source", "nowhere"], 1, "nowhere: no such folder"),
        (["model", "--network", "huge"], 2, "huge"),
        (["model", "--dtype", "float32,float8"], 2, "float8"),
        (["model", "--batch", "1,0"], 2, "at least 1"),
        (["model", "--network", "tiny", "--size", "8", "--no-memory"], 1, "too small"),
        (["train", "--peers", "videomea-s"], 1, "did you mean 'videomae-s'"),
        (["scaling", "--window", "4"], 1, "windows odd"),
        (["scaling", "--limit", "0"], 1, "above 0 seconds"),
        (["scaling", "--plot", "growth.jpeg"], 1, "ends in .png"),
    ],
)
def test_wrong_arguments_of_the_parts(words: list[str], status: int, message: str, emim_command) -> None:
    result = emim_command("bench", *words)
    assert result.status == status
    assert message in result.err
    assert "Traceback" not in result.err


def test_predict_report_is_printed_and_written(generated: Path, trained: Path, tmp_path: Path, emim_command) -> None:
    file = tmp_path / "predict.json"
    checkpoint = trained / "model.safetensors"
    result = emim_command(
        "bench", "predict", "--data", generated / "test", generated / "val", "--checkpoint", checkpoint, "--videos", 3,
        "--workers", 1, "--batch-size", 2, "--precision", "32-true", "--device", "cpu", "--repeats", 1,
        "--memory-videos", 0, "--output", file,
    )  # fmt: skip
    assert result.status == 0, result.err
    for word in ("read", "network", "whole", "videos/s", "of the slower part", "both in turn", "torch"):
        assert word in result.out
    assert "3 of 33 videos, 32-true on cpu" in result.err
    content = json.loads(file.read_text())
    assert content["checkpoint"] == str(checkpoint)
    assert [rate["name"] for rate in content["rates"]] == ["read", "network", "whole"]
    assert content["memory"] is None
    assert content["verdict"][0] in result.out


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--repeats", "0"], 2, "must be at least 1"),
        (["--workers", "-1"], 2, "must be at least 0"),
        (["--memory-videos", "5"], 1, "memory videos must be 0 or at least 20"),
        (["--device", "gpu"], 2, "must be auto, cpu, cuda or cuda:N"),
        (["--checkpoint", "nowhere.safetensors"], 1, "nowhere.safetensors: no such checkpoint"),
    ],
)
def test_wrong_values_of_predict(words: list[str], status: int, message: str, generated: Path, emim_command) -> None:
    result = emim_command("bench", "predict", "--data", generated / "test" / "left", *words)
    assert result.status == status
    assert message in result.err
    assert "Traceback" not in result.err
