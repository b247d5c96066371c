"""Shared by the scripts that measure whole networks: options of the clip, and errors as one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from emim.errors import EmimError
from networks import ClipProblem


def add_clip(parser: argparse.ArgumentParser) -> None:
    """Add the options of network and clip size."""
    parser.add_argument("--network", choices=("tiny", "small", "base"), help="size of the UniFormer (default small)")
    parser.add_argument("--frames", type=int, help="frames of a clip")
    parser.add_argument("--size", type=int, help="height and width of a clip in pixels")


def clip_of(args: argparse.Namespace, *, frames: int = 16, size: int = 224) -> ClipProblem:
    """Return the clip of the options of `add_clip`, with these sizes as defaults."""
    return ClipProblem(args.network or "small", args.frames or frames, args.size or size)


def run_script(main: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser) -> int:
    """Parse the arguments and run `main`; an error of emim is one line on standard error and exit status 1."""
    try:
        return main(parser.parse_args())
    except EmimError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
