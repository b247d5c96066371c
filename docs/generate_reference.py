"""Write the reference pages of the documentation from the code: commands, recipe keys, recipes, Python API.

`docs/hooks.py` calls `pages` while the site is built, so these pages are not in the repository. To look at one:

    python docs/generate_reference.py reference/keys.md
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import griffe
import yaml

ROOT = Path(__file__).resolve().parents[1]

ROOMS = {
    "ops": ("Operators", "Functions on tensors, without parameters."),
    "nn": ("Modules", "Modules to build networks from."),
    "models": ("Networks and weights", "Networks by name, checkpoints, the file of a trained model."),
    "inference": ("Inference", "A trained network on one video, many videos, or a live source."),
    "motion": ("Motion", "Motion fields, pictures of them, explanations of predictions."),
    "data": ("Data", "From a video to a clip: reading, sampling, views, augmentation, loaders."),
    "datasets": ("Work on data sets", "Check, convert, re-encode and generate data sets."),
    "evaluation": ("Evaluation", "Test a network on labelled clips; find out what it relies on."),
    "training": ("Training", "Configuration, recipes and the training run. Recipes are the usual way to use it."),
    "report": ("Report", "The HTML page about a run."),
    "errors": ("Errors", "Every error that this package raises on purpose."),
}
"""Page of each package or module below `emim`: title and introduction."""


def pages() -> dict[str, str]:
    """Every generated page: its path below `docs/` and its Markdown."""
    package = griffe.load("emim", search_paths=[str(ROOT / "src")], resolve_aliases=True)
    assert isinstance(package, griffe.Module)
    return {
        "reference/commands.md": commands_page(),
        "reference/keys.md": keys_page(package),
        "reference/recipes.md": recipes_page(),
        "api/index.md": api_index(package),
        **{f"api/{room}.md": api_page(package, room) for room in ROOMS},
    }


# Commands


def commands_page() -> str:
    """Every command with its options, from the parser itself."""
    from emim.cli.main import build_parser

    parser = build_parser()
    lines = [
        "# Commands",
        "",
        "Written from the parser of the command line. `emim COMMAND --help` prints the same.",
        "",
        "Exit status: 0 done, 1 an error (one line on standard error), 2 wrong usage, 130 interrupted by Ctrl-C, 143 "
        "ended by SIGTERM with the state saved. All commands have `-q`, `--quiet` (only warnings and errors) and "
        "`--debug` (the traceback of an error).",
        "",
    ]
    for command, summary in _subcommands(parser):
        lines += _command(command, summary, level=2)
    return "\n".join(lines)


def _subcommands(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield command, summaries.get(name, "")


def _command(parser: argparse.ArgumentParser, summary: str, level: int) -> list[str]:
    lines = [f"{'#' * level} {parser.prog}", ""]
    lines += [_text(parser.description or summary), ""]
    inner = list(_subcommands(parser))
    if not inner:
        usage = " ".join(parser.format_usage().split()).removeprefix("usage: ")
        lines += ["```text", *_wrapped(usage), "```", ""]
    for group in parser._action_groups:
        actions = [
            action
            for action in group._group_actions
            if action.help != argparse.SUPPRESS
            and not isinstance(action, (argparse._SubParsersAction, argparse._HelpAction))
            and action.dest not in ("debug", "quiet")
        ]
        if not actions:
            continue
        title = {"positional arguments": "argument", "options": "option"}.get(group.title or "", group.title or "")
        lines += [f"| {title} | meaning |", "|---|---|"]
        lines += [f"| {_flags(action)} | {_cell(_help(parser, action))} |" for action in actions]
        lines.append("")
    if parser.epilog:
        note, _, listed = parser.epilog.rpartition("examples:")
        lines += [_text(note), ""] if note else []
        lines += ["```bash", textwrap.dedent(listed.strip("\n")), "```", ""]
    for command, text in inner:
        lines += _command(command, text, level + 1)
    return lines


def _wrapped(usage: str, width: int = 86) -> list[str]:
    """The usage on lines that are broken between arguments only."""
    parts: list[str] = []
    for word in usage.split(" "):
        inside = bool(parts) and (
            parts[-1].count("[") > parts[-1].count("]") or parts[-1].count("{") > parts[-1].count("}")
        )
        if inside:
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part) + 1 > width:
            lines.append("    " + part)
        else:
            lines[-1] = f"{lines[-1]} {part}".lstrip() if lines[-1].strip() else part
    return lines


def _flags(action: argparse.Action) -> str:
    if not action.option_strings:
        name = action.metavar if isinstance(action.metavar, str) else action.dest
        return f"`{name}`" + (
            "" if action.nargs is None else " (several)" if action.nargs in ("*", "+") else " (optional)"
        )
    value = ""
    if action.nargs != 0:
        if isinstance(action.metavar, str):
            value = f" {action.metavar}"
        elif action.choices is not None:
            value = " {" + ",".join(map(str, action.choices)) + "}"
        else:
            value = f" {action.dest.upper()}"
    return ", ".join(f"`{flag}{value if flag == action.option_strings[-1] else ''}`" for flag in action.option_strings)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = action.help or ""
    values = {**vars(action), "prog": parser.prog}
    return _text(text % values if "%" in text else text)


def _text(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# Recipe keys


def keys_page(package: griffe.Module) -> str:
    """Every key of a recipe with its type, range, default and meaning."""
    from emim.training.config import RunConfig
    from emim.training.recipe import describe_keys

    hints = get_type_hints(RunConfig)
    lines = [
        "# Recipe keys",
        "",
        "Written from the configuration classes. A recipe is a YAML file with these keys; `emim train` takes overrides "
        "as `section.key=value`, with the value in YAML. A key that a recipe leaves out has its default. `emim config` "
        "prints the same as YAML.",
        "",
        *_KEYS_HEAD,
    ]
    section = ""
    for key in describe_keys():
        parent = key.key.rpartition(".")[0]
        if parent != section:
            section, cls = parent, hints[parent]
            docstring = package[f"{cls.__module__}.{cls.__qualname__}".removeprefix("emim.")].docstring
            summary = docstring.value.partition("\n\n")[0] if docstring else ""
            lines += ["", f"## {section}", "", summary, "", *_KEYS_HEAD]
        kind = f"{key.type}; {key.range}" if key.range else key.type
        default = yaml.safe_dump(key.default, default_flow_style=True, width=1000).removesuffix("...\n").strip()
        lines.append(f"| `{key.key}` | {_cell(kind)} | `{default}` | {_cell(_text(key.description))} |")
    return "\n".join(lines) + "\n"


_KEYS_HEAD = ("| key | type and range | default | meaning |", "|---|---|---|---|")


# Recipes


def recipes_page() -> str:
    """Every recipe that comes with the package, as it is."""
    lines = [
        "# Recipes",
        "",
        "`emim train NAME` takes one of these by name. `emim train FOLDER` uses `finetune`. Every key is in "
        "[Recipe keys](keys.md).",
        "",
    ]
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        lines += [f"## {path.stem}", "", "```yaml", path.read_text(encoding="utf-8").strip(), "```", ""]
    return "\n".join(lines)


# Python API


def api_index(package: griffe.Module) -> str:
    """The names that `import emim` offers, and where the rest is."""
    lines = [
        "# Python API",
        "",
        "`import emim` offers the names below; they are loaded on first use. Shapes in names and docstrings use the "
        "letters of the [glossary](../glossary.md#shape-letters).",
        "",
    ]
    names = [name for name in sorted(_exports(package), key=str.lower) if not name.startswith("__")]
    for part in (
        [name for name in names if not name.endswith("Error")],
        [name for name in names if name.endswith("Error")],
    ):
        lines += ["| name | meaning |", "|---|---|"]
        for name in part:
            member = package[name]
            lines.append(f"| [`emim.{name}`][{_real(member).path}] | {_summary(member)} |")
        lines.append("")
    lines += ["The public modules, by package:", "", "| page | content |", "|---|---|"]
    lines += [f"| [{title}]({room}.md) | {text} |" for room, (title, text) in ROOMS.items()]
    return "\n".join(lines) + "\n"


def api_page(package: griffe.Module, room: str) -> str:
    """The public modules of one package; each object once, where it is exported first."""
    title, text = ROOMS[room]
    lines = [f"# {title}", "", text, ""]
    shown: set[str] = set()
    top = {_real(package[name]).path.rpartition(".")[0] for name in _exports(package) if not name.startswith("__")}
    for module in sorted(
        _modules(package[room]), key=lambda module: module.path not in top and module.path != f"emim.{room}"
    ):
        found = [_member(module, name) for name in _exports(module)]
        new = [member for member in found if member is not None and _real(member).path not in shown]
        if not new:
            continue
        shown.update(_real(member).path for member in new)
        lines += [f"## `{module.path}`", ""]
        for member in new:
            lines += [f"::: {member.path}", "    options:", "      heading_level: 3", ""]
    return "\n".join(lines)


def _modules(module: griffe.Object | griffe.Alias) -> Iterator[griffe.Module]:
    """Public modules of a package, the package itself first."""
    assert isinstance(module, griffe.Module)
    yield module
    for name, member in sorted(module.modules.items()):
        if not name.startswith("_") and not member.is_alias:
            yield from _modules(member)


def _exports(module: griffe.Module) -> list[str]:
    return [str(name) for name in module.exports or ()]


def _member(module: griffe.Module, name: str) -> griffe.Object | griffe.Alias | None:
    """An exported name that has a docstring; a function in preference to its module of the same name."""
    member = module.members.get(name)
    if member is not None and member.is_module:
        member = member.members.get(name)
    return member if member is not None and _real(member).docstring is not None else None


def _real(member: griffe.Object | griffe.Alias) -> griffe.Object:
    return member.final_target if isinstance(member, griffe.Alias) else member


def _summary(member: griffe.Object | griffe.Alias) -> str:
    docstring = _real(member).docstring
    return "" if docstring is None else _cell(_text(docstring.value.partition("\n\n")[0]))


if __name__ == "__main__":
    wanted = sys.argv[1:]
    for name, text in pages().items():
        if name in wanted or not wanted:
            print(text)
