"""Every data set in miniature, built once; a test that changes one copies it first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import miniature


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The miniature of a name; not to be changed."""
    folder = tmp_path_factory.mktemp("miniatures")

    def original(name: str) -> Path:
        root = folder / name
        return root if root.exists() else miniature.build(name, root)

    return original


@pytest.fixture
def copy_of(originals: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the miniature of a name, for this test to change."""
    return lambda name: Path(shutil.copytree(originals(name), tmp_path / name))
