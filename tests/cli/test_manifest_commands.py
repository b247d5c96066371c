"""Manifests of other programs, their splits and groups, in the commands that take them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import QUICK
from emim.data.manifest import read_manifest

Command = Callable[..., Any]


@pytest.fixture
def exported(generated: Path, tmp_path: Path) -> Path:
    """A table as a spreadsheet saves it: all clips of two classes, a column for the split and one for the person."""
    rows = ["sep=;", "Film;Klasse;Set;Person;fps"]
    for split in ("train", "test"):
        for label in ("down", "up"):
            for number, video in enumerate(sorted((generated / split / label).glob("*.mp4"))):
                rows.append(f"{video};{label};{split};{split}{number % 2};30")
    path = tmp_path / "table.csv"
    path.write_bytes("\r\n".join(rows).encode("utf-16"))
    return path


def test_a_table_is_trained_on_by_groups_tested_by_its_split_and_examined(
    emim_command: Command, exported: Path, tmp_path: Path
) -> None:
    columns = ["--columns", "path=Film,label=Klasse"]
    overrides = [*QUICK, "model.checkpoint=null", f"output={tmp_path / 'runs'}", "data.val_share=0.5"]
    trained = emim_command("train", exported, *overrides, *columns, "--group-by", "column:person")
    assert trained.status == 0, trained.err
    assert "1 of 2 groups (train" in trained.err
    assert "read as: UTF-16; line sep=';'; column 'Film' as path, 'Klasse' as label" in trained.err
    run = tmp_path / "runs" / "table"
    recorded = json.loads((run / "data.json").read_text())
    assert {recorded[part]["num_clips"] for part in ("train", "val")} == {2, 4}

    tested = emim_command("test", run / "model.safetensors", "--data", exported, "--workers", 0)
    assert tested.status == 0, tested.err
    assert "test: 4 clips of 2 classes by the column split" in tested.err

    other = exported.rename(tmp_path / "other.csv")
    refused = emim_command("test", run / "model.safetensors", "--data", other, "--workers", 0)
    assert refused.status == 1
    assert "column 'path' is missing from the header 'Film,Klasse,Set,Person,fps'" in refused.err
    clean = tmp_path / "clean.csv"
    examined = emim_command("doctor", other, *columns, "--split", "test", "--quarantine", clean, "--workers", 1)
    assert examined.status == 0, examined.err
    assert {entry.split for entry in read_manifest(clean)} == {"test"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--group-by", "s[0-9]"], "has 0 groups in parentheses"),
        (["--group-by", "zz([0-9])"], "does not fit the file names of"),
        (["--group-by", "column:nobody"], "column 'nobody', chosen as group, is missing from the header"),
        (["--columns", "pth=x"], "unknown role 'pth'; did you mean 'path'?"),
        (["--columns", "label=x"], "column 'x', chosen as label, is missing from the header"),
        (["data.columns=5"], "must be ROLE=COLUMN"),
    ],
)
def test_wrong_columns_and_groups_are_one_line(
    emim_command: Command, generated: Path, words: list[str], message: str
) -> None:
    result = emim_command("train", generated / "train.csv", *QUICK, "model.checkpoint=null", *words)
    assert result.status == 1
    assert message in result.err.strip().splitlines()[-1]
    assert "Traceback" not in result.err
    assert "unexpected" not in result.err


@pytest.mark.parametrize("command", ["train", "test", "doctor"])
@pytest.mark.parametrize(
    "content",
    ["path,label\n" + "x" * 5000 + ".mp4,a\n", "path,label\na.mp4," + "9" * 5000 + "\n", "path,label\na\0,b\n"],
)
def test_extreme_manifests_are_one_line(emim_command: Command, tmp_path: Path, command: str, content: str) -> None:
    (tmp_path / "clips.csv").write_text(content)
    words = {
        "train": ["train", tmp_path / "clips.csv", f"output={tmp_path}"],
        "test": ["test", "bundled", "--data", tmp_path / "clips.csv", "--workers", 0],
        "doctor": ["doctor", tmp_path / "clips.csv", "--workers", 1],
    }[command]
    result = emim_command(*words)
    assert result.status == 1
    assert "unexpected" not in result.err
    assert "Traceback" not in result.err
    assert all(len(line) < 1500 for line in result.err.splitlines())
