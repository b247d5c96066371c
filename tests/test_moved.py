"""Tests of the old import paths of version 0.1."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from emim._moved import MOVED


@pytest.mark.parametrize("old", sorted(name for name in MOVED if not name.startswith("ops.fused")))
def test_every_old_path_leads_to_a_module_with_a_warning(old: str) -> None:
    sys.modules.pop(f"emim.{old}", None)
    with pytest.warns(FutureWarning, match=r"has moved to emim\."):
        module = importlib.import_module(f"emim.{old}")
    assert module is importlib.import_module(f"emim.{MOVED[old]}")


def test_old_path_gives_the_same_class_and_the_warning_names_the_users_line() -> None:
    code = (
        "from emim.evaluation.recogniser import Recogniser as old\n"
        "from emim.inference.recogniser import Recogniser as new\n"
        "print(old is new)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    assert "<string>:1: FutureWarning: emim.evaluation.recogniser has moved" in done.stderr
