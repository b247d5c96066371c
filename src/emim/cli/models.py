"""`emim models`: the networks that can be built, and the model that comes with the package."""

from __future__ import annotations

import argparse
from typing import Any

from emim.cli.console import SubParsers, check_folder, give_result, print_table
from emim.cli.options import add_result_options, examples

__all__ = ["add_parser", "run"]


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the parser of this command."""
    parser = subparsers.add_parser(
        "models",
        parents=[common],
        help="list the networks",
        description=(
            "List the networks with their parameters, depths and widths, the clips that the recipes of the package "
            "train them on, and the trained model that comes with the package."
        ),
        epilog=examples("emim models", "emim models --json", note="Choose one with the key model.name of a recipe."),
    )
    add_result_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    check_folder(args.output)
    found = describe_models()
    if not args.json:
        print_models(found)
    give_result(args, lambda: found)
    return 0


def describe_models() -> dict[str, Any]:
    """The networks and the bundled model, as plain values for JSON."""
    import torch

    from emim.models.registry import ARCHITECTURES, DEFAULT_NUM_CLASSES, create_model, list_models
    from emim.models.trained_model import BUNDLED, BUNDLED_PATH, read_card
    from emim.training.recipe import load_recipe, recipe_folder

    recipes: dict[str, list[dict[str, Any]]] = {name: [] for name in list_models()}
    for file in sorted(recipe_folder().glob("*.yaml")):
        config = load_recipe(file)
        pre = config.preprocessing
        recipes[config.model.name].append({"name": file.stem, "num_frames": pre.num_frames, "size": pre.size})
    networks = []
    for name in list_models():
        with torch.device("meta"):
            model = create_model(name, DEFAULT_NUM_CLASSES)
        arguments = ARCHITECTURES[name].arguments
        networks.append(
            {
                "name": name,
                "summary": ARCHITECTURES[name].summary,
                "emim": arguments["emim"],
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "depths": list(arguments["depths"]),
                "widths": list(arguments["widths"]),
                "recipes": recipes[name],
            }
        )
    bundled = None
    if BUNDLED_PATH.is_file():
        card = read_card(BUNDLED_PATH)
        pre_ = card.preprocessing
        bundled = {
            "name": BUNDLED,
            "network": card.model,
            "classes": list(card.classes),
            "num_frames": pre_.get("num_frames"),
            "size": pre_.get("size"),
            "metrics": dict(card.metrics),
        }
    return {"num_classes": DEFAULT_NUM_CLASSES, "networks": networks, "bundled": bundled}


def print_models(found: dict[str, Any]) -> None:
    """The table of networks, then the bundled model."""
    rows = []
    for network in found["networks"]:
        trained_on = sorted({(recipe["num_frames"], recipe["size"]) for recipe in network["recipes"]})
        rows.append(
            (
                network["name"],
                "yes" if network["emim"] else "no",
                f"{network['parameters'] / 1e6:.2f} M",
                "-".join(map(str, network["depths"])),
                "-".join(map(str, network["widths"])),
                ", ".join(f"{frames} x {size}" for frames, size in trained_on) or "-",
            )
        )
    header = ("network", "EMIM", "parameters", "depths", "widths", "frames x pixels of recipes")
    print_table(f"Networks (parameters with a head of {found['num_classes']} classes)", header, rows)
    for network in found["networks"]:
        print(f"{network['name']}: {network['summary']}")
        if network["recipes"]:
            print(f"  recipes: {', '.join(recipe['name'] for recipe in network['recipes'])}")
    if (bundled := found["bundled"]) is not None:
        print(
            f"\n{bundled['name']}: {bundled['network']} trained on {len(bundled['classes'])} generated motions, "
            f"{bundled['num_frames']} frames of {bundled['size']} pixels; used where no --checkpoint is given"
        )
