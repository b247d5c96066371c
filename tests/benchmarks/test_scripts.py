"""Tests of the benchmark scripts: what they print and write, and how they name wrong arguments."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from running import run_script

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@dataclass
class Outcome:
    status: int
    out: str
    err: str


@pytest.fixture
def run_benchmark(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a script of benchmarks/ in this process."""

    def run(name: str, *words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        script = importlib.import_module(name)
        capsys.readouterr()
        try:
            status = run_script(script.main, script._parser())
        except SystemExit as end:
            status = int(end.code or 0)
        printed = capsys.readouterr()
        return Outcome(status, printed.out, printed.err)

    return run


def test_a_script_runs_as_a_command() -> None:
    done = subprocess.run([sys.executable, SCRIPTS / "model.py", "--help"], capture_output=True, text=True, check=True)
    assert "--network" in done.stdout


def test_model_and_train_are_printed_and_written(tmp_path: Path, run_benchmark) -> None:
    tiny = ("--network", "tiny", "--frames", 2, "--size", 32, "--threads", 1, "--repeats", 1, "--warmup", 0)
    file = tmp_path / "model.json"
    result = run_benchmark("model", "--quick", "--batch", "1,2", "--dtype", "float32", *tiny, "--output", file)
    assert result.status == 0, result.err
    for words in ("One clip", "Batches of 2, times per clip", "GMAC", "/ batch 1", "/ unfold, float32"):
        assert words in result.out
    assert {row["network"] for row in json.loads(file.read_text())["rows"]} == {"emim", "unfold", "plain"}

    file = tmp_path / "train.json"
    result = run_benchmark("train", "--quick", "--batch", 2, *tiny, "--no-memory", "--output", file)
    assert result.status == 0, result.err
    assert "One training step" in result.out
    assert json.loads(file.read_text())["problem"]["frames"] == 2


def test_scaling_is_printed_written_and_drawn(tmp_path: Path, run_benchmark) -> None:
    words = [
        "--quick", "--frames", "2,4", "--batch", "1", "--limit", 1e-6, "--threads", 1,
        "--repeats", 1, "--warmup", 0, "--output", tmp_path / "scaling.json",
    ]  # fmt: skip
    result = run_benchmark("scaling", *words)
    assert result.status == 0, result.err
    for text in ("By frames", "By batch", "attention / EMIM", "not run: emim at frames 4 (would take"):
        assert text in result.out
    content = json.loads((tmp_path / "scaling.json").read_text())
    assert [r["value"] for r in content["results"] if r["axis"] == "frames"] == [2, 2, 4, 4]

    picture = tmp_path / "scaling.png"
    result = run_benchmark("scaling", *words, "--plot", picture)
    if find_spec("matplotlib") is None:
        assert result.status == 1
        assert "pip install 'emim[plot]'" in result.err
        assert not picture.exists()
    else:
        assert result.status == 0, result.err
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_predict_report_is_printed_and_written(generated: Path, trained: Path, tmp_path: Path, run_benchmark) -> None:
    file = tmp_path / "predict.json"
    checkpoint = trained / "model.safetensors"
    result = run_benchmark(
        "predict", "--data", generated / "test", generated / "val", "--checkpoint", checkpoint, "--videos", 3,
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
        (["--device", "gpu"], 2, "must be auto, cpu"),
        (["--checkpoint", "nowhere.safetensors"], 1, "nowhere.safetensors: no such checkpoint"),
    ],
)
def test_wrong_values_of_predict(words: list[str], status: int, message: str, generated: Path, run_benchmark) -> None:
    result = run_benchmark("predict", "--data", generated / "test" / "left", *words)
    assert result.status == status
    assert message in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
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
def test_wrong_arguments(words: list[str], status: int, message: str, run_benchmark) -> None:
    result = run_benchmark(*words)
    assert result.status == status
    assert message in result.err
    assert "Traceback" not in result.err
