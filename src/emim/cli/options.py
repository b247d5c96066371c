"""Options of the commands, each defined once, and the types of their values.

Rules for all commands:

* Results go to standard output, progress and warnings to standard error. `--json` writes the result to standard output
  as JSON (one object, or one per line for `predict` and `stream`) and nothing else there. `--output` (`-o`) names the
  file or folder that is written.
* The model is `--checkpoint`; `test` and `diagnose` also take it as their first argument.
* `--clips`, `--crops` and `--size` describe the views of a video that the network sees; sizes of pictures and frames
  have names of their own (`--picture-size`, `--frame-size`).
* `--device` is where the network runs; `--devices` and `--nodes` are numbers of processes and machines.
* `--batch-size` counts views, `--workers` counts processes that read videos.

Options of version 0.1 under other names are accepted until version 0.3, with a warning (`add_renamed`).
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

__all__ = [
    "NATURAL",
    "OPTIONS",
    "POSITIVE",
    "PRECISION_FOR_SPEED",
    "PRECISION_FOR_TESTS",
    "SECONDS",
    "SETTINGS",
    "SHARE",
    "Numbers",
    "Real",
    "Renamed",
    "Whole",
    "add_checkpoint",
    "add_common",
    "add_device_options",
    "add_option",
    "add_renamed",
    "add_result_options",
    "add_view_options",
    "complete",
    "device",
    "examples",
    "file_path",
    "find_old_json",
    "json_with_file",
    "path_text",
    "shortened",
]

_SHOWN = 40
"""Characters of a wrong value that a message quotes."""

_LONGEST_NAMES = 500

_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


@dataclass(frozen=True)
class Whole:
    """Argument type: a whole number from `low` to `high`."""

    low: int
    high: int

    def __call__(self, text: str) -> int:
        """Parse the text of an argument."""
        if not re.fullmatch(r"[+-]?[0-9]+", text.strip()):
            raise argparse.ArgumentTypeError(f"must be a whole number {self.range()}, got {shortened(text)}")
        digits = text.strip().lstrip("+-0") or "0"
        size = int(digits) if len(digits) < 20 else 10**20  # int() refuses texts of more than 4,300 digits
        value = -size if text.strip().startswith("-") else size
        if not self.low <= value <= self.high:
            limit = f"least {self.low}" if value < self.low else f"most {self.high}"
            raise argparse.ArgumentTypeError(f"must be at {limit}, got {shortened(text)}")
        return value

    def range(self) -> str:
        """The range in words."""
        return f"from {self.low} to {self.high}"


@dataclass(frozen=True)
class Real:
    """Argument type: a finite number from `low` to `high`; `low` itself is excluded if `above`."""

    low: float
    high: float
    above: bool = False

    def __call__(self, text: str) -> float:
        """Parse the text of an argument."""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not self.low <= value <= self.high or (self.above and value == self.low):
            raise argparse.ArgumentTypeError(f"must be a number {self.range()}, got {shortened(text)}")
        return value

    def range(self) -> str:
        """The range in words."""
        return f"above {self.low:g}, at most {self.high:g}" if self.above else f"from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Numbers:
    """Argument type: whole numbers with commas between, each from `low` to `high`."""

    low: int
    high: int

    def __call__(self, text: str) -> list[int]:
        """Parse the text of an argument."""
        try:
            return [Whole(self.low, self.high)(part) for part in text.split(",")]
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(
                f"must be whole numbers of at least {self.low}, at most {self.high}, with commas between, "
                f"got {shortened(text)}"
            ) from error


class HelpFormatter(argparse.HelpFormatter):
    """Wraps paragraphs of a command's texts; lines that start with a blank, such as examples, stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks = []
        for block in text.split("\n\n"):
            kept = [line for line in block.splitlines() if line.startswith(" ")]
            wrapped = " ".join(line for line in block.splitlines() if not line.startswith(" "))
            blocks.append("\n".join([textwrap.fill(wrapped, width), *kept] if wrapped else kept))
        return "\n\n".join(blocks)


SETTINGS: Mapping[str, Any] = {"allow_abbrev": False, "formatter_class": HelpFormatter}
"""Arguments of `add_parser` for every command."""


def examples(*commands: str, note: str = "") -> str:
    """The epilog of a command: a note, and examples one per line."""
    listed = "\n".join(["examples:", *(f"  {command}" for command in commands)])
    return f"{note}\n\n{listed}" if note else listed


POSITIVE = Whole(1, 1_000_000)
NATURAL = Whole(0, 1_000_000)
SECONDS = Real(0, 1e6, above=True)
SHARE = Real(0, 1)


def path_text(text: str) -> str:
    """Argument type: text that may be a path.

    Raises:
        ArgumentTypeError: the system cannot have a file of that name.
    """
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"a file name cannot hold a NUL byte, got {shortened(text)}")
    try:
        os.lstat(text)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise argparse.ArgumentTypeError(
                f"file name too long ({len(text)} characters): {shortened(text)}"
            ) from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"cannot be a file name ({error}), got {shortened(text)}") from None
    return text


def file_path(text: str) -> Path:
    """Argument type: a path."""
    if not text:
        raise argparse.ArgumentTypeError("a path is needed, got an empty text")
    return Path(path_text(text))


def host_name(text: str) -> str:
    """Argument type: a host name or address."""
    try:
        text.encode("idna")
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"cannot be a host name, got {shortened(text)}") from None
    return text


def names(text: str) -> str:
    """Argument type: a list of names, which is read later; of a length that a message can quote."""
    if len(text) > _LONGEST_NAMES:
        raise argparse.ArgumentTypeError(f"must be at most {_LONGEST_NAMES} characters, got {shortened(text)}")
    return text


def device(text: str) -> str:
    """Argument type: where the network runs."""
    if not _DEVICE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be auto, cpu, cuda or cuda:N, got {shortened(text)}")
    return text


def device_count(text: str) -> int | Literal["auto"]:
    """Argument type: number of processes, or "auto"."""
    return "auto" if text == "auto" else Whole(1, 1024)(text)


def shortened(text: str) -> str:
    """A wrong value as a message quotes it."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text)} characters)"


@dataclass(frozen=True)
class Option:
    """An option that several commands share.

    Attributes:
        flags: its names.
        meaning: help text, the same in all commands; each adds its default.
        settings: further arguments of `add_argument`.
        complete: what the shell completes: "file", "folder", or the name of a function in `emim.cli.completion`.
    """

    flags: tuple[str, ...]
    meaning: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    complete: str | None = None


def _table(*options: Option) -> dict[str, Option]:
    return {option.flags[-1]: option for option in options}


OPTIONS: Mapping[str, Option] = _table(
    # Results.
    Option(
        ("--json",), "write the result as JSON to standard output, and nothing else there", {"action": "store_true"}
    ),
    Option(("-o", "--output"), "file or folder to write", {"type": file_path, "metavar": "PATH"}, "file"),
    Option(("-q", "--quiet"), "no progress on standard error, only warnings and errors", {"action": "store_true"}),
    Option(("--debug",), "show the traceback of an error", {"action": "store_true"}),
    Option(("--topk",), "number of best classes", {"type": POSITIVE, "metavar": "K"}),
    # The model and where it runs.
    Option(
        ("--checkpoint",), "model.safetensors of a run, or 'bundled'", {"type": path_text, "metavar": "MODEL"}, "model"
    ),
    Option(("--device",), "auto (a GPU if there is one), cpu, cuda or cuda:N", {"type": device}, "device"),
    Option(("--devices",), "number of processes on each machine", {"type": device_count, "metavar": "N"}),
    Option(("--nodes",), "number of machines", {"type": Whole(1, 10_000), "metavar": "N"}),
    Option(("--precision",), "number format of the network", {"choices": ("auto", "32-true", "bf16-mixed")}),
    Option(("--threads",), "CPU threads of the network", {"type": Whole(1, 4096), "metavar": "N"}),
    Option(("--workers",), "worker processes that read or write videos", {"type": Whole(0, 1024), "metavar": "N"}),
    Option(("--batch-size",), "views in one pass of the network", {"type": Whole(1, 65_536), "metavar": "N"}),
    # Data and views.
    Option(("--data",), "folder of classes, or manifest (.csv, .tsv, .txt)", {"type": file_path}, "file"),
    Option(
        ("--columns",),
        "which column of a manifest holds what, such as path=video_path,label=class",
        {"type": names, "metavar": "ROLE=COLUMN,..."},
    ),
    Option(("--split",), "part of the data", {"choices": ("train", "val", "test", "all")}),
    Option(("--recipe",), "recipe file, or name of a recipe of the package", {"type": path_text}, "recipe"),
    Option(("--clips",), "test clips per video", {"type": Whole(1, 1000), "metavar": "N"}),
    Option(("--crops",), "crops per test clip", {"type": Whole(1, 3), "choices": (1, 3)}),
    Option(("--size",), "side of the network's input in pixels", {"type": Whole(1, 8192), "metavar": "PIXELS"}),
    Option(("--frames",), "frames per clip", {"type": Whole(1, 100_000), "metavar": "N"}),
    Option(("--seed",), "seed of all random choices", {"type": Whole(0, 2**32 - 1), "metavar": "N"}),
    # Measuring.
    Option(("--repeats",), "timed rounds", {"type": Whole(1, 100_000), "metavar": "N"}),
)
"""Options that mean the same in every command that has them, by long name."""


def add_option(
    parser: argparse._ActionsContainer,
    name: str,
    note: str = "",
    *,
    default: Any = None,
    required: bool = False,
    repeat: bool = False,
) -> argparse.Action:
    """Add an option of the table `OPTIONS`.

    Args:
        parser: of the command, or a group of it.
        name: long name.
        note: what the command adds to the help, its default for instance; put in brackets.
        default: its value where it is not given.
        required: it must be given.
        repeat: it may be given several times, and its value is a list.
    """
    option = OPTIONS[name]
    settings = dict(option.settings)
    if "action" not in settings:
        settings["default"] = default
    if required:
        settings["required"] = True
    if repeat:
        settings["action"] = "append"
        note = f"may be repeated; {note}" if note else "may be repeated"
    text = f"{option.meaning} ({note})" if note else option.meaning
    return complete(parser.add_argument(*option.flags, help=text, **settings), option.complete)


def complete(action: argparse.Action, kind: str | None) -> argparse.Action:
    """Say what the shell completes for an argument; `emim completion` reads it."""
    if kind is not None:
        action.completion = kind  # type: ignore[attr-defined]
    return action


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options of every command."""
    add_option(parser, "--quiet")
    add_option(parser, "--debug")


def add_result_options(
    parser: argparse._ActionsContainer, output: str = "the result as JSON", *, json: str = "", required: bool = False
) -> None:
    """`--json` and `--output`.

    Args:
        parser: of the command.
        output: what is written there.
        json: note on the JSON.
        required: `--output` must be given.
    """
    add_option(parser, "--json", json)
    add_option(parser, "--output", output, required=required)


def add_checkpoint(parser: argparse.ArgumentParser, *, positional: bool = False) -> None:
    """The model: an option, by default the bundled model; if `positional`, required, as first argument or option."""
    if not positional:
        add_option(parser, "--checkpoint", "default: bundled")
        return
    group = parser.add_mutually_exclusive_group(required=True)
    meaning = OPTIONS["--checkpoint"].meaning
    # Suppressed, because an absent argument would overwrite the option's value with its default.
    model = group.add_argument(
        "checkpoint", nargs="?", type=path_text, default=argparse.SUPPRESS, metavar="MODEL", help=meaning
    )
    complete(model, "model")
    add_option(group, "--checkpoint", "instead of MODEL")


def add_view_options(parser: argparse.ArgumentParser) -> None:
    """The views of each video."""
    views = parser.add_argument_group("views of a video")
    for name in ("--clips", "--crops", "--size"):
        add_option(views, name, "default: as trained")


def add_device_options(parser: argparse._ActionsContainer, precision: str, device: str = "auto") -> None:
    """Add the options of device and number format.

    Args:
        parser: of the command, or a group of it.
        precision: the default in words.
        device: the default.
    """
    add_option(parser, "--device", f"default: {device}", default=device)
    add_option(parser, "--precision", f"default: {precision}", default="auto")


PRECISION_FOR_SPEED = "bf16-mixed on GPUs with bfloat16 and CPUs with AMX, otherwise 32-true"
PRECISION_FOR_TESTS = "bf16-mixed on GPUs with bfloat16, otherwise 32-true"


class Renamed(argparse.Action):
    """An option under its old name: hidden from the help, kept for one release, with a warning."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, new: str, convert: Callable[[Any], Any], **settings: Any
    ) -> None:
        super().__init__(option_strings, dest, **settings)
        self.new = new
        self._convert = convert

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Parse the text of an argument."""
        replaced = parser._option_string_actions.get(self.new)
        if replaced is not None:
            replaced.required = False
        warn_later(namespace, f"{option_string} is now {self.new}; the old name works until version 0.3")
        value = self._convert(values)
        if isinstance(value, list):
            value = [*(getattr(namespace, self.dest) or []), *value]
        setattr(namespace, self.dest, value)


def add_renamed(
    parser: argparse._ActionsContainer,
    old: str,
    new: str,
    *,
    dest: str | None = None,
    convert: Callable[[Any], Any] = lambda value: value,
    **settings: Any,
) -> None:
    """Accept an option under its old name.

    Args:
        parser: of the command.
        old: the old name.
        new: the new name.
        dest: attribute of the new option; by its name if None.
        convert: turns the old value into a new one; a list is appended.
        settings: `type` and `choices` of the old option.
    """
    parser.add_argument(
        old,
        action=Renamed,
        new=new,
        dest=dest or new.lstrip("-").replace("-", "_"),
        convert=convert,
        help=argparse.SUPPRESS,
        default=argparse.SUPPRESS,
        **settings,
    )


def warn_later(namespace: argparse.Namespace, message: str) -> None:
    """Note a warning about the command line; `emim.cli.main` prints it when all of the line is parsed."""
    namespace.warnings = (*getattr(namespace, "warnings", ()), message)


def json_with_file(parser: argparse.ArgumentParser) -> None:
    """Accept `--json FILE` of version 0.1 (and `--json -`) in this command, with a warning; see `split_json_file`."""
    parser.set_defaults(json_took_file=True)


class OldJson(NamedTuple):
    """The old form `--json FILE` on a command line.

    Attributes:
        value: FILE.
        words: the command line in the new form: `--output FILE`, or the flag `--json` if FILE is `-`.
        warning: what to tell the user.
    """

    value: str
    words: list[str]
    warning: str


def find_old_json(words: Sequence[str]) -> OldJson | None:
    """Find `--json FILE` or `--json=FILE`; a FILE after a blank may turn out to be another argument."""
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name != "--json":
            continue
        rest = words[index + 1 :]
        if not equals:
            if not rest or (rest[0].startswith("-") and rest[0] != "-"):
                continue
            value, rest = rest[0], rest[1:]
        new = ["--json"] if value == "-" else ["--output", value]
        shown = value if len(value) <= _SHOWN else "FILE"
        warning = f"--json {shown} is now {' '.join(new[:1])}" + ("" if value == "-" else f" {shown}")
        return OldJson(value, [*words[:index], *new, *rest], f"{warning}; the old form works until version 0.3")
    return None
