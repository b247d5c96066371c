"""Options that the parts of `emim bench` share, and the settings made of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from emim.cli.options import NATURAL, Numbers, add_option, add_result_options, json_with_file

if TYPE_CHECKING:
    from emim.bench.networks import ClipProblem
    from emim.bench.settings import Settings

DTYPES = ("float32", "bfloat16", "float16")


def add_common(parser: argparse.ArgumentParser, *, repeats: tuple[int, int], warmup: int, quick: str) -> None:
    """Options of every part that times candidates in turn.

    Args:
        parser: of the part.
        repeats: rounds that count, and with --quick.
        warmup: rounds before them.
        quick: what --quick measures.
    """
    parser.add_argument("--quick", action="store_true", help=f"{quick}; options given explicitly still hold")
    add_option(parser, "--repeats", f"default: {repeats[0]}, with --quick {repeats[1]}")
    parser.add_argument(
        "--warmup",
        type=NATURAL,
        metavar="N",
        default=warmup,
        help=f"rounds before them, not counted (default: {warmup})",
    )
    add_option(parser, "--threads", "default: as PyTorch chooses")
    add_option(parser, "--device", "default: cpu", default="cpu")
    parser.add_argument(
        "--no-memory", action="store_true", help="do not measure peak memory, which needs a process each"
    )
    add_result_options(parser, "the result as JSON, with every single time")
    json_with_file(parser)
    parser.set_defaults(default_repeats=repeats)


def add_peers(parser: argparse.ArgumentParser) -> None:
    """The option that chooses candidates."""
    parser.add_argument(
        "--peers", type=names, metavar="NAME,NAME,...",
        help="candidates to run beside the one that all are compared with (default all; a wrong name lists them)",
    )  # fmt: skip


def add_clip(parser: argparse.ArgumentParser) -> None:
    """Options of the task of whole networks."""
    parser.add_argument("--network", choices=("tiny", "small", "base"), help="size of the UniFormer (default small)")
    add_option(parser, "--frames")
    add_option(parser, "--size")


def settings_of(args: argparse.Namespace) -> Settings:
    """How to run, from the options of `add_common`."""
    import torch

    from emim.bench.settings import Settings

    repeats = args.repeats or args.default_repeats[args.quick]
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Settings(repeats, args.warmup, args.threads or torch.get_num_threads(), device)


def clip_of(args: argparse.Namespace, *, frames: int = 16, size: int = 224) -> ClipProblem:
    """The task, from the options of `add_clip`, with these sizes where none was given."""
    from emim.bench.networks import ClipProblem

    return ClipProblem(args.network or "small", args.frames or frames, args.size or size)


def names(text: str) -> list[str] | None:
    """An argument that is a list of names, or "all"."""
    listed = [name.strip() for name in text.split(",") if name.strip()]
    if not listed:
        raise argparse.ArgumentTypeError("must be names with commas between, or all")
    return None if listed == ["all"] else listed


numbers = Numbers(1, 1_000_000)
"""Argument type: a list of whole numbers of at least 1."""


def dtypes(text: str) -> Sequence[str]:
    """An argument that is a list of number formats."""
    listed = [name.strip() for name in text.split(",")]
    if unknown := [name for name in listed if name not in DTYPES]:
        raise argparse.ArgumentTypeError(f"known are {', '.join(DTYPES)}, got {unknown[0]!r}")
    return listed
