"""`emim bench`: how long the parts of the package take on this machine; one module for each part."""

from __future__ import annotations

import argparse

from emim.cli.bench import loader, model, op, predict, scaling, train
from emim.cli.console import SubParsers

_PARTS = (op, model, train, predict, scaling, loader)


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "bench", help="measure speed on this machine", description="Measure how long parts of the package take here."
    )
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    for part in _PARTS:
        part.add_parser(parts, common)
