"""`emim bench op`: cost-volume attention alone, beside alternatives."""

from __future__ import annotations

import argparse

from emim.cli.bench.options import DTYPES, add_common, add_peers, settings_of
from emim.cli.bench.tables import print_report
from emim.cli.console import SubParsers, check_folder, give_result, say
from emim.cli.options import POSITIVE, add_option, examples, file_path

_SIZES = (
    ("batch", "clips", 1),
    ("heads", "attention heads", 5),
    ("height", "rows of tokens of a frame", 14),
    ("width", "tokens of a row", 14),
    ("head-width", "channels of a head", 64),
    ("window", "window, odd", 7),
)


def add_parser(parts: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = parts.add_parser(
        "op",
        parents=[common],
        help="cost-volume attention alone",
        description=(
            "Time cost-volume attention, forward and with its gradients, beside an implementation with unfold, "
            "libraries, and bare matrix products. The sizes are those of UniFormer-S at 16 x 224 x 224."
        ),
        epilog=examples(
            "emim bench op --quick", "emim bench op --dtype bfloat16 --peers unfold,dense --output op.json"
        ),
    )
    for name, meaning, default in _SIZES:
        parser.add_argument(
            f"--{name}", type=POSITIVE, metavar="N", default=default, help=f"{meaning} (default: {default})"
        )
    add_option(parser, "--frames", "default: 16", default=16)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="number format (default: float32)")
    parser.add_argument(
        "--layout", choices=("contiguous", "projection"), default="contiguous",
        help="q, k and v as tensors of their own, or as views of one projection, as the EMIM module has them",
    )  # fmt: skip
    parser.add_argument(
        "--published-source", type=file_path, metavar="FOLDER",
        help="folder nat_with_rpb of the published code, whose CUDA kernels are then built and measured",
    )  # fmt: skip
    add_peers(parser)
    add_common(parser, repeats=(15, 5), warmup=2, quick="fewer rounds, without memory")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from emim.bench.op import bench_op
    from emim.bench.peers.problem import OpProblem

    problem = OpProblem(
        args.batch, args.heads, args.frames, args.height, args.width, args.head_width, args.window, args.dtype,
        args.layout,
    )  # fmt: skip
    check_folder(args.output)
    report = bench_op(
        problem,
        settings_of(args),
        peers=args.peers,
        memory=not (args.no_memory or args.quick),
        published_source=args.published_source,
        progress=say,
    )
    if args.json:
        give_result(args, report.to_dict)
        return 0
    print(
        f"{problem.batch} x {problem.frames} frames of {problem.height} x {problem.width} tokens, "
        f"{problem.heads} heads of {problem.head_width}, window {problem.window}, {problem.dtype}, {problem.layout}"
    )
    print_report(report, lambda conditions: f"The operator, {conditions['pass']}")
    give_result(args, report.to_dict)
    return 0
