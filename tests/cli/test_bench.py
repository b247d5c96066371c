"""`emim bench`: prints what it measured, and says plainly what is wrong with its arguments."""

from __future__ import annotations

import json
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
    ],
)
def test_wrong_arguments_of_the_parts(words: list[str], status: int, message: str, emim_command) -> None:
    result = emim_command("bench", *words)
    assert result.status == status
    assert message in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("part", ["model", "train", "scaling", "predict"])
def test_a_moved_part_says_where_it_is(part: str, emim_command) -> None:
    result = emim_command("bench", part, "--quick", "--repeats", 2)
    assert result.status == 1
    assert f"python benchmarks/{part}.py" in result.err
