"""`emim config`: print the keys of a recipe with their types, ranges, defaults and descriptions."""

from __future__ import annotations

import argparse
import json
import sys

from emim.cli.console import SubParsers, check_folder, say
from emim.cli.options import add_result_options, complete, examples, path_text, shortened
from emim.errors import ConfigError
from emim.utils import atomic_write, is_file, is_folder

__all__ = ["add_parser", "config_text", "run", "split_overrides"]


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
        epilog=examples(
            "emim config", "emim config ssv2_s16_k400 optim.lr=1e-3 > mine.yaml", note="Overrides change the values."
        ),
    )
    recipe = parser.add_argument(
        "recipe", nargs="?", type=path_text, help="YAML file, or name of a recipe that comes with the package"
    )
    complete(recipe, "recipe")
    add_result_options(parser, "YAML, or JSON with --json; by default standard output", json="an object for each key")
    parser.set_defaults(run=run, takes_overrides=True, overrides=[])


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    check_folder(args.output)
    text = config_text(args.recipe, args.overrides, as_json=args.json)
    if args.output is not None:
        try:
            with atomic_write(args.output) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{args.output}: cannot be written ({error.strerror})") from error
        say(f"written to {args.output}")
    if args.output is None or args.json:
        sys.stdout.write(text)
    return 0


def config_text(recipe: str | None, overrides: list[str], *, as_json: bool = False) -> str:
    """A recipe (None: the defaults) with overrides, as YAML or JSON.

    Raises:
        ConfigError: no such recipe, an unknown key or a wrong value.
    """
    from emim.training.recipe import describe_keys, find_recipe, load_recipe, to_dict, to_yaml

    recipe, overrides = split_overrides(recipe, overrides)
    config = load_recipe(None if recipe is None else find_recipe(recipe), overrides)
    if not as_json:
        return to_yaml(config)
    values = to_dict(config)
    described = {}
    for item in describe_keys():
        value = values
        for part in item.key.split("."):
            value = value[part]
        described[item.key] = {"value": value, **{k: v for k, v in item._asdict().items() if k != "key"}}
    return json.dumps(described, indent=2) + "\n"


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
            raise ConfigError(f"{shortened(word)} is one argument too many after {found!r}; overrides are key=value")
    return found, overrides
