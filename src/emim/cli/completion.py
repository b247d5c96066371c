"""`emim completion`: a script that completes commands, options and their values in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

from emim.cli.console import SubParsers
from emim.cli.options import examples
from emim.errors import ConfigError

__all__ = ["add_parser", "recipe_names", "run"]

_SHELLS = ("bash", "zsh", "tcsh", "fish")


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the parser of this command."""
    parser = subparsers.add_parser(
        "completion",
        parents=[common],
        help="complete commands and options in your shell",
        description=(
            "Print a script that completes commands, options, files, and names of models and recipes. The script is "
            "static: completing never starts Python."
        ),
        epilog=examples(
            "echo 'eval \"$(emim completion bash)\"' >> ~/.bashrc",
            "emim completion zsh > ~/.zfunc/_emim              (and fpath+=~/.zfunc before compinit in ~/.zshrc)",
            "emim completion tcsh > ~/.emim.tcsh               (and source ~/.emim.tcsh in ~/.tcshrc)",
            "emim completion fish > ~/.config/fish/completions/emim.fish",
        ),
    )
    parser.add_argument("shell", choices=_SHELLS, help="the shell")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    print(script(args.shell, args.root))
    return 0


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the completion script of a parser for a shell.

    Raises:
        ConfigError: the package shtab is missing.
    """
    try:
        import shtab
    except ImportError as error:
        raise ConfigError("shtab is not installed; run: pip install shtab") from error
    kinds = {
        "file": shtab.FILE,
        "folder": shtab.DIRECTORY,
        **{name: _words(name, list_()) for name, list_ in _NAMES.items()},
    }
    for action in _actions(parser):
        if isinstance(action, argparse._SubParsersAction):  # descriptions of a few words, for shells that show them
            for summary in action._choices_actions:
                action.choices[summary.dest].description = summary.help
        kind = getattr(action, "completion", None)
        if kind is not None:
            action.complete = kinds[kind]  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)


def recipe_names() -> list[str]:
    """Names of the recipes of the package; unlike `emim.training.recipe`, without importing torch."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "recipes"
    folder = packaged if packaged.is_dir() else package.parents[1] / "recipes"
    return sorted(file.stem for file in folder.glob("*.yaml"))


_NAMES: dict[str, Callable[[], list[str]]] = {
    "model": lambda: ["bundled"],
    "recipe": recipe_names,
    "device": lambda: ["auto", "cpu", "cuda"],
}


def _words(name: str, words: list[str]) -> dict[str, str | dict[str, str]]:
    """Completion by any of these words or, unless it is a device, by files."""
    listed = " ".join(words)
    if name == "device":
        function, and_files = "_emim_device", ""
    else:
        function, and_files = f"_emim_{name}_file", '; compgen -f -- "$1"'  # shtab marks folders if it reads "file"
    return {
        "bash": function,
        "zsh": f"{{compadd -- {listed}; _files}}" if and_files else f"({listed})",
        "tcsh": "f" if and_files else f"({listed})",
        "fish": f"({'__fish_complete_path (commandline -ct); ' if and_files else ''}printf '%s\\n' {listed})",
        "preamble": {"bash": f'{function}() {{ compgen -W "{listed}" -- "$1"{and_files}; }}'},
    }
