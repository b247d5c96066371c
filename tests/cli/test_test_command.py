"""`emim test` by the real command line, in this process and in several."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from conftest import CommandResult
from emim.datasets.synthetic import CLASSES, ClipOptions, write_dataset
from emim.inference.recogniser import Recogniser
from emim.models import create_model
from emim.models.trained_model import ModelCard, read_card, save_model

Command = Callable[..., CommandResult]

EMIM = Path(sys.executable).with_name("emim")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
# What may differ between two tests of the same clips.
CIRCUMSTANCES = ("data", "processes", "device", "seconds", "clips_per_second")


def start(*words: object) -> subprocess.Popen[str]:
    """A command with one thread in each of its processes: a sum's rounding depends on how many share it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(word) for word in words], env=environment, **pipes)


def read_logits(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in ("logits", "labels")}, json.loads(file.metadata()["emim"])


def break_one(folder: Path) -> Path:
    broken = sorted((folder / "test" / "left").glob("*.mp4"))[1]
    broken.write_bytes(broken.read_bytes()[:500])
    return broken


@pytest.fixture(scope="module")
def many_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of 31 classes, eleven of them those of the generated clips."""
    path = tmp_path_factory.mktemp("many") / "model.safetensors"
    torch.manual_seed(0)
    classes = (*CLASSES, *(f"other {number}" for number in range(31 - len(CLASSES))))
    network = create_model("uniformer_tiny_emim", len(classes))
    pre = {"num_frames": 4, "size": 32, "crops": 1}
    save_model(path, network.state_dict(), ModelCard("uniformer_tiny_emim", classes, pre))
    return path


def test_the_report_holds_what_the_figures_depend_on(
    emim_command: Command, trained: Path, generated: Path, tmp_path: Path
) -> None:
    model = trained / "model.safetensors"
    words = ["--data", generated, "--output", tmp_path / "report.json", "--workers", 0, "--device", "cpu"]
    result = emim_command("test", model, *words, "--clips", 2, "--crops", 3, "--size", 48)
    assert result.status == 0, result.err
    title = " ".join(result.out.split("┏")[0].split())
    assert title == "Test with 2 clips x 3 crops of each video, 4 frames (segment) of 48 pixels, crop, in 32-true"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["views"] == {
        "clips": 2, "crops": 3, "per_video": 6, "num_frames": 4,
        "sampling": "segment", "stride": None, "size": 48, "fit": "crop",
    }  # fmt: skip
    assert report["checkpoint"] == str(model)
    assert report["fingerprint"]["num_clips"] == report["clips"] == 22
    assert (report["precision"], report["processes"], report["split"]) == ("32-true", 1, "test")
    assert report["batch_size"] == 8
    assert {"emim", "torch"} <= set(report["machine"]["versions"])
    assert report["clips_per_second"] == pytest.approx(22 / report["seconds"], rel=0.1)
    low, high = report["top1_95_wilson"]
    assert low < report["top1"] < high
    assert f"{low:.1%} to {high:.1%}" in result.out


def test_logits_are_those_of_every_view_of_the_clips_that_could_be_read(
    emim_command: Command, trained: Path, generated: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(generated, tmp_path / "data"))
    broken = break_one(data)
    target = tmp_path / "new" / "logits.safetensors"
    words = ["--data", data, "--logits", target, "--workers", 0, "--device", "cpu", "--clips", 2]
    result = emim_command("test", trained / "model.safetensors", *words)
    assert result.status == 1  # a clip is missing
    assert f"missing: {broken}" in result.err
    tensors, about = read_logits(target)
    assert tensors["logits"].shape == (21, 2, 11)
    assert tensors["logits"].dtype == torch.float32
    paths = [clip["path"] for clip in about["clips"]]
    assert len(paths) == 21
    assert str(broken) not in paths
    assert [about["classes"][label] for label in tensors["labels"]] == [Path(path).parent.name for path in paths]
    assert about["checkpoint"] == str(trained / "model.safetensors")
    assert (about["precision"], about["views"]["per_video"]) == ("32-true", 2)
    # The first clip's scores by another way.
    recogniser = Recogniser.load(trained / "model.safetensors", device="cpu")
    best = recogniser.predict(paths[0], topk=1)[0]
    only_first = emim_command("test", trained / "model.safetensors", *words, "--clips", 1)
    assert only_first.status == 1
    scores = read_logits(target)[0]["logits"][0].softmax(-1).mean(0)
    assert recogniser.classes[int(scores.argmax())] == best.label
    assert scores.max().item() == pytest.approx(best.score, abs=1e-5)


def test_files_that_are_not_there_are_missing_and_those_left_out_before_are_told(
    emim_command: Command, trained: Path, generated: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(generated / "test", tmp_path / "root" / "test"))
    shutil.copytree(generated / "train", tmp_path / "root" / "train")
    cut = min((root / "up").glob("*.mp4"))
    cut.write_bytes(cut.read_bytes()[:500])
    out = tmp_path / "prepared"
    prepared = emim_command("prepare", "folder", root.parent, "-o", out, "--split", "test", "--resize", 32)
    assert prepared.status == 0, prepared.err
    gone = min((out / "videos" / "test" / "left").glob("*.mp4"))
    gone.unlink()
    words = ["--data", out / "test.csv", "--workers", 0, "--output", tmp_path / "report.json"]
    result = emim_command("test", trained / "model.safetensors", *words)
    assert result.status == 1
    assert f"missing: {gone}: no such file" in result.err
    assert f"left out by emim prepare: 1 of 22 clips that the data set lists, in no figure; {out}" in result.err
    assert "missing, in no figure" in result.out
    assert "left out by emim prepare, in no figure" in result.out
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["clips"], report["left_out_by_prepare"]) == (20, 1)
    assert [item["path"] for item in report["missing"]] == [str(gone)]
    assert {row["class"]: row["clips"] for row in report["per_class"]}["up"] == 1


def test_classes_in_another_order_are_an_error(
    emim_command: Command, trained: Path, generated: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(generated, tmp_path / "data"))
    classes = list(read_card(trained / "model.safetensors").classes)
    words = ["test", trained / "model.safetensors", "--data", data / "test.csv", "--workers", 0]
    (data / "classes.txt").write_text("\n".join(classes) + "\n")
    assert emim_command(*words).status == 0
    classes[2], classes[3] = classes[3], classes[2]
    (data / "classes.txt").write_text("\n".join(classes) + "\n")
    result = emim_command(*words)
    assert result.status == 1
    assert result.out == ""
    assert f"{data / 'classes.txt'}, row 3: class 2 is {classes[2]!r} here, but {classes[3]!r}" in result.err


def test_a_long_table_of_classes_is_printed_when_asked_for(
    emim_command: Command, many_classes: Path, generated: Path, tmp_path: Path
) -> None:
    words = ["test", many_classes, "--data", generated, "--workers", 0, "--output", tmp_path / "report.json"]
    short = emim_command(*words)
    assert short.status == 0, short.err
    assert "top-1" in short.out
    assert "clockwise" not in short.out
    assert "31 classes: --per-class prints" in short.err
    assert len(json.loads((tmp_path / "report.json").read_text())["per_class"]) == 31
    long = emim_command(*words, "--per-class")
    assert all(name in long.out for name in (*CLASSES, "other 19"))
    assert "--per-class" not in long.err


def test_a_precision_that_was_asked_for_is_used_and_said(
    emim_command: Command, many_classes: Path, generated: Path, tmp_path: Path
) -> None:
    words = ["--workers", 0, "--device", "cpu", "--precision", "bf16-mixed"]
    report = tmp_path / "report.json"
    result = emim_command("test", many_classes, "--data", generated, "--output", report, *words)
    assert result.status == 0, result.err
    assert "in bf16-mixed" in result.out
    assert json.loads(report.read_text())["precision"] == "bf16-mixed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "2", "--device", "cpu"], "start the command with torchrun or Slurm, or set NODE_RANK"),
        (["--output", "file/below.json"], "file/below.json: cannot be written"),
        (["--logits", "file/below.safetensors"], "file/below.safetensors: cannot be written"),
    ],
)
def test_errors_are_one_line(
    emim_command: Command,
    many_classes: Path,
    generated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    result = emim_command("test", many_classes, "--data", generated, "--workers", 0, *words)
    assert result.status == 1
    assert result.out == ""  # said before the test, not after it
    assert message in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


def test_gpus_that_are_not_there_are_named(emim_command: Command, many_classes: Path, generated: Path) -> None:
    words = ["--devices", 1000] if torch.cuda.is_available() else ["--device", "cuda"]
    result = emim_command("test", many_classes, "--data", generated, *words)
    assert result.status == 1
    expected = "devices=1000, but this machine" if torch.cuda.is_available() else "--device cuda: PyTorch finds no GPU"
    assert expected in result.err.splitlines()[-1]


class Shared:
    """The same test of 103 clips by any number of processes."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model = model
        self.data = folder / "data"
        self.folder = folder

    def run(self, name: str, *launcher: object, options: tuple[object, ...] = ()) -> tuple[int, str, dict[str, Any]]:
        """Status, standard output, and the report with the logits in place of the circumstances."""
        report, logits = self.folder / f"{name}.json", self.folder / f"{name}.safetensors"
        words = ["test", self.model, "--data", self.data, "--device", "cpu", "--workers", 1]
        process = start(*launcher, EMIM, *words, "--output", report, "--logits", logits, *options)
        out, err = process.communicate(timeout=200)
        assert report.is_file(), err
        found = json.loads(report.read_text())
        tensors, about = read_logits(logits)
        for key in CIRCUMSTANCES:
            found.pop(key)
        told = {**found, "about": about, **{name: tensor.tolist() for name, tensor in tensors.items()}}
        return process.returncode, out, told


@pytest.fixture(scope="module")
def shared(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    folder = tmp_path_factory.mktemp("shared")
    write_dataset(folder / "data", splits={"test": 10}, options=ClipOptions(num_frames=8, height=48, width=64))
    for surplus in sorted((folder / "data").rglob("*.mp4"))[::15][:7]:
        surplus.unlink()
    assert len(list((folder / "data").rglob("*.mp4"))) == 103
    return Shared(trained / "model.safetensors", folder)


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_figures_and_logits(shared: Shared) -> None:
    status, out, alone = shared.run("one")
    assert status == 0
    assert alone["clips"] == len(alone["labels"]) == 103
    for name, words in {
        "two": (*TORCHRUN, "--nproc-per-node=2"),
        "three": (*TORCHRUN, "--nproc-per-node=3"),
    }.items():
        assert shared.run(name, *words) == (0, out, alone)
    assert shared.run("devices", options=("--devices", 2)) == (0, out, alone)


@pytest.mark.slow
def test_a_broken_clip_is_missing_once_whatever_the_number_of_processes(shared: Shared, tmp_path: Path) -> None:
    with_broken = Shared(shared.model, tmp_path)
    shutil.copytree(shared.data, with_broken.data)
    broken = break_one(with_broken.data)
    status, out, alone = with_broken.run("one")
    assert status == 1
    assert [item["path"] for item in alone["missing"]] == [str(broken)]
    assert alone["clips"] == len(alone["labels"]) == 102
    assert with_broken.run("two", *TORCHRUN, "--nproc-per-node=2") == (1, out, alone)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_test(shared: Shared) -> None:
    words = ["--data", shared.data, "--device", "cpu", "--devices", 2, "--workers", 0, "--batch-size", 1]
    process = start(EMIM, "test", shared.model, *words)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("this system does not list the children of a process")
    while not (found := children.read_text().split()):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(int(found[0]), signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert out == ""
