"""Commands, recipe keys and Python code of the documentation are those of the package."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from emim.cli.main import build_parser
from emim.training.recipe import known_keys

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def commands(page: Path) -> Iterator[list[str]]:
    """Arguments of every `emim` command in the code blocks of a page."""
    for text in blocks(page, "", "bash"):
        for line in text.replace("\\\n", " ").splitlines():
            found = re.match(r"(?:\$ |.*\b(?:srun|-m) )?\s*emim (.+)", line)
            if found is None or re.match(r"\w+: ", found[1]):  # `emim train: ...` is what it prints
                continue
            command = re.sub(r"\s(#|&&|>|\|)\s.*", "", found[1])
            command = re.sub(r"[\[\]]", "", command) if " [-" in command or " [mo" in command else command
            command = re.sub(r"<([^<>]+)>", lambda place: place[1].replace(" ", "-"), command)
            yield shlex.split(command.replace("...", "more"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_understood(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser, keys = build_parser(), known_keys()
    for command in commands(page):
        try:
            args, extra = parser.parse_known_args(command)
        except SystemExit:
            if "--help" not in command and "--version" not in command:
                pytest.fail(f"emim {shlex.join(command)}: {capsys.readouterr().err}")
            continue
        assert not extra or args.takes_overrides, f"emim {shlex.join(command)}: {extra}"
        for override in extra:
            assert override.split("=")[0] in keys, f"emim {shlex.join(command)}: {override}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_keys_exist(page: Path) -> None:
    keys = known_keys()
    sections = "|".join({key.split(".")[0] for key in keys if "." in key})
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for key in re.findall(rf"`((?:{sections})\.\w+)(?:=[^`]*)?`", text):
        if not key.endswith((".json", ".safetensors")):
            assert key in keys, f"{name_of(page)}: {key}"


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Every option of a command and its subcommands."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*(options(command) for command in action.choices.values()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_in_tables_exist(page: Path) -> None:
    known = options(build_parser())
    for row in re.findall(r"^\| (`-.*?) \|", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        for option in re.findall(r"`(-[\w-]+)", row):
            assert option in known, f"{name_of(page)}: {option}"


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=name_of)
def test_links_of_pages_outside_the_site(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{name_of(page)}: {link}"


def test_some_commands_are_found() -> None:
    assert sum(len(list(commands(page))) for page in PAGES) > 50


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name_of)
def test_imports_of_examples_exist(page: Path) -> None:
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    else:
        code = list(blocks(page, "python"))
    for text in code:
        try:
            tree = ast.parse(text)
        except SyntaxError:
            assert "def " in text or "Architecture(" in text or text.startswith("self."), f"{name_of(page)}: {text}"
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "emim":
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{name_of(page)}: from {node.module} import {alias.name}"
