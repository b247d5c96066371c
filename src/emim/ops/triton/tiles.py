"""Tiling of the kernels: tile sizes, warps and stages, and the choice among them for each shape.

On a GPU the first call with a new shape times every candidate and keeps the fastest for the life of the process,
unless EMIM_OPS_TUNE=0 is set: then the first that fits the GPU is taken, the same in every process. (Tilings differ in
the order of sums, so in the last bits of results.) Triton's interpreter gets one fixed choice, as times mean nothing
there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

import torch
import triton
from triton.runtime.errors import OutOfResources

from emim.errors import OpInputError

__all__ = [
    "FORWARD",
    "INTERPRETED",
    "KEYS",
    "MOTION",
    "MOTION_AFFINITY",
    "MOTION_WEIGHTS",
    "QUERIES",
    "TUNING_VARIABLE",
    "AnyTiling",
    "Candidates",
    "Program",
    "Result",
    "RowTiling",
    "Tiling",
    "run_fastest",
]

TUNING_VARIABLE: Final = "EMIM_OPS_TUNE"

INTERPRETED: Final = not isinstance(triton.language.sum, triton.JITFunction)
"""True if Triton was imported with its interpreter on: kernels then run on the CPU, slowly."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """Launch parameters of a program.

    Attributes:
        warps: of 32 threads.
        stages: how many turns of its loop are under way at once.
    """

    warps: int
    stages: int

    @property
    def options(self) -> dict[str, Any]:
        """Of a launch. Fusing products and sums is Triton's default so far, but will not stay it."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


@dataclass(frozen=True)
class Tiling(Program):
    """One way to cut up cost-volume attention.

    Attributes:
        height, width: positions of a tile; their product is at least 16, for the tensor cores.
        reach: positions of a part of the halo, about; at least 16.
    """

    height: int
    width: int
    reach: int

    def halo(self, window: tuple[int, int]) -> dict[str, int]:
        """The kernels' constants of size for a window of this height and width."""
        columns = triton.next_power_of_2(self.width + window[1] - 1)
        rows = max(1, self.reach // columns)
        return {
            "TY": self.height,
            "TX": self.width,
            "HX": columns,
            "KR": rows,
            "PARTS": triton.cdiv(self.height + window[0] - 1, rows),
        }

    def tiles(self, H: int, W: int) -> tuple[int, int]:
        """Tiles in a row, and in a frame."""
        across = triton.cdiv(W, self.width)
        return across, across * triton.cdiv(H, self.height)


@dataclass(frozen=True)
class RowTiling(Program):
    """One way to cut up the motion MLP.

    Attributes:
        rows: of the affinity in a tile; at least 16, for the tensor cores.
        chunk: hidden units that are computed at a time; a power of two from 16 to 128.
    """

    rows: int
    chunk: int

    def constants(self, hidden: int) -> dict[str, int]:
        """The kernels' constants of size for this number of hidden units."""
        return {"ROWS": self.rows, "CHUNK": self.chunk, "CHUNKS": triton.cdiv(hidden, self.chunk)}


AnyTiling = TypeVar("AnyTiling", Tiling, RowTiling)


@dataclass(frozen=True)
class Candidates(Generic[AnyTiling]):
    """The tilings of one kernel.

    Attributes:
        tensor_cores: for float16 and bfloat16.
        float32: whose products run outside the tensor cores and need far more registers.
        interpreted: the one for Triton's interpreter.
    """

    tensor_cores: tuple[AnyTiling, ...]
    float32: tuple[AnyTiling, ...]
    interpreted: AnyTiling

    def of(self, dtype: torch.dtype) -> tuple[AnyTiling, ...]:
        """Return the candidates for factors of this dtype."""
        return self.float32 if dtype == torch.float32 else self.tensor_cores


_WINDOWS: Final = (
    Tiling(8, 8, 32, warps=4, stages=3),
    Tiling(8, 8, 32, warps=4, stages=2),
    Tiling(8, 8, 32, warps=8, stages=2),
    Tiling(4, 8, 32, warps=4, stages=3),
    Tiling(4, 8, 32, warps=8, stages=2),
    Tiling(4, 16, 32, warps=4, stages=3),
    Tiling(8, 16, 32, warps=8, stages=3),
)
_WINDOWS_FLOAT32: Final = (
    Tiling(4, 8, 32, warps=8, stages=1),
    Tiling(4, 8, 16, warps=8, stages=2),
    Tiling(4, 4, 16, warps=4, stages=2),
    Tiling(4, 4, 16, warps=4, stages=1),
)
_WINDOWS_INTERPRETED: Final = Tiling(8, 8, 64, warps=4, stages=1)

_ROWS: Final = (
    RowTiling(128, 64, warps=8, stages=2),
    RowTiling(64, 64, warps=4, stages=2),
    RowTiling(64, 32, warps=4, stages=3),
    RowTiling(128, 32, warps=4, stages=3),
    RowTiling(256, 32, warps=8, stages=2),
    RowTiling(32, 32, warps=4, stages=2),
)
_ROWS_OF_WEIGHTS: Final = (
    RowTiling(64, 32, warps=4, stages=3),
    RowTiling(64, 32, warps=4, stages=2),
    RowTiling(64, 64, warps=4, stages=2),
    RowTiling(64, 128, warps=8, stages=2),
    RowTiling(32, 64, warps=4, stages=2),
    RowTiling(32, 32, warps=4, stages=2),
)
_ROWS_FLOAT32: Final = (
    RowTiling(64, 32, warps=8, stages=1),
    RowTiling(32, 32, warps=8, stages=1),
    RowTiling(32, 32, warps=4, stages=1),
    RowTiling(32, 16, warps=4, stages=2),
    RowTiling(16, 16, warps=4, stages=1),
)
_ROWS_INTERPRETED: Final = RowTiling(64, 64, warps=4, stages=1)

# All of these compile for compute capability 8.0 and 9.0. On 9.0, with Triton 3.7 and UniFormer's shapes, none spills
# more than 40 bytes a thread; larger tiles spill hundreds (benchmarks/compile_for_gpu.py prints the figures).
FORWARD: Final = Candidates((*_WINDOWS, Tiling(8, 8, 64, warps=8, stages=2)), _WINDOWS_FLOAT32, _WINDOWS_INTERPRETED)
QUERIES: Final = Candidates((*_WINDOWS, Tiling(8, 8, 64, warps=8, stages=2)), _WINDOWS_FLOAT32, _WINDOWS_INTERPRETED)
KEYS: Final = Candidates(_WINDOWS, _WINDOWS_FLOAT32, _WINDOWS_INTERPRETED)
MOTION: Final = Candidates(_ROWS, _ROWS_FLOAT32, _ROWS_INTERPRETED)
MOTION_AFFINITY: Final = Candidates(_ROWS, _ROWS_FLOAT32, _ROWS_INTERPRETED)
MOTION_WEIGHTS: Final = Candidates(_ROWS_OF_WEIGHTS, _ROWS_FLOAT32, _ROWS_INTERPRETED)


Result = TypeVar("Result")

_fastest: dict[Hashable, Any] = {}


def run_fastest(
    key: Hashable, dtype: torch.dtype, candidates: Candidates[AnyTiling], run: Callable[[AnyTiling], Result]
) -> Result:
    """Run with the fastest tiling for this key, found by trial on the first call.

    Args:
        key: what the time depends on: kernel, sizes, dtypes, device.
        dtype: of the factors of products.
        candidates: the tilings of the kernel.
        run: launches the kernel; may be called many times, so it must write all of its results anew.

    Returns:
        What `run` returned.

    Raises:
        OpInputError: the GPU has too little shared memory for any tiling.
    """
    if INTERPRETED:
        return run(candidates.interpreted)
    if key in _fastest:
        return run(_fastest[key])
    # Nothing can be timed while a CUDA graph is recorded.
    if os.environ.get(TUNING_VARIABLE) != "0" and not torch.cuda.is_current_stream_capturing():
        _fastest[key] = _find_fastest(candidates.of(dtype), run)
        return run(_fastest[key])
    for tiling in candidates.of(dtype):
        try:
            return run(tiling)
        except OutOfResources:
            continue
    raise _too_small()


def _find_fastest(candidates: tuple[AnyTiling, ...], run: Callable[[AnyTiling], object]) -> AnyTiling:
    times: dict[AnyTiling, float] = {}
    for tiling in candidates:
        try:
            times[tiling] = float(triton.testing.do_bench(partial(run, tiling), warmup=5, rep=20))
        except OutOfResources:
            continue
    if not times:
        raise _too_small()
    return min(times, key=lambda tiling: times[tiling])


def _too_small() -> OpInputError:
    return OpInputError("this GPU has too little shared memory for the triton backend; use backend 'dense'")
