"""`emim bench model`: the forward pass of whole networks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from emim.cli.bench.options import add_clip, add_common, add_peers, clip_of, dtypes, numbers, settings_of
from emim.cli.bench.tables import print_report
from emim.cli.console import SubParsers, give_result, say

if TYPE_CHECKING:
    from emim.bench.report import Row

_QUICK_PEERS = ["emim", "unfold", "plain"]


def add_parser(parts: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = parts.add_parser(
        "model",
        parents=[common],
        help="prediction of whole networks",
        description=(
            "Time the forward pass of UniFormer with EMIM for one clip and for batches, beside the published semantics "
            "with unfold, the plain UniFormer and VideoMAE, and count their arithmetic."
        ),
    )
    add_clip(parser)
    parser.add_argument("--batch", type=numbers, metavar="N,N,...", help="clips of a pass (default 1,8)")
    parser.add_argument(
        "--dtype", type=dtypes, metavar="NAME,NAME,...",
        help="float32, or the format of autocast (default: float32, and bfloat16 where the machine computes in it)",
    )  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="each network under torch.compile, too")
    add_peers(parser)
    add_common(parser, repeats=(5, 3), warmup=1, quick="one clip, three networks, fewer rounds, without memory")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from emim.bench.model import bench_model
    from emim.bench.settings import native_bfloat16

    settings = settings_of(args)
    native = ["float32", "bfloat16"] if native_bfloat16(settings) else ["float32"]
    report = bench_model(
        clip_of(args),
        settings,
        peers=args.peers or (_QUICK_PEERS if args.quick else None),
        batches=args.batch or ([1] if args.quick else [1, 8]),
        precisions=args.dtype or native,
        compiled=args.compile,
        memory=not (args.no_memory or args.quick),
        progress=say,
    )
    if args.json:
        give_result(args, report.to_dict)
        return 0
    problem = report.problem
    print(f"UniFormer {problem['network']}, clips of {problem['frames']} x {problem['size']} x {problem['size']}")
    columns = [("GMAC", _needed), ("GMAC, dense", _dense)]
    if args.compile:
        columns.append(("first call s", _first_call))
    print_report(report, _title, *columns)
    print("GMAC: multiply-adds of a clip that the network is defined by; dense: that the dense backend computes")
    give_result(args, report.to_dict)
    return 0


def _title(conditions: Mapping[str, Any]) -> str:
    batch = conditions["batch"]
    return "One clip" if batch == 1 else f"Batches of {batch}, times per clip"


def _needed(row: Row) -> str:
    return f"{row.facts['multiply_adds_per_clip']['needed'] / 1e9:.1f}"


def _dense(row: Row) -> str:
    return f"{row.facts['multiply_adds_per_clip']['dense'] / 1e9:.1f}"


def _first_call(row: Row) -> str:
    seconds = row.facts.get("first_call_seconds")
    return "-" if seconds is None else f"{seconds:.1f}"
