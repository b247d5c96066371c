"""`emim models`: the networks that can be built."""

from __future__ import annotations

import argparse

from emim.cli.console import SubParsers, print_table


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "models",
        parents=[common],
        help="list the networks",
        description="List the networks, with their sizes.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    del args
    import torch

    from emim.models.registry import ARCHITECTURES, create_model, list_models

    rows = []
    for name in list_models():
        with torch.device("meta"):
            model = create_model(name)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        depths = "-".join(map(str, ARCHITECTURES[name].arguments["depths"]))
        rows.append((name, ARCHITECTURES[name].summary, depths, f"{parameters / 1e6:.2f} M"))
    print_table("Networks (parameters with a head of 400 classes)", ("name", "what", "depths", "parameters"), rows)
    return 0
