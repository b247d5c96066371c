"""`emim bench`: speed of the parts of the package on this machine; one module for each part."""

from __future__ import annotations

import argparse
from typing import Any

from emim.cli.bench import loader, model, op, predict, scaling, train
from emim.cli.console import SubParsers
from emim.cli.options import SETTINGS, examples

_PARTS = (op, model, train, predict, scaling, loader)


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "bench",
        help="measure speed on this machine",
        description="Measure the speed of parts of the package on this machine.",
        epilog=examples("emim bench op --quick", "emim bench loader --data mine --recipe finetune"),
    )
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    commands = _Parts(parts)
    for part in _PARTS:
        part.add_parser(commands, common)


class _Parts:
    """Subparsers with the settings of all commands."""

    def __init__(self, subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        self._subparsers = subparsers

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        return self._subparsers.add_parser(name, **SETTINGS, **options)
