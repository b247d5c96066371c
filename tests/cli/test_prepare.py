"""`emim prepare` as a user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import miniature

Command = Callable[..., Any]


def test_help_names_every_data_set_of_the_registry(emim_command: Command) -> None:
    from emim.cli.prepare import _NAMES
    from emim.datasets.prepare import PROVIDERS

    assert tuple(PROVIDERS) == _NAMES == miniature.NAMES
    result = emim_command("prepare", "--help")
    assert result.status == 0
    assert all(name in result.out for name in _NAMES)


def test_what_a_user_sees(emim_command: Command, tmp_path: Path) -> None:
    root, out = miniature.build("ssv2", tmp_path / "root"), tmp_path / "ssv2"
    result = emim_command("prepare", "ssv2", root, "-o", out)
    assert result.status == 0, result.err
    assert "Something-Something V2, 4 classes: written" in result.out
    assert "168,913" in result.out
    assert "16 of 168,913 train" in result.err
    assert "warning" not in result.err

    again = emim_command("prepare", "ssv2", root, "-o", out)
    assert "already there, unchanged" in again.out

    for number in (11, 22, 33, 44):
        (root / "20bn-something-something-v2" / f"{number}.webm").unlink()
    partial = emim_command("prepare", "ssv2", root, "-o", out)
    assert partial.status == 0
    assert "warning: train: 4 of 16 listed videos are not on disk: 11.webm, 22.webm, 33.webm and 1 more" in partial.err
    assert "20bn-something-something-v2" in partial.err
    assert str(out / "prepare.json") in partial.err
    assert len(json.loads((out / "prepare.json").read_text())["splits"]["train"]["missing"]) == 4

    strict = emim_command("prepare", "ssv2", root, "-o", out, "--strict")
    assert (strict.status, strict.out) == (1, "")
    assert "strict: train: 4 of 16" in strict.err


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_bars_show_the_progress_on_a_terminal(tmp_path: Path) -> None:
    import pty

    root = miniature.build("ucf101", tmp_path / "root")
    ours, theirs = pty.openpty()
    words = ["prepare", "ucf101", root, "-o", tmp_path / "out", "--resize", 32, "--workers", 1]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-m", "emim", *map(str, words)], stdout=subprocess.DEVNULL, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal ends whose other side has gone
            while part := os.read(ours, 65536):
                shown += part
    os.close(ours)
    assert process.returncode == 0
    for title in ("looking for train videos", "re-encoding train videos", "re-encoding test videos"):
        assert title in shown.decode()
    assert "12/12" in shown.decode()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ((), "no class list; looked for classInd.txt"),
        (("--resize", "31", "--workers", "1"), "a short side of 31 pixels: give an even number, at least 16"),
        (("--fold", "4"), "fold 4: UCF101 has 1, 2, 3"),
    ],
)
def test_errors_are_one_line(emim_command: Command, tmp_path: Path, extra: tuple[str, ...], message: str) -> None:
    root = miniature.build("ucf101", tmp_path / "root")
    if not extra:
        shutil.rmtree(root / "ucfTrainTestlist")
    result = emim_command("prepare", "ucf101", root, "-o", tmp_path / "out", *extra)
    assert result.status == 1
    assert len(result.err.strip().splitlines()) == 1
    assert result.err.startswith("emim prepare: ")
    assert message in result.err
    assert not (tmp_path / "out" / "train.csv").exists()
