"""`emim doctor` as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emim.data.manifest import read_manifest

Command = Callable[..., Any]


@pytest.fixture
def broken(generated: Path, tmp_path: Path) -> Path:
    """A manifest beside a class list: three good clips, a copy, and an empty file."""
    videos = sorted((generated / "train").rglob("*.mp4"))
    chosen = [videos[0], videos[4], videos[8]]
    for number, source in enumerate([*chosen, chosen[0]]):
        (tmp_path / f"{number}.mp4").write_bytes(source.read_bytes())
    (tmp_path / "4.mp4").write_bytes(b"")
    labels = ["up", "down", "up", "up", "left"]
    rows = "".join(f"{number}.mp4,{label}\n" for number, label in enumerate(labels))
    (tmp_path / "clips.csv").write_text("path,label\n" + rows)
    (tmp_path / "classes.txt").write_text("up\ndown\nleft\n")
    return tmp_path / "clips.csv"


def test_problems_totals_json_and_a_clean_manifest(emim_command: Command, broken: Path, tmp_path: Path) -> None:
    clean, facts = tmp_path / "new" / "clean.csv", tmp_path / "facts.json"
    result = emim_command("doctor", broken, "--quarantine", clean, "--output", facts, "--workers", 1)
    assert result.status == 1
    lines = result.out.splitlines()
    assert max(map(len, lines)) <= 110
    assert sum("4.mp4 (row 6)" in line for line in lines) == 1
    assert "5 videos: 1 error, 1 warning (1 unreadable, 1 duplicate)" in result.out
    assert "32 frames decoded" in result.out
    assert "no clip is left of: left" in result.err

    content = json.loads(facts.read_text())
    assert (content["errors"], content["warnings"], content["counts"]) == (1, 1, {"unreadable": 1, "duplicate": 1})
    assert content["statistics"]["frames"] == {"min": 8, "median": 8, "max": 8}
    assert [problem["rows"] for problem in content["problems"]] == [[6], [5]]

    kept = read_manifest(clean)
    assert [entry.path for entry in kept] == [tmp_path / f"{number}.mp4" for number in range(3)]
    assert kept.classes == ("up", "down", "left")
    again = emim_command("doctor", clean, "--workers", 1)
    assert again.status == 0
    assert "3 videos: nothing wrong" in again.out


def test_a_folder_of_any_videos(emim_command: Command, generated: Path) -> None:
    result = emim_command("doctor", generated / "test" / "up", "--workers", 1)
    assert result.status == 0, result.err
    assert "2 videos without labels" in result.err
    assert "2 videos: nothing wrong" in result.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["{root}/test/up", "--quarantine", "new.csv"], "needs labels"),
        (["{root}", "--quarantine", "new.csv"], "give --split"),
        (["{root}", "--split", "test", "--quarantine", "new.txt"], "ends in .csv"),
        (["{root}/test.csv", "--quarantine", "{root}/test.csv"], "would overwrite"),
        (["{root}/test.csv", "--split", "test"], "--split needs a folder or a manifest with a column split"),
        (["{root}", "--columns", "path=a,label=b"], "--columns is for manifests"),
        (["{root}", "--output", "{root}/test.csv/report.json"], "test.csv/report.json: cannot be written"),
    ],
)
def test_wrong_use_is_said_before_anything_is_decoded(
    emim_command: Command, generated: Path, words: list[str], message: str
) -> None:
    result = emim_command("doctor", *(word.replace("{root}", str(generated)) for word in words))
    assert result.status == 1
    assert result.out == ""
    assert message in result.err
    assert "Traceback" not in result.err
