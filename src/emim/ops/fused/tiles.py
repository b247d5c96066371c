"""How the kernels cut their work up: tile sizes, warps and stages, and the choice among them for each shape.

On a GPU the first call with a new shape times every candidate and keeps the fastest for the life of the process.
Triton's interpreter gets one fixed choice, as times mean nothing there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

import torch
import triton
from triton.runtime.errors import OutOfResources

from emim.errors import OpInputError

INTERPRETED: Final = bool(triton.knobs.runtime.interpret) if hasattr(triton, "knobs") else False
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


CANDIDATES: Final = (
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
"""The first is a fair choice for most shapes. Larger tiles than these spill registers when compiled for Hopper."""
WHEN_INTERPRETED: Final = Tiling(8, 8, 64, warps=4, stages=1)

_fastest: dict[Hashable, Tiling] = {}


def run_fastest(key: Hashable, run: Callable[[Tiling], torch.Tensor | None]) -> torch.Tensor | None:
    """Run with the fastest tiling for this key, found by trial on the first call.

    Args:
        key: what the time depends on: kernel, sizes, dtypes, device.
        run: launches the kernel; may be called many times, so it must write all of its outputs anew.

    Returns:
        What `run` returned.

    Raises:
        OpInputError: the GPU has too little shared memory for any tiling.
    """
    if INTERPRETED:
        return run(WHEN_INTERPRETED)
    if key not in _fastest:
        if torch.cuda.is_current_stream_capturing():
            return run(CANDIDATES[0])  # nothing can be timed while a CUDA graph is recorded
        _fastest[key] = _time(run)
    return run(_fastest[key])


def _time(run: Callable[[Tiling], torch.Tensor | None]) -> Tiling:
    times: dict[Tiling, float] = {}
    for tiling in CANDIDATES:
        try:
            times[tiling] = float(triton.testing.do_bench(lambda tiling=tiling: run(tiling), warmup=5, rep=20))
        except OutOfResources:
            continue
    if not times:
        raise OpInputError("this GPU has too little shared memory for the fused backend; use backend 'dense'")
    return min(times, key=lambda tiling: times[tiling])
