"""How the kernels cut their work up: tile sizes, warps and stages, and the choice among them for each shape.

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
from typing import Final, TypeVar

import torch
import triton
from triton.runtime.errors import OutOfResources

from emim.errors import OpInputError

TUNING_VARIABLE: Final = "EMIM_OPS_TUNE"

INTERPRETED: Final = not isinstance(triton.language.sum, triton.JITFunction)
"""Whether Triton ran in its interpreter when it was imported: kernels then run on the CPU, slowly."""


@dataclass(frozen=True)
class Tiling:
    """One way to cut up the work.

    Attributes:
        height, width: positions of a tile; their product is at least 16, for the tensor cores.
        reach: positions of a part of the halo, about; at least 16.
        warps, stages: of a program.
    """

    height: int
    width: int
    reach: int
    warps: int
    stages: int

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


FOR_TENSOR_CORES: Final = (
    Tiling(8, 8, 32, warps=4, stages=3),
    Tiling(8, 8, 32, warps=4, stages=2),
    Tiling(8, 8, 64, warps=4, stages=2),
    Tiling(8, 8, 64, warps=8, stages=2),
    Tiling(4, 8, 32, warps=4, stages=3),
    Tiling(4, 8, 32, warps=8, stages=2),
    Tiling(4, 16, 32, warps=4, stages=3),
    Tiling(8, 16, 32, warps=8, stages=3),
    Tiling(8, 16, 64, warps=8, stages=2),
    Tiling(16, 16, 32, warps=8, stages=2),
)
"""For float16 and bfloat16. Larger tiles than these spill registers when compiled for Hopper."""

FOR_FLOAT32: Final = (
    Tiling(4, 8, 32, warps=8, stages=1),
    Tiling(4, 8, 16, warps=8, stages=2),
    Tiling(4, 4, 16, warps=4, stages=2),
    Tiling(4, 4, 16, warps=4, stages=1),
)
"""Float32 products run outside the tensor cores and need far more registers."""

WHEN_INTERPRETED: Final = Tiling(8, 8, 64, warps=4, stages=1)

Result = TypeVar("Result")

_fastest: dict[Hashable, Tiling] = {}


def run_fastest(key: Hashable, dtype: torch.dtype, run: Callable[[Tiling], Result]) -> Result:
    """Run with the fastest tiling for this key, found by trial on the first call.

    Args:
        key: what the time depends on: kernel, sizes, dtypes, device.
        dtype: of the factors of products.
        run: launches the kernel; may be called many times, so it must write all of its results anew.

    Returns:
        What `run` returned.

    Raises:
        OpInputError: the GPU has too little shared memory for any tiling.
    """
    if INTERPRETED:
        return run(WHEN_INTERPRETED)
    candidates = FOR_FLOAT32 if dtype == torch.float32 else FOR_TENSOR_CORES
    if key in _fastest:
        return run(_fastest[key])
    # Nothing can be timed while a CUDA graph is recorded.
    if os.environ.get(TUNING_VARIABLE) != "0" and not torch.cuda.is_current_stream_capturing():
        _fastest[key] = _find_fastest(candidates, run)
        return run(_fastest[key])
    for tiling in candidates:
        try:
            return run(tiling)
        except OutOfResources:
            continue
    raise _too_small()


def _find_fastest(candidates: tuple[Tiling, ...], run: Callable[[Tiling], object]) -> Tiling:
    times: dict[Tiling, float] = {}
    for tiling in candidates:
        try:
            times[tiling] = float(triton.testing.do_bench(partial(run, tiling), warmup=5, rep=20))
        except OutOfResources:
            continue
    if not times:
        raise _too_small()
    return min(times, key=lambda tiling: times[tiling])


def _too_small() -> OpInputError:
    return OpInputError("this GPU has too little shared memory for the fused backend; use backend 'dense'")
