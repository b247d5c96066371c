"""`emim diagnose` by the real command line."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import CommandResult
from emim.datasets.synthetic import CLASSES, ClipOptions, write_dataset
from emim.models import create_model
from emim.models.trained_model import ModelCard, save_model

Command = Callable[..., CommandResult]

CONDITIONS = ["as_is", "frozen", "shuffled", "reversed", "motion_zeroed", "appearance_zeroed"]
HERE = ["--workers", 0, "--device", "cpu"]


def without_circumstances(report: dict[str, Any]) -> dict[str, Any]:
    differ = ("seconds", "clips_per_second", "processes", "device")
    return {key: value for key, value in report.items() if key not in differ}


def test_a_trained_run_is_tested_in_every_condition(
    emim_command: Command, trained: Path, generated: Path, tmp_path: Path
) -> None:
    words = [trained / "model.safetensors", "--data", generated, *HERE]
    report_path = tmp_path / "new" / "diagnosis.json"
    result = emim_command("diagnose", *words, "--output", report_path)
    assert result.status == 0, result.err
    for title in ("as they are", "frozen", "shuffled", "reversed", "motion zeroed", "appearance zeroed", "chance"):
        assert f"│ {title} " in result.out
    assert max(map(len, result.out.splitlines())) <= 80
    assert "seed 0" in result.out
    assert "changes the EMIM modules alone (2: blocks3.0.attn, blocks4.0.attn)" in " ".join(result.out.split())
    report = json.loads(report_path.read_text())
    assert all(sentence.split()[0] in result.out for sentence in report["conclusion"])
    assert "test: 22 clips of 11 classes" in result.err
    assert f"written to {report_path}" in result.err

    assert report["format"] == 1
    assert set(report) == {  # as documented; another format number where one goes
        "checkpoint", "data", "split", "left_out_by_prepare", "fingerprint", "processes", "device", "batch_size",
        "seconds", "clips_per_second", "machine", "format", "clips", "missing", "classes", "views", "precision", "seed",
        "resamples", "chance", "one_of_classes", "conditions", "conclusion", "notes", "emim_modules",
        "swaps_under_reversal", "per_clip",
    }  # fmt: skip
    assert set(report["conditions"][1]) == {
        "name", "accuracy", "accuracy_95_bootstrap", "difference", "difference_95_bootstrap"
    }  # fmt: skip
    assert set(report["swaps_under_reversal"]) == {"least_share", "least_clips", "pairs"}
    assert set(report["per_clip"][0]) == {"path", "start", "end", "class", "predicted"}
    assert report["checkpoint"] == str(words[0])
    assert (report["clips"], report["missing"], report["seed"], report["resamples"]) == (22, [], 0, 2000)
    assert [condition["name"] for condition in report["conditions"]] == CONDITIONS
    assert len(report["per_clip"]) == 22
    for condition in report["conditions"]:
        right = [clip["predicted"][condition["name"]] == clip["class"] for clip in report["per_clip"]]
        assert condition["accuracy"] == pytest.approx(sum(right) / 22)
        low, high = condition["accuracy_95_bootstrap"]
        assert low <= condition["accuracy"] <= high
        assert f"{condition['accuracy']:.1%}" in result.out
    assert [Path(clip["path"]).parent.name for clip in report["per_clip"]] == [c["class"] for c in report["per_clip"]]

    plain = emim_command("test", *words, "--output", tmp_path / "test.json")
    assert plain.status == 0
    tested = json.loads((tmp_path / "test.json").read_text())
    assert report["conditions"][0]["accuracy"] == pytest.approx(tested["top1"])
    assert (report["views"], report["fingerprint"]) == (tested["views"], tested["fingerprint"])


def test_the_bundled_network_needs_motion_and_swaps_opposites(
    emim_command: Command, generated: Path, tmp_path: Path
) -> None:
    words = ["--clips", 1, "--output", tmp_path / "diagnosis.json", *HERE]
    result = emim_command("diagnose", "bundled", "--data", generated, *words)
    assert result.status == 0, result.err
    report = json.loads((tmp_path / "diagnosis.json").read_text())
    as_is, frozen = report["conditions"][:2]
    assert as_is["accuracy"] > 0.6
    assert frozen["accuracy"] < 0.25
    assert frozen["difference_95_bootstrap"][1] < -0.3
    assert report["conclusion"][0].startswith("It needs motion")
    pairs = {tuple(pair["classes"]) for pair in report["swaps_under_reversal"]["pairs"]}
    assert ("left", "right") in pairs
    assert pairs <= {
        ("approaching", "parting"), ("away", "towards"), ("clockwise", "counterclockwise"), ("down", "up"),
        ("left", "right"),
    }  # fmt: skip
    assert "│ left / right " in result.out


def test_broken_clips_are_listed_and_in_no_figure(
    emim_command: Command, trained: Path, generated: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(generated / "test", tmp_path / "data"))
    broken = sorted((data / "left").glob("*.mp4"))[1]
    broken.write_bytes(broken.read_bytes()[:500])
    words = ["--data", data, "--split", "all", "--output", tmp_path / "diagnosis.json", *HERE]
    result = emim_command("diagnose", trained / "model.safetensors", *words)
    assert result.status == 1
    assert f"missing: {broken}" in result.err
    assert "Traceback" not in result.err
    assert "1 clip could not be read, in no figure." in result.out
    report = json.loads((tmp_path / "diagnosis.json").read_text())
    assert (report["clips"], len(report["per_clip"])) == (21, 21)
    assert [item["path"] for item in report["missing"]] == [str(broken)]
    assert str(broken) not in [clip["path"] for clip in report["per_clip"]]
    assert report["chance"] == pytest.approx(2 / 21)


def test_a_network_without_emim_has_nothing_to_zero(emim_command: Command, generated: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model("uniformer_tiny", len(CLASSES))
    card = ModelCard("uniformer_tiny", CLASSES, {"num_frames": 4, "size": 32, "crops": 1})
    save_model(tmp_path / "plain.safetensors", network.state_dict(), card)
    words = ["--data", generated, "--output", tmp_path / "diagnosis.json", *HERE]
    result = emim_command("diagnose", tmp_path / "plain.safetensors", *words)
    assert result.status == 0, result.err
    assert "zeroed" not in result.out
    assert "The network has no EMIM module" in result.out
    assert "accuracy is not clearly above chance" in " ".join(result.out.split())  # it is untrained
    report = json.loads((tmp_path / "diagnosis.json").read_text())
    assert [condition["name"] for condition in report["conditions"]] == CONDITIONS[:4]
    assert report["emim_modules"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.safetensors", "--data", "."], "absent.safetensors"),
        (["bundled", "--data", "absent"], "absent"),
        (["bundled", "--data", ".", "--output", "file/below.json"], "file/below.json: cannot be written"),
    ],
)
def test_errors_are_one_line(
    emim_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    result = emim_command("diagnose", *words)
    assert result.status == 1
    assert result.out == ""
    assert result.err.splitlines()[-1].startswith("emim diagnose: ")
    assert message in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_several_processes_give_the_same_diagnosis(
    emim_process: Callable[..., subprocess.Popen[str]], trained: Path, tmp_path: Path
) -> None:
    options = ClipOptions(num_frames=8, height=48, width=64)
    write_dataset(tmp_path / "data", splits={"test": 4}, options=options)
    found = []
    for devices in (1, 2):
        report = tmp_path / f"{devices}.json"
        words = ["--data", tmp_path / "data", "--output", report, "--devices", devices, *HERE]
        process = emim_process("diagnose", trained / "model.safetensors", *words)
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        found.append((out, without_circumstances(json.loads(report.read_text()))))
    assert found[0] == found[1]
