"""Compile every kernel and tiling of the triton backend for GPUs that this machine need not have.

    python benchmarks/compile_for_gpu.py [--arch 90 80] [--dtype bfloat16 float32] [--kernel NAME ...] [--json FILE]

Triton brings the compiler that turns its kernels into machine code, so shared memory, registers and spills of each
tiling are known without running anything. Shapes are those of UniFormer-S at 16 x 224 x 224 unless given otherwise.
A tiling whose kernel needs more shared memory than the GPU has is marked, and passed over when the triton backend
tunes itself. Exits with 1 if a tiling does not compile or a kernel has none that fits.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # Triton reads it when it is imported

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from emim.ops.triton import cost_volume as launch
from emim.ops.triton import motion_mlp as motion_launch

SHARED_MEMORY = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024}
"""Bytes that one program can have, by compute capability (CUDA C++ programming guide, table of capabilities)."""

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Compiled:
    """One kernel in one tiling; `spills` in bytes per thread, `shared` in bytes per program."""

    kernel: str
    arch: int
    dtype: str
    tiling: str
    shared: int
    registers: int
    spills: int
    problem: str


@dataclass(frozen=True)
class Shape:
    """Of the queries and the window, as in `emim.ops.triton.cost_volume`."""

    B: int
    N: int
    T: int
    H: int
    W: int
    D: int
    I: int
    J: int


class NoGPU:
    """The part of a Triton driver that compiling needs."""

    def __init__(self, arch: int) -> None:
        self._target = GPUTarget("cuda", arch, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return self._target.arch

    def get_current_stream(self, device: int) -> int:
        del device
        return 0


class Launches:
    """What launching does while nothing can run: compile the kernel, or nothing at all."""

    compile = True
    last: Any = None


@contextmanager
def compiling_only(arch: int) -> Iterator[Launches]:
    """Within, launching a kernel compiles it instead."""
    launches = Launches()
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: object, warmup: bool, **options: object) -> object:
        del warmup
        launches.last = run(self, *args, warmup=True, **options) if launches.compile else None
        return launches.last

    JITFunction.run = compile_only
    driver.set_active(NoGPU(arch))
    try:
        yield launches
    finally:
        JITFunction.run = run


def resources(kernel: Any) -> tuple[int, int]:
    """Registers, and bytes spilled, per thread."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(kernel.asm["cubin"])
        told = subprocess.run([CUOBJDUMP, "--dump-resource-usage", path], capture_output=True, text=True, check=True)
    numbers = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", told.stdout)}
    return numbers["REG"], numbers["STACK"] + numbers["LOCAL"]


def describe(name: str, arch: int, dtype: str, tiling: str, kernel: Any, error: str) -> Compiled:
    if kernel is None:
        return Compiled(
            name, arch, dtype, tiling, shared=0, registers=0, spills=0, problem=f"does not compile: {error}"
        )
    registers, spills = resources(kernel)
    shared = kernel.metadata.shared
    problem = "" if shared <= SHARED_MEMORY[arch] else "does not fit"
    return Compiled(name, arch, dtype, tiling, shared, registers, spills, problem)


@contextmanager
def every_tiling(arch: int, dtype: str, wanted: list[str], report: Callable[[Compiled], None]) -> Iterator[None]:
    """Within, the triton backend compiles each kernel in every tiling instead of running it."""

    def compile_each(key: tuple[Any, ...], dtype_of_factors: torch.dtype, candidates: Any, run: Any) -> Any:
        name = str(key[0])
        result = None
        for tiling in candidates.of(dtype_of_factors):
            launches.compile = not wanted or name in wanted
            launches.last, reason = None, ""
            try:
                result = run(tiling)
            except Exception as error:  # of Triton's many compilers, to be told of
                reason = str(error).splitlines()[0]
            if launches.compile:
                report(describe(name, arch, dtype, str(tiling), launches.last, reason))
        if result is None:
            launches.compile = False
            result = run(tiling)
        return result

    originals = [(module, module.run_fastest) for module in (launch, motion_launch)]
    with compiling_only(arch) as launches:
        for module, _ in originals:
            module.run_fastest = compile_each
        try:
            yield
        finally:
            for module, original in originals:
                module.run_fastest = original


def call_everything(shape: Shape, dtype: torch.dtype) -> None:
    """Forward and backward of both ops, on tensors that have a shape but no memory."""
    B, N, T, H, W, D, I, J = (getattr(shape, name) for name in "BNTHWDIJ")
    q, k, v = torch.empty(B, T, H, W, 3, N, D, device="meta", dtype=dtype).permute(4, 0, 5, 1, 2, 3, 6)
    rpb = torch.empty(N, I, J, device="meta")
    context, affinity, lse = launch.forward(q, k, v, rpb, True)
    launch.backward(torch.empty_like(context), affinity, q, k, v, rpb, context, lse, True)
    P = I * J
    weight1, bias1 = torch.empty(4 * P, P, device="meta"), torch.empty(4 * P, device="meta")
    weight2, bias2 = torch.empty(D, 4 * P, device="meta"), torch.empty(D, device="meta")
    motion = motion_launch.forward(affinity, weight1, bias1, weight2, bias2, dtype)
    motion_launch.backward(torch.empty_like(motion), affinity, weight1, bias1, weight2, dtype, True, True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=[90, 80], choices=sorted(SHARED_MEMORY))
    parser.add_argument(
        "--dtype", nargs="+", default=["bfloat16", "float32"], choices=["bfloat16", "float16", "float32"]
    )
    parser.add_argument("--kernel", nargs="+", default=[], help="only these, by the names in the first column")
    parser.add_argument(
        "--shape", type=int, nargs=5, default=[32, 5, 16, 14, 14], metavar=tuple("BNTHW"), help="of the queries"
    )
    parser.add_argument("--width", type=int, default=64, help="head width")
    parser.add_argument("--window", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    shape = Shape(*args.shape, D=args.width, I=args.window, J=args.window)

    rows: list[Compiled] = []

    def report(row: Compiled) -> None:
        rows.append(row)
        print(
            f"{row.kernel:16} sm_{row.arch} {row.dtype:9} {row.tiling:62} {row.shared / 1024:6.1f} KiB "
            f"{row.registers:4} registers {row.spills:5} bytes spilled {row.problem}",
            flush=True,
        )

    print(f"triton {triton.__version__}, head width {args.width}, window {args.window} x {args.window}")
    for arch in args.arch:
        for dtype in args.dtype:
            with every_tiling(arch, dtype, args.kernel, report):
                call_everything(shape, getattr(torch, dtype))
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
    failed = [row for row in rows if row.problem.startswith("does not compile")]
    usable = {(row.kernel, row.arch, row.dtype) for row in rows if not row.problem}
    unusable = {(row.kernel, row.arch, row.dtype) for row in rows} - usable
    for kernel, arch, dtype in sorted(unusable):
        print(f"no tiling of {kernel} is usable on sm_{arch} in {dtype}", file=sys.stderr)
    return 1 if failed or unusable else 0


if __name__ == "__main__":
    sys.exit(main())
