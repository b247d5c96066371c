"""`emim stream` by the real command line, on real files and a real server."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import CommandResult
from live_sources import BreakingServer, transport_stream, write_video

Command = Callable[..., CommandResult]

PLAIN_LINE = re.compile(r" +\d+\.\d\d s  \w+ +\d+\.\d%  [█ ]{12} +\d+ ms  \w+ \d+%$")


@pytest.fixture
def checkpoint(trained: Path) -> Path:
    return trained / "model.safetensors"


def test_a_file_in_plain_lines_and_json(emim_command: Command, checkpoint: Path, tmp_path: Path) -> None:
    video, lines = write_video(tmp_path / "clip.mp4", 1.4), tmp_path / "lines.jsonl"
    words = ["--checkpoint", checkpoint, "--device", "cpu", "--stride", 0.2, "--span", 0.4, "--topk", 2]
    result = emim_command("stream", video, *words, "--output", lines, "--threads", 1)
    assert result.status == 0
    shown = result.out.splitlines()
    assert all(PLAIN_LINE.match(line) for line in shown)

    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(written) == len(shown) >= 2
    for line in written:
        assert set(line) == {"time", "captured", "label", "score", "smoothed", "raw", "latency"}
        assert len(line["smoothed"]) == len(line["raw"]) == 2
        assert line["smoothed"][0] == {"label": line["label"], "score": line["score"]}
        assert line["latency"] > 0
    assert written[0]["smoothed"] == written[0]["raw"]
    assert written[0]["time"] == pytest.approx(0.36, abs=0.2)

    notes = result.err.splitlines()
    assert notes[0] == f"{video}: 64x48 h264, 25 fps"
    assert notes[1] == f"{len(written)} predictions in 1.4 s of 35 frames"
    assert re.match(r"latency from the newest frame's arrival to its prediction: median \d+ ms, p95 \d+ ms", notes[2])
    dropped = re.match(r"dropped: (\d+) of (\d+) due predictions \(.*%\); 0 frames left out as too late", notes[3])
    assert dropped
    assert int(dropped[2]) - int(dropped[1]) == len(written)
    assert len(notes) == 4


def test_a_clip_shorter_than_the_span_has_one_prediction(
    emim_command: Command, checkpoint: Path, tmp_path: Path
) -> None:
    video = write_video(tmp_path / "clip.mp4", 0.4)
    result = emim_command("stream", video, "--checkpoint", checkpoint, "--json", "--threshold", 1)
    assert result.status == 0
    (line,) = map(json.loads, result.out.splitlines())
    assert line["label"] is None
    assert line["time"] == pytest.approx(0.36)


def test_the_scores_are_those_of_predict(emim_command: Command, checkpoint: Path, tmp_path: Path) -> None:
    """Of a clip whose frames are all chosen, the scores agree with one view of the same frames."""
    import numpy as np
    import torch

    from emim import Recogniser
    from emim.data.preprocessing import views_from_frames
    from emim.data.video import open_video

    video = write_video(tmp_path / "clip.mp4", 0.16)  # four frames, as many as the network takes
    words = ["--json", "--topk", 11, "--device", "cpu"]
    result = emim_command("stream", video, "--checkpoint", checkpoint, "--span", 0.12, *words)
    (line,) = map(json.loads, result.out.splitlines())
    recogniser = Recogniser.load(checkpoint, device="cpu")
    with open_video(video) as reader:
        frames_THWC = reader.read(range(4))
    score_K = recogniser.score(views_from_frames(frames_THWC, np.array([[0, 1, 2, 3]]), recogniser.preprocessing))
    listed = {item["label"]: item["score"] for item in line["raw"]}
    torch.testing.assert_close(torch.tensor([listed[name] for name in recogniser.classes]), score_K, atol=2e-5, rtol=0)


def test_no_more_predictions_are_due_than_there_are_frames(
    emim_command: Command, checkpoint: Path, tmp_path: Path
) -> None:
    video = write_video(tmp_path / "clip.mp4", 1.0)
    result = emim_command(
        "stream", video, "--checkpoint", checkpoint, "--stride", 0.001, "--span", 0.2, "--device", "cpu"
    )
    dropped = re.search(r"dropped: (\d+) of (\d+) due predictions", result.err)
    assert dropped
    assert int(dropped[2]) <= 25
    assert int(dropped[2]) - int(dropped[1]) == len(result.out.splitlines())


def test_duration(emim_command: Command, checkpoint: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4", 4)
    result = emim_command("stream", video, "--checkpoint", checkpoint, "--span", 0.2, "--duration", 0.6)
    assert result.status == 0
    seconds = re.search(r"predictions? in ([\d.]+) s of ", result.err)
    assert seconds
    assert 0.6 <= float(seconds[1]) < 4  # of 4 in the file


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["nowhere.mp4"], 1, "nowhere.mp4: no such file or folder; check the path"),
        (["9999"], 1, "camera 9999: cannot be opened"),
        (["ftp://host/x"], 1, "unknown kind of address ftp://"),
        (["x.mp4", "--stride", "0"], 2, "must be a number above 0"),
        (["x.mp4", "--span", "nan"], 2, "must be a number above 0"),
        (["x.mp4", "--smoothing", "1"], 1, "smoothing must be at least 0 and below 1"),
        (["x.mp4", "--threshold", "2"], 2, "must be a number from 0 to 1, got"),
        (["x.mp4", "--output", "/dev/null/x.jsonl"], 1, "/dev/null/x.jsonl: cannot be written"),
        (["x.mp4", "--retries", "-1"], 2, "must be at least 0"),
    ],
)
def test_errors(emim_command: Command, checkpoint: Path, words: list[str], status: int, message: str) -> None:
    result = emim_command("stream", *words, "--checkpoint", checkpoint)
    assert result.status == status
    assert message in result.err
    assert "Traceback" not in result.err
    assert status == 2 or len(result.err.splitlines()) == 1
    assert result.out == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(emim_command: Command, checkpoint: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4", 0.6)
    result = emim_command("stream", video, "--checkpoint", checkpoint, "--span", 0.2, "--output", "/dev/full")
    assert result.status == 1
    assert result.err.splitlines()[-1] == "emim stream: /dev/full: cannot be written (No space left on device)"


def test_a_lost_server(emim_command: Command, checkpoint: Path) -> None:
    with BreakingServer(transport_stream(3.0), [60, 60]) as server:
        result = emim_command("stream", server.url, "--checkpoint", checkpoint, "--span", 0.4, "--retries", 1, "--json")
    assert result.status == 1
    times = [json.loads(line)["time"] for line in result.out.splitlines()]
    assert len(times) >= 2
    assert times == sorted(times)
    notes = result.err.splitlines()
    assert notes[0] == f"{server.url}: 64x48 h264, 25 fps"
    assert notes[1].endswith("; attempt 1 of 1 to reconnect in 0.5 s")
    assert notes[2].startswith(f"{server.url}: back after ")
    assert "reconnected: 1 time" in notes
    assert notes[-1].startswith(f"emim stream: {server.url}: lost, and 1 attempt to reconnect failed (cannot be opened")


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("hangs", [False, True])
def test_ctrl_c(
    emim_process: Callable[..., subprocess.Popen[str]], checkpoint: Path, tmp_path: Path, hangs: bool
) -> None:
    video = write_video(tmp_path / "clip.mp4", 20)
    with BreakingServer(transport_stream(0.2), [None]) as server:
        source = server.url if hangs else video
        process = emim_process("stream", source, "--checkpoint", checkpoint, "--span", 0.2, "--timeout", 300)
        if hangs:
            assert server.reached.wait(60)
        else:
            assert process.stdout is not None
            assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert hangs or "dropped: " in err


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_on_a_terminal_one_line_changes(checkpoint: Path, tmp_path: Path) -> None:
    import pty

    video = write_video(tmp_path / "clip.mp4", 1.0)
    controller, terminal = pty.openpty()
    words = ["stream", video, "--checkpoint", checkpoint, "--span", "0.2", "--stride", "0.2"]
    with subprocess.Popen(
        [sys.executable, "-m", "emim", *map(str, words)],
        stdout=terminal,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "60"},
    ) as process:
        _, err = process.communicate(timeout=60)
    os.close(terminal)
    shown = os.read(controller, 1 << 16).decode()
    os.close(controller)
    assert process.returncode == 0, err
    first, *lines = shown.split("\r\x1b[2K")
    assert first == ""
    assert len(lines) >= 2
    assert shown.count("\n") == 1
    assert shown.endswith("\n")
    assert all(len(line.rstrip()) < 60 for line in lines)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("term", "silent", "escapes"), [("xterm", False, 2), ("dumb", False, 0), ("xterm", True, 0)])
def test_only_a_terminal_that_can_erase_gets_escapes(
    monkeypatch: pytest.MonkeyPatch, term: str, silent: bool, escapes: int
) -> None:
    from emim.cli.stream import Display
    from emim.inference.live.predictor import LivePrediction
    from emim.inference.recogniser import Prediction

    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stdout", _Terminal())
    scores = (Prediction("left", 0.75), Prediction("right", 0.25))
    display = Display(2, 0.0, silent=silent)
    for second in (1.0, 2.0):
        display.show(LivePrediction(second, time.monotonic(), scores, scores))
    display.finish()
    shown = sys.stdout.getvalue()
    assert shown.count("\x1b") == escapes
    assert shown.count("left") == (0 if silent else 2)
    assert shown.count("\n") == (0 if silent else 1 if escapes else 2)
