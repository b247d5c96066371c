"""`emim bench train`: one training step of whole networks."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from emim.cli.bench.options import add_clip, add_common, add_peers, clip_of, settings_of
from emim.cli.bench.tables import print_report, times
from emim.cli.console import SubParsers, give_result, say
from emim.cli.options import POSITIVE

if TYPE_CHECKING:
    from emim.bench.report import Row

_QUICK_PEERS = ["emim", "unfold", "plain"]


def add_parser(parts: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = parts.add_parser(
        "train",
        parents=[common],
        help="training steps of whole networks",
        description=(
            "Time a training step (forward, cross-entropy with soft targets, backward, AdamW) and its peak memory. On "
            "CPUs the default clips have 8 frames, on GPUs they are the published 16 x 224 x 224."
        ),
    )
    add_clip(parser)
    parser.add_argument("--batch", type=POSITIVE, default=1, help="clips of a step (default 1)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="format of autocast (default float32: none)"
    )
    add_peers(parser)
    add_common(parser, repeats=(5, 2), warmup=1, quick="three networks, clips of 4 x 112 x 112, fewer rounds")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from emim.bench.train import bench_train

    settings = settings_of(args)
    frames, size = (4, 112) if args.quick else (16, 224) if settings.on_gpu else (8, 224)
    report = bench_train(
        clip_of(args, frames=frames, size=size),
        settings,
        peers=args.peers or (_QUICK_PEERS if args.quick else None),
        batch=args.batch,
        precision=args.dtype,
        memory=not args.no_memory,
        progress=say,
    )
    if args.json:
        give_result(args, report.to_dict)
        return 0
    problem = report.problem
    print(
        f"UniFormer {problem['network']}, {problem['batch']} x {problem['frames']} x {problem['size']} x "
        f"{problem['size']}, {problem['precision']}"
    )
    print_report(report, lambda conditions: "One training step", ("peak / emim", _peak_over))
    print("peak: activations, gradients and temporaries; weights and AdamW's state come on top")
    give_result(args, report.to_dict)
    return 0


def _peak_over(row: Row) -> str:
    return times(row.facts["peak_over"].get("emim"))
