"""Time of cost-volume attention on this machine: reference, unfold-based, dense.

    python benchmarks/op.py [--threads 2] [--repeats 15] [--json FILE]

Shapes are those of UniFormer-S at 16 x 224 x 224: 16 frames of 14 x 14 tokens, 5 heads of 64, window 7. All
candidates are run in turn within each repeat, and medians are compared, so that a change in the machine's speed
meets all of them alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from emim.ops import cost_volume_attention
from emim.ops.constants import PAD_VALUE

B, N, T, H, W, D, M = 1, 5, 16, 14, 14, 64, 7
Op = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def unfold_based(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> tuple[Tensor, Tensor]:
    """The same values by copying every key's and value's neighbourhood, as a plain implementation does."""
    query = torch.cat([q[:, :, :-1], q[:, :, T - 2 : T - 1]], 2).reshape(B * N * T, H * W, D) * D**-0.5
    following = [torch.cat([x[:, :, 1:], x[:, :, T - 1 :]], 2) for x in (k, v)]
    margin = (M // 2,) * 4
    neighbours = [
        F.unfold(F.pad(x.reshape(B * N * T, H, W, D).permute(0, 3, 1, 2), margin, value=PAD_VALUE), M)
        .view(B * N * T, D, M * M, H * W)
        .permute(0, 3, 2, 1)
        for x in following
    ]
    raw = (query[:, :, None, :] * neighbours[0]).sum(-1).view(B, N, T, H, W, M * M)
    affinity = raw + rpb.view(1, N, 1, 1, 1, M * M)
    weight = affinity.softmax(-1).view(B * N * T, H * W, M * M, 1)
    return (weight * neighbours[1]).sum(2).view(B, N, T, H, W, D), affinity


def by_backend(backend: str) -> Op:
    def op(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> tuple[Tensor, Tensor]:
        return cost_volume_attention(q, k, v, rpb, backend=backend, return_affinity=True)

    return op


def bare_products(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor) -> tuple[Tensor, Tensor]:
    """The two batched matrix products of the dense backend's size and nothing else: a floor, not an attention."""
    del rpb
    q, k, v = (x.reshape(B * N * T, H * W, D) for x in (q, k, v))
    pairs = q @ k.transpose(1, 2)
    return pairs @ v, pairs


CANDIDATES: dict[str, Op] = {
    "reference": by_backend("reference"),
    "unfold": unfold_based,
    "dense": by_backend("dense"),
    "bare products": bare_products,
}


def measure(op: Op, inputs: list[Tensor], *, backward: bool) -> float:
    leaves = [x.clone().requires_grad_(backward) for x in inputs]
    start = time.perf_counter()
    with torch.set_grad_enabled(backward):
        context, affinity = op(*leaves)
        if backward:
            (context.sum() + affinity.sum()).backward()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    inputs = [*(torch.randn(B, N, T, H, W, D) for _ in range(3)), torch.randn(N, M, M)]

    expected = CANDIDATES["reference"](*inputs)
    for name in ("unfold", "dense"):
        torch.testing.assert_close(CANDIDATES[name](*inputs), expected, rtol=1e-4, atol=1e-4)

    times: dict[tuple[str, bool], list[float]] = {(name, b): [] for name in CANDIDATES for b in (False, True)}
    for repeat in range(args.warmup + args.repeats):
        for (name, backward), record in times.items():
            elapsed = measure(CANDIDATES[name], inputs, backward=backward)
            if repeat >= args.warmup:
                record.append(elapsed)

    medians = {key: statistics.median(record) for key, record in times.items()}
    print(f"{T} frames of {H} x {W} tokens, {N} heads of {D}, window {M}, float32, {args.threads} threads")
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, median of {args.repeats}\n")
    print(f"{'':14} {'forward':>12} {'over dense':>11} {'fwd + bwd':>12} {'over dense':>11}")
    for name in CANDIDATES:
        cells = [(medians[name, b], medians[name, b] / medians["dense", b]) for b in (False, True)]
        print(f"{name:14} " + " ".join(f"{ms:9.1f} ms {ratio:10.1f}x" for ms, ratio in cells))
    if args.json:
        rows = [{"op": n, "backward": b, "median_ms": medians[n, b], "ms": times[n, b]} for n, b in times]
        args.json.write_text(json.dumps({"threads": args.threads, "torch": torch.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
