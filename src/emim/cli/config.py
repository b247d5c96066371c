"""`emim config`: print the keys of a recipe with their types, ranges, defaults and descriptions."""

from __future__ import annotations

import argparse
import json
import sys

from emim.cli.console import SubParsers
from emim.errors import ConfigError
from emim.utils import is_file, is_folder


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "config",
        parents=[common],
        help="print every key of a recipe",
        description=(
            "Print every key of a recipe with its value, type, range and description, as YAML that can be saved, "
            "changed and trained with. Without a recipe the values are the defaults."
        ),
        epilog="Overrides change the values: `emim config ssv2_s16_k400 optim.lr=1e-3 > mine.yaml`.",
    )
    parser.add_argument("recipe", nargs="?", help="YAML file, or name of a recipe that comes with the package")
    parser.add_argument("--json", action="store_true", help="print one JSON object with an object for each key")
    parser.set_defaults(run=run, takes_overrides=True, overrides=[])


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    return print_config(args.recipe, args.overrides, as_json=args.json)


def print_config(recipe: str | None, overrides: list[str], *, as_json: bool = False) -> int:
    """Print a recipe (None: the defaults) with overrides on standard output; returns the exit status.

    Raises:
        ConfigError: no such recipe, an unknown key or a wrong value.
    """
    from emim.training.recipe import describe_keys, find_recipe, load_recipe, to_dict, to_yaml

    recipe, overrides = split_overrides(recipe, overrides)
    config = load_recipe(None if recipe is None else find_recipe(recipe), overrides)
    if not as_json:
        sys.stdout.write(to_yaml(config))
        return 0
    values = to_dict(config)
    described = {}
    for item in describe_keys():
        value = values
        for part in item.key.split("."):
            value = value[part]
        described[item.key] = {"value": value, **{k: v for k, v in item._asdict().items() if k != "key"}}
    print(json.dumps(described, indent=2))
    return 0


def split_overrides(what: str | None, extra: list[str]) -> tuple[str | None, list[str]]:
    """Divide arguments into a recipe, folder or manifest and `key=value` overrides; `--key value` becomes `key=value`.

    Raises:
        ConfigError: an option without a value, or more than one recipe, folder or manifest.
    """
    overrides: list[str] = []
    words = iter([what, *extra] if what is not None else extra)
    found: str | None = None
    for word in words:
        if word.startswith("--"):
            key = word[2:]
            if "=" not in key:
                value = next(words, None)
                if value is None:
                    raise ConfigError(f"{word} needs a value")
                key = f"{key}={value}"
            overrides.append(key)
        elif "=" in word and not is_file(word) and not is_folder(word):
            overrides.append(word)
        elif found is None:
            found = word
        else:
            raise ConfigError(f"{word!r} is one argument too many after {found!r}; overrides are key=value")
    return found, overrides
