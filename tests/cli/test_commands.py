"""Each command as a user runs it, on real files; and what a newcomer gets wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import QUICK
from emim.datasets.synthetic import CLASSES
from page_checks import read_page

Command = Callable[..., Any]
COMMANDS = ("demo", "train", "test", "report", "predict", "models", "generate")


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help(emim_command: Command, command: str | None) -> None:
    result = emim_command(*([] if command is None else [command]), "--help")
    assert result.status == 0
    assert "usage: emim" in result.out
    if command is None:
        assert all(name in result.out for name in COMMANDS)


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys; from emim.cli.main import build_parser; build_parser(); "
        "assert not {'torch', 'av', 'lightning', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_models(emim_command: Command) -> None:
    result = emim_command("models")
    assert result.status == 0
    assert "uniformer_base_emim" in result.out
    assert "50.13 M" in result.out


def test_train_test_predict_by_command(emim_command: Command, generated: Path, tmp_path: Path) -> None:
    overrides = [*QUICK, "model.checkpoint=null", f"output={tmp_path / 'runs'}"]
    trained = emim_command("train", generated, *overrides, "--optim.lr", "1e-3", "--trainer.seed=3")
    assert trained.status == 0, trained.err
    model = tmp_path / "runs" / "data" / "model.safetensors"
    assert model.is_file()
    assert "epoch 1/1" in trained.err

    report = tmp_path / "result.json"
    tested = emim_command("test", model, "--data", generated, "--output", report, "--workers", 0)
    assert tested.status == 0, tested.err
    assert all(name in tested.out for name in (*CLASSES, "top-1", "top-5", "mean over classes"))
    result = json.loads(report.read_text())
    assert result["clips"] == 22
    assert [row["class"] for row in result["per_class"]] == list(CLASSES)
    by_manifest = emim_command("test", model, "--data", generated / "test.csv", "--workers", 0)
    assert by_manifest.out == tested.out

    predicted = emim_command("predict", generated / "test" / "up", "--checkpoint", model, "--topk", 2)
    assert predicted.status == 0, predicted.err
    assert predicted.out.count(".mp4") == 2
    assert predicted.out.count("%") == 4


def test_resume_by_command(emim_command: Command, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    result = emim_command("train", "--resume", run, "trainer.epochs=2")
    assert result.status == 0, result.err
    assert "epoch 2/2" in result.err
    assert json.loads((run / "summary.json").read_text())["epochs"] == 2


def test_predict_prints_one_json_object_per_video(emim_command: Command, generated: Path) -> None:
    videos = sorted((generated / "test").rglob("*.mp4"))[:3]
    result = emim_command("predict", *videos, "--json", "--topk", 3)
    assert result.status == 0, result.err
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [line["path"] for line in lines] == [str(video) for video in videos]
    for line in lines:
        assert set(line) == {"path", "duration_s", "fps", "frames", "size", "views", "predictions"}
        assert len(line["predictions"]) == 3
        scores = [item["score"] for item in line["predictions"]]
        assert scores == sorted(scores, reverse=True)
        assert {item["label"] for item in line["predictions"]} <= set(CLASSES)


def test_generate_and_its_manifest(emim_command: Command, tmp_path: Path) -> None:
    words = [
        "generate",
        tmp_path / "clips",
        "--clips-per-class",
        "test=1",
        "--frame-size",
        48,
        "--frames",
        4,
        "--workers",
        1,
    ]
    first = emim_command(*words)
    assert first.status == 0, first.err
    assert len(list((tmp_path / "clips").rglob("*.mp4"))) == 11
    again = emim_command(*words)
    assert "already there, unchanged" in again.err
    assert again.out == first.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "nowhere.mp4"], "nowhere.mp4"),
        (["predict", "empty"], "empty: no videos in this folder"),
        (["predict", "text.mp4"], "text.mp4"),
        (["predict", "text.mp4", "--checkpoint", "nowhere.safetensors"], "nowhere.safetensors: no such checkpoint"),
        (["predict", "text.mp4", "--checkpoint", "text.mp4"], "text.mp4: a trained model is a .safetensors file"),
        (["test", "bundled", "--data", "nowhere"], "nowhere"),
        (["test", "bundled", "--data", "empty"], "empty"),
        (["train", "empty"], "empty"),
        (["train", "nowhere"], "no recipe file nowhere"),
        (["train"], "nothing to train"),
        (["train", "demo", "trainer.epoch=3"], "did you mean 'trainer.epochs'"),
        (["train", "demo", "--optim.lr"], "--optim.lr needs a value"),
        (["train", "demo", "motion"], "'motion' is one argument too many after 'demo'"),
        (["train", "demo"], "data.path is not set"),
        (["train", "--resume", "empty"], "not a run folder"),
        (["generate", "clips", "--clips-per-class", "train"], "--clips-per-class 'train': must be SPLIT=CLIPS"),
    ],
)
def test_errors_are_one_line_and_a_status(
    emim_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.mp4").write_text("this is not a video\n" * 50)
    result = emim_command(*words)
    assert result.status == 1
    assert result.out == ""
    lines = result.err.strip().splitlines()
    assert lines[-1].startswith(f"emim {words[0]}: ")
    assert message in lines[-1]
    assert "Traceback" not in result.err


def test_unknown_options_are_usage_errors(emim_command: Command) -> None:
    result = emim_command("predict", "x.mp4", "--topp", "3")
    assert result.status == 2
    assert "--topp" in result.err
    assert emim_command("predict", "x.mp4", "--topk", "0").status == 2
    assert emim_command("recognise").status == 2


def test_one_bad_video_does_not_stop_the_others(emim_command: Command, generated: Path, tmp_path: Path) -> None:
    shutil.copytree(generated / "test" / "left", tmp_path / "videos")
    (tmp_path / "videos" / "a_broken.mp4").write_bytes(b"")
    result = emim_command("predict", tmp_path / "videos", "--json")
    assert result.status == 1
    assert len(result.out.splitlines()) == 2
    assert "a_broken.mp4" in result.err


def test_a_checkpoint_of_other_classes_is_named(
    emim_command: Command, trained: Path, generated: Path, tmp_path: Path
) -> None:
    (tmp_path / "test").mkdir()
    shutil.copytree(generated / "test" / "left", tmp_path / "test" / "leftt")
    shutil.copytree(generated / "test" / "up", tmp_path / "test" / "up")
    result = emim_command("test", trained / "model.safetensors", "--data", tmp_path)
    assert result.status == 1
    assert "leftt" in result.err
    assert "left" in result.err.replace("leftt", "")


def test_debug_shows_the_traceback(emim_command: Command, tmp_path: Path) -> None:
    from emim.errors import CheckpointError

    with pytest.raises(CheckpointError):
        emim_command("predict", "x.mp4", "--checkpoint", tmp_path / "nowhere.safetensors", "--debug")


def test_standard_output_closed_by_the_reader(generated: Path) -> None:
    code = "import sys; from emim.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = f"{sys.executable} -c '{code}' predict {generated / 'test'} --json | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_every_real_clip_is_predicted(emim_command: Command, real_clips: Path) -> None:
    result = emim_command("predict", real_clips, "--json")
    assert result.status == 0, result.err
    found = [path for path in real_clips.rglob("*") if path.suffix in (".mp4", ".avi", ".mkv")]
    assert len(result.out.splitlines()) == len(found) > 20


@pytest.mark.slow
def test_training_on_classes_of_real_clips(emim_command: Command, real_clips: Path, tmp_path: Path) -> None:
    # Two classes of a few real clips each, as a user's folder would look.
    signs = sorted((real_clips / "intel").glob("*.mkv"))
    for name, files in {"first": signs[:4], "second": signs[4:8]}.items():
        (tmp_path / "mine" / name).mkdir(parents=True)
        for file in files:
            shutil.copy(file, tmp_path / "mine" / name)
    runs = f"output={tmp_path / 'runs'}"
    trained = emim_command("train", tmp_path / "mine", runs, "trainer.epochs=1", "preprocessing.size=64")
    assert trained.status == 0, trained.err
    model = tmp_path / "runs" / "mine" / "model.safetensors"
    predicted = emim_command("predict", signs[10], "--checkpoint", model, "--json")
    assert predicted.status == 0, predicted.err
    assert {item["label"] for item in json.loads(predicted.out)["predictions"]} == {"first", "second"}


@pytest.mark.slow
def test_demo_does_the_whole_job(emim_command: Command, tmp_path: Path) -> None:
    result = emim_command("demo", "--output", tmp_path / "demo", *QUICK)
    assert result.status == 0, result.err
    steps = [line[:3] for line in result.err.splitlines() if line[1:3] == "/5"]
    assert steps == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert all(word in result.out for word in ("held-out top-1", "of 220 clips", "emim predict <video>"))
    assert len(list((tmp_path / "demo" / "data").rglob("*.mp4"))) == 1100
    page = read_page((tmp_path / "demo" / "runs" / "demo" / "report.html").read_text(encoding="utf-8"))
    assert page.problems == []
    assert "220 clips of" in page.text
