"""Tests of the walks through the code in CONTRIBUTING.md: every stop exists, and none has more than eight."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def walks() -> dict[str, list[str]]:
    """Return the numbered stops below each heading of the tour."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    found = {}
    for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        stops = re.split(r"^\d+\. ", body.split("\n## ")[0], flags=re.MULTILINE)[1:]
        found[title] = [" ".join(stop.split()) for stop in stops]
    return found


def test_three_walks_of_at_most_eight_stops() -> None:
    found = walks()
    assert len(found) == 3
    assert all(3 <= len(stops) <= 8 for stops in found.values()), {key: len(stops) for key, stops in found.items()}


def test_every_stop_is_in_the_code() -> None:
    checked = 0
    for stops in walks().values():
        for stop in stops:
            for file, name in re.findall(r"`([\w/]+\.py)`, `([\w.]+)`", stop):
                path = ROOT / "src" / "emim" / file
                assert path.is_file(), stop
                tree: ast.AST = ast.parse(path.read_text())
                for part in name.split("."):
                    inner = [
                        node
                        for node in ast.iter_child_nodes(tree)
                        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part
                    ]
                    assert inner, f"{file} has no {name}"
                    tree = inner[0]
                checked += 1
            for file in re.findall(r"\(`([\w/]+\.py)`\)", stop):
                assert (ROOT / "src" / "emim" / file).is_file(), stop
    assert checked >= 15
