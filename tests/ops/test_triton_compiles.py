"""Triton's compiler takes every kernel and tiling for a GPU, which its interpreter says nothing of. Needs no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed (pip install 'emim[gpu]')")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "compile_for_gpu.py"
KERNELS = {"forward", "queries", "keys", "motion", "motion affinity", "motion weights"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--dtype", "bfloat16"], id="uniformer-bfloat16"),
        pytest.param(["--dtype", "float32"], id="uniformer-float32"),
        pytest.param(["--dtype", "float16", "--shape", *"11111", "--window", "1", "--width", "1"], id="all-ones"),
    ],
)
def test_every_tiling_compiles_for_hopper(arguments: list[str], tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    command = [sys.executable, SCRIPT, "--arch", "90", *arguments, "--json", told]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row["kernel"] for row in json.loads(told.read_text())} == KERNELS
