from __future__ import annotations

from pathlib import Path

import pytest
import torch

from emim.precision import resolve_precision


def test_what_is_asked_for_is_taken() -> None:
    assert resolve_precision("16-mixed", "cpu") == "16-mixed"
    assert resolve_precision("32-true", "cuda") == "32-true"


def test_auto_follows_the_processor() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    native = cpuinfo.is_file() and "amx_bf16" in cpuinfo.read_text()
    assert resolve_precision("auto", "cpu") == ("bf16-mixed" if native else "32-true")


def test_figures_to_be_reproduced_are_in_float32_on_every_processor() -> None:
    assert resolve_precision("auto", "cpu", exact_on_cpu=True) == "32-true"
    assert resolve_precision("bf16-mixed", "cpu", exact_on_cpu=True) == "bf16-mixed"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_auto_on_a_gpu() -> None:
    expected = "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "32-true"
    assert resolve_precision("auto", "cuda") == expected
