"""Tests of what `import emim` offers, and of what it costs."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import emim


@pytest.mark.parametrize("name", emim.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(emim, name) is not None


def test_errors_can_be_caught_by_their_public_name() -> None:
    with pytest.raises(emim.UnknownNameError):
        emim.create_model("no such network", 2)
    assert issubclass(emim.VideoNotFoundError, emim.EmimError)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Recognizer'"):
        _ = emim.Recognizer


def test_every_public_module_says_what_it_offers() -> None:
    missing = []
    for found in pkgutil.walk_packages(emim.__path__, "emim."):
        if any(part.startswith("_") for part in found.name.split(".")) or found.name.startswith("emim.ops.triton"):
            continue
        module = importlib.import_module(found.name)
        if not hasattr(module, "__all__"):
            missing.append(found.name)
        else:
            absent = [name for name in module.__all__ if not hasattr(module, name)]
            assert not absent, (found.name, absent)
    assert missing == []


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import emim", ("torch", "av", "numpy")),
        ("import emim.cli.main; emim.cli.main.build_parser()", ("torch", "av", "numpy")),
        ("from emim.nn import EMIM", ("torch._dynamo", "lightning", "av", "torchmetrics")),
        ("from emim import Recogniser", ("lightning", "torchmetrics", "tensorboard", "torch._dynamo")),
        ("from emim.training.run_folder import read_run", ("lightning", "torchmetrics")),
    ],
)
def test_an_import_loads_no_more_than_it_needs(code: str, absent: tuple[str, ...]) -> None:
    report = f"import sys; {code}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
