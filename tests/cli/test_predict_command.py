"""`emim predict` over many videos, by the real command line."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import CommandResult
from emim.cli.console import progress_bar
from emim.data.video import open_video

Command = Callable[..., CommandResult]


@pytest.fixture
def folder(generated: Path, tmp_path: Path) -> Path:
    """Six good videos in two folders, with a cut one among them."""
    videos = sorted((generated / "test").rglob("*.mp4"))[:6]
    for number, source in enumerate(videos):
        place = tmp_path / "videos" / "ab"[number // 3]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place / f"{number}.mp4")
    (tmp_path / "videos" / "a" / "1cut.mp4").write_bytes(videos[0].read_bytes()[:700])
    return tmp_path / "videos"


def lines(result: CommandResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.out.splitlines()]


def test_workers_and_batches_change_nothing_but_rounding(emim_command: Command, trained: Path, folder: Path) -> None:
    words = ["predict", folder, "nowhere.mp4", folder / "a" / "0.mp4", "--json", "--topk", 11]
    words += ["--checkpoint", trained / "model.safetensors", "--device", "cpu", "--precision", "32-true"]
    plain = emim_command(*words, "--workers", 0, "--batch-size", 1)
    assert plain.status == 1
    names = ["a/0.mp4", "a/1.mp4", "a/2.mp4", "b/3.mp4", "b/4.mp4", "b/5.mp4", "a/0.mp4"]
    assert [line["path"] for line in lines(plain)] == [str(folder / name) for name in names]
    errors = plain.err.splitlines()
    assert len(errors) == 3
    assert errors[0].startswith(f"emim predict: {folder / 'a' / '1cut.mp4'}: ")
    assert errors[1].startswith("emim predict: nowhere.mp4: ")
    assert errors[2].startswith("9 videos in ")
    assert errors[2].endswith(", 2 failed")

    other = emim_command(*words, "--workers", 2, "--batch-size", 3)
    assert other.status == 1
    assert other.err.splitlines()[:2] == errors[:2]
    for one, two in zip(lines(plain), lines(other), strict=True):
        assert one["path"] == two["path"]
        scores = [{item["label"]: item["score"] for item in line["predictions"]} for line in (one, two)]
        assert scores[0] == pytest.approx(scores[1], abs=2e-5)


def test_the_json_says_what_was_looked_at(emim_command: Command, trained: Path, folder: Path) -> None:
    video = folder / "a" / "0.mp4"
    result = emim_command("predict", video, "--checkpoint", trained / "model.safetensors", "--json", "--device", "cpu")
    (line,) = lines(result)
    with open_video(video) as reader:
        assert (line["frames"], line["fps"]) == (reader.num_frames, pytest.approx(reader.fps))
        assert line["duration_s"] == pytest.approx(reader.duration, abs=1e-3)
        (view,) = line["views"]
        assert view["times_s"] == pytest.approx([reader.time_of(number) for number in view["frames"]], abs=1e-3)
    assert view["frames"] == [0, 2, 4, 5]  # round(7 / 4 * i)
    assert (line["size"], view["clip"], view["crop"]) == ([64, 48], 0, "centre")
    assert view["box"] == [8, 0, 48, 48]


def test_one_video_needs_no_summary(emim_command: Command, trained: Path, folder: Path) -> None:
    result = emim_command("predict", folder / "a" / "0.mp4", "--checkpoint", trained / "model.safetensors")
    assert (result.status, result.err) == (0, "")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--workers", "-1"], 2, "must be at least 0"),
        (["--workers", "two"], 2, "must be a whole number from 0 to 1024"),
        (["--batch-size", "0"], 2, "must be at least 1"),
        (["--precision", "16-mixed"], 2, "invalid choice: '16-mixed'"),
        (["--device", "gpu"], 2, "must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["--device", "mps"], 2, "must be auto, cpu, cuda or cuda:N, got 'mps'"),
        (["--device", "cuda:99"], 1, "--device cuda:99: PyTorch finds "),
    ],
)
def test_wrong_values(emim_command: Command, words: list[str], status: int, message: str) -> None:
    result = emim_command("predict", "nowhere.mp4", *words)
    assert result.status == status
    assert message in result.err
    assert "Traceback" not in result.err
    assert status == 2 or len(result.err.splitlines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker in /proc")
def test_a_killed_worker_ends_the_command_with_a_reason(emim_command: Command, trained: Path, folder: Path) -> None:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = set(children.read_text().split())
    killed: list[str] = []

    def kill_one() -> None:
        deadline = time.monotonic() + 100
        while not killed and time.monotonic() < deadline:
            killed.extend(sorted(set(children.read_text().split()) - before)[:1])
            time.sleep(0.005)
        os.kill(int(killed[0]), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    many = [folder / "b"] * 300
    result = emim_command("predict", *many, "--checkpoint", trained / "model.safetensors", "--json", "--workers", 1)
    killer.join()
    assert result.status == 1
    last = result.err.splitlines()[-1]
    assert last.startswith("emim predict: a process that reads videos has ended")
    assert "Traceback" not in result.err
    assert len(result.out.splitlines()) < 900


def test_an_interrupt_ends_it_and_its_workers(trained: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "emim", "predict", *[folder / "b"] * 2000, "--json", "--workers", "2"]
    with subprocess.Popen(
        [*map(str, command), "--checkpoint", str(trained / "model.safetensors")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group, as of a terminal's Ctrl-C
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert json.loads(first)["path"] == str(folder / "b" / "3.mp4")
    assert process.returncode == 130
    assert len(out.splitlines()) < 5999
    assert err == "interrupted\n"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody is left in the group


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_results_for_a_file_do_not_go_to_the_terminal_of_the_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("predicting", 2) as progress:
        print('{"path": "a.mp4"}')
        progress(1, 2)
    assert capsys.readouterr().out == '{"path": "a.mp4"}\n'
    assert "a.mp4" not in terminal.getvalue()
    assert "predicting" in terminal.getvalue()


def test_waiting_threads_sleep_unless_told_otherwise() -> None:
    code = (
        "import os, sys; from emim.environment import let_waiting_threads_sleep as sleep; sleep(); "
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
        if given is not None:
            environment["OMP_WAIT_POLICY"] = given
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
