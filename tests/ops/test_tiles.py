"""Which tiling runs: the choice itself, with kernels that only say what they were given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (pip install 'emim[gpu]')")

from triton.runtime.errors import OutOfResources

from emim.errors import OpInputError
from emim.ops.triton import tiles
from emim.ops.triton.tiles import Candidates, RowTiling, run_fastest

LARGE, MIDDLE, SMALL = (RowTiling(rows, 32, warps=4, stages=2) for rows in (128, 64, 32))
CANDIDATES = Candidates((LARGE, MIDDLE, SMALL), (SMALL,), MIDDLE)


class Kernel:
    """Keeps what it was run with; some tilings need more shared memory than there is."""

    def __init__(self, *too_large: RowTiling) -> None:
        self.too_large = too_large
        self.ran: list[RowTiling] = []

    def __call__(self, tiling: RowTiling) -> RowTiling:
        if tiling in self.too_large:
            raise OutOfResources(2, 1, "shared memory")
        self.ran.append(tiling)
        return tiling


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "INTERPRETED", False)
    monkeypatch.setattr(tiles, "_fastest", {})
    monkeypatch.delenv(tiles.TUNING_VARIABLE, raising=False)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[RowTiling, float]:
    """What timing a tiling gives. To time one, and to record a graph, needs a GPU."""
    times = {LARGE: 3.0, MIDDLE: 1.0, SMALL: 2.0}

    def do_bench(run: Callable[[], RowTiling], **_: Any) -> float:
        return times[run()]

    monkeypatch.setattr("triton.testing.do_bench", do_bench)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return times


def test_the_fastest_is_found_once_for_each_shape(seconds: dict[RowTiling, float]) -> None:
    kernel = Kernel()
    assert run_fastest("shape", torch.bfloat16, CANDIDATES, kernel) == MIDDLE
    assert kernel.ran == [LARGE, MIDDLE, SMALL, MIDDLE]
    seconds[LARGE] = 0.0
    assert run_fastest("shape", torch.bfloat16, CANDIDATES, kernel) == MIDDLE
    assert len(kernel.ran) == 5
    assert run_fastest("another shape", torch.bfloat16, CANDIDATES, kernel) == LARGE


@pytest.mark.usefixtures("seconds")
def test_float32_has_tilings_of_its_own() -> None:
    assert run_fastest("shape", torch.float32, CANDIDATES, Kernel()) == SMALL


@pytest.mark.usefixtures("seconds")
def test_those_that_do_not_fit_are_passed_over() -> None:
    assert run_fastest("shape", torch.bfloat16, CANDIDATES, Kernel(MIDDLE)) == SMALL


def test_without_tuning_the_first_that_fits_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tiles.TUNING_VARIABLE, "0")
    kernel = Kernel(LARGE)
    assert run_fastest("shape", torch.float16, CANDIDATES, kernel) == MIDDLE
    assert kernel.ran == [MIDDLE]


def test_nothing_is_timed_while_a_graph_is_recorded(
    seconds: dict[RowTiling, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds.clear()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert run_fastest("shape", torch.float16, CANDIDATES, Kernel()) == LARGE


@pytest.mark.usefixtures("seconds")
@pytest.mark.parametrize("tune", ["0", "1"])
def test_a_gpu_too_small_for_any_is_told_of(tune: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tiles.TUNING_VARIABLE, tune)
    with pytest.raises(OpInputError, match="too little shared memory for the triton backend; use backend 'dense'"):
        run_fastest("shape", torch.float16, CANDIDATES, Kernel(LARGE, MIDDLE, SMALL))
