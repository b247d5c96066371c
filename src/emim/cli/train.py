"""`emim train`: train by a recipe, or on a folder of classes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from emim.cli.console import SubParsers, percent, print_table, process_rank, say
from emim.errors import ConfigError

_DEFAULT_RECIPE = "finetune"


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "train",
        parents=[common],
        help="train on your clips, or by a recipe",
        description=(
            "Train a network. Give a recipe (a YAML file, or the name of one that comes with the package), or "
            f"a folder of classes or manifest, which is trained on with the recipe {_DEFAULT_RECIPE!r}."
        ),
        epilog=(
            "Every key of a recipe can be set by its dotted name, as `optim.lr=1e-3` or `--optim.lr 1e-3`; "
            "`emim train --keys` lists them with their defaults."
        ),
    )
    parser.add_argument(
        "what", nargs="?", help="recipe, folder of classes (train/<class>/*.mp4) or manifest (.csv, .tsv, .txt)"
    )
    parser.add_argument("--recipe", help="recipe to train a folder with")
    parser.add_argument("--resume", metavar="RUN", type=Path, help="go on with an interrupted run's folder")
    parser.add_argument(
        "--columns",
        metavar="ROLE=COLUMN,...",
        help="which column of the manifest holds what, such as path=video_path,label=class (default: by their names)",
    )
    parser.add_argument(
        "--group-by",
        metavar="RULE",
        help=(
            "keep clips of one person, film or machine on one side of the held-out share: column:NAME, or a regular "
            "expression with one group for file names, such as 's([0-9]+)_'"
        ),
    )
    parser.add_argument("--keys", action="store_true", help="list every key of a recipe, and stop")
    parser.set_defaults(run=run, takes_overrides=True, overrides=[])


def run(args: argparse.Namespace) -> int:
    from emim.data.clip_list import is_manifest
    from emim.training.recipe import find_recipe, known_keys, load_recipe
    from emim.training.run import resume, train

    if args.keys:
        print("\n".join(f"{key}={value}" for key, value in known_keys().items()))
        return 0
    what, overrides = split_overrides(args.what, args.overrides)
    for key, value in (("data.columns", args.columns), ("data.group_by", args.group_by)):
        if value is not None:
            overrides.append(f"{key}={value}")
    if args.resume is not None:
        if what is not None:
            raise ConfigError(f"--resume goes on with the run's own recipe; leave out {what!r}")
        result = resume(args.resume, overrides, say=say)
    else:
        if what is None:
            raise ConfigError("nothing to train: give a recipe, a folder of classes or a manifest")
        if os.path.isdir(what) or is_manifest(what):  # noqa: PTH112 takes names that are too long
            recipe = find_recipe(args.recipe or _DEFAULT_RECIPE)
            overrides = [f"data.path={what}", f"name={Path(what).resolve().stem}", *overrides]
        elif args.recipe is not None:
            raise ConfigError(f"{what}: no such folder or manifest")
        else:
            recipe = find_recipe(what)
        result = train(load_recipe(recipe, overrides), say=say)

    if process_rank() != 0:
        return 0
    rows = [
        ("run", str(result.folder)),
        ("model", str(result.model)),
        ("minutes", f"{result.seconds / 60:.1f}"),
    ]
    if "val_top1" in result.metrics:
        rows.append(("validation top-1", percent(result.metrics["val_top1"])))
    print_table("Trained", ("", ""), rows)
    say(f"try it: emim predict <video> --checkpoint {result.model}")
    return 0


def split_overrides(what: str | None, extra: list[str]) -> tuple[str | None, list[str]]:
    """Sort words into the thing to train and `key=value` overrides; `--key value` becomes `key=value`."""
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
        elif "=" in word and not os.path.exists(word):  # noqa: PTH110 takes values of any length
            overrides.append(word)
        elif found is None:
            found = word
        else:
            raise ConfigError(f"what is {word!r}? {found!r} is trained already; overrides are key=value")
    return found, overrides
