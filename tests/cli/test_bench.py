"""`emim bench`: prints what it measured, and says plainly what is wrong with its arguments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

QUICK = ["preprocessing.num_frames=4", "preprocessing.size=32", "data.val_share=0.2"]


def test_loader_report_is_printed_and_written(generated: Path, tmp_path: Path, emim_command) -> None:
    file = tmp_path / "loader.json"
    result = emim_command(
        "bench", "loader", "--data", generated, "--clips", 4, "--workers", "0,1", "--batch-size", 2, "--repeats", 1,
        "--step-ms", 0.001, "--json", file, *QUICK,
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
        (["--workers", "two"], "whole numbers of at least 0"),
        (["--workers", "1,-2"], "whole numbers of at least 0"),
        (["--clips", "0"], "must be at least 1"),
    ],
)
def test_wrong_arguments(words: list[str], message: str, generated: Path, emim_command) -> None:
    result = emim_command("bench", "loader", "--data", generated, *words)
    assert result.status == 2
    assert message in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "9", "--clips", "4"], "batch size"),
        (["--step-ms", "0"], "step_ms must be above 0"),
        (["--recipe", "nonesuch"], "nonesuch"),
        (["stray"], "what is 'stray'"),
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


def test_predict_report_is_printed_and_written(generated: Path, trained: Path, tmp_path: Path, emim_command) -> None:
    file = tmp_path / "predict.json"
    checkpoint = trained / "model.safetensors"
    result = emim_command(
        "bench", "predict", "--data", generated / "test", generated / "val", "--checkpoint", checkpoint, "--videos", 3,
        "--workers", 1, "--batch-size", 2, "--precision", "32-true", "--device", "cpu", "--repeats", 1,
        "--memory-videos", 0, "--json", file,
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
        (["--device", "gpu"], 1, "--device must be"),
        (["--checkpoint", "nowhere.safetensors"], 1, "nowhere.safetensors: no such checkpoint"),
    ],
)
def test_wrong_values_of_predict(words: list[str], status: int, message: str, generated: Path, emim_command) -> None:
    result = emim_command("bench", "predict", "--data", generated / "test" / "left", *words)
    assert result.status == status
    assert message in result.err
    assert "Traceback" not in result.err
