"""`emim train`: train a network from a recipe, or on a folder of classes."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from emim.cli.config import split_overrides as split_overrides
from emim.cli.console import SubParsers, percent, print_table, say
from emim.cli.options import add_option, complete, examples, file_path, path_text
from emim.distributed import is_first
from emim.errors import ConfigError
from emim.utils import is_folder

__all__ = ["add_parser", "run"]

_DEFAULT_RECIPE = "finetune"


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the parser of this command."""
    parser = subparsers.add_parser(
        "train",
        parents=[common],
        help="train on your clips, or from a recipe",
        description=(
            "Train a network. Give a recipe (a YAML file, or the name of one that comes with the package), or "
            f"a folder of classes or a manifest, to train on it with the recipe {_DEFAULT_RECIPE!r}."
        ),
        epilog=examples(
            "emim train mine",
            "emim train mine --recipe my.yaml optim.lr=1e-3 trainer.epochs=60",
            "emim train --resume runs/mine",
            note=(
                "Every key of a recipe can be set by its dotted name, as `optim.lr=1e-3` or `--optim.lr 1e-3`; "
                "`emim config` prints them with their types, ranges and defaults."
            ),
        ),
    )
    what = parser.add_argument(
        "what",
        nargs="?",
        type=path_text,
        help="recipe, folder of classes (train/<class>/*.mp4) or manifest (.csv, .tsv, .txt)",
    )
    complete(what, "recipe")
    add_option(parser, "--recipe", "for a folder or manifest; default: finetune")
    folder = parser.add_argument(
        "--resume", metavar="RUN", type=file_path, help="continue the interrupted run in this folder"
    )
    complete(folder, "folder")
    add_option(parser, "--columns", "default: by their names")
    parser.add_argument(
        "--group-by",
        metavar="RULE",
        help=(
            "keep clips of one person, film or machine on one side of the held-out share: column:NAME, or a regular "
            "expression with one group for file names, such as 's([0-9]+)_'"
        ),
    )
    parser.add_argument("--keys", action="store_true", help="old name of `emim config`")
    parser.set_defaults(run=run, takes_overrides=True, overrides=[])


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if args.keys:
        from emim.cli.config import config_text

        warnings.warn(
            "--keys is now the command `emim config`; it works until version 0.3", FutureWarning, stacklevel=1
        )
        print(config_text(args.what, args.overrides), end="")
        return 0
    from emim.data.clip_list import is_manifest
    from emim.training.recipe import find_recipe, load_recipe
    from emim.training.run import resume, train

    what, overrides = split_overrides(args.what, args.overrides)
    for key, value in (("data.columns", args.columns), ("data.group_by", args.group_by)):
        if value is not None:
            overrides.append(f"{key}={value}")
    if args.resume is not None:
        if what is not None:
            raise ConfigError(f"--resume uses the configuration of the run; leave out {what!r}")
        result = resume(args.resume, overrides)
    else:
        if what is None:
            raise ConfigError("nothing to train: give a recipe, a folder of classes or a manifest")
        if is_folder(what) or is_manifest(what):
            recipe = find_recipe(args.recipe or _DEFAULT_RECIPE)
            overrides = [f"data.path={what}", f"name={_name_of(what)}", *overrides]
        elif args.recipe is not None:
            raise ConfigError(f"{what}: no such folder or manifest")
        else:
            recipe = find_recipe(what)
        result = train(load_recipe(recipe, overrides))

    if not is_first():
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


def _name_of(data: str) -> str:
    """A run's name from the name of a folder or manifest."""
    name = "".join(letter if letter.isprintable() else "_" for letter in Path(data).resolve().stem)
    return name.replace("\\", "_") or "run"
