"""The command `emim`: parses arguments, runs a command, turns errors into one readable line."""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

from emim.cli import (
    bench,
    completion,
    config,
    demo,
    diagnose,
    doctor,
    generate,
    models,
    predict,
    prepare,
    report,
    serve,
    stream,
    test,
    train,
    visualize,
)
from emim.cli.console import report as report_error
from emim.cli.console import set_up_logging, warn
from emim.cli.options import SETTINGS, add_common, find_old_json
from emim.distributed import is_first
from emim.errors import EmimError, PreemptedError

__all__ = ["build_parser", "main", "parse"]

_GROUPS: Mapping[str, Sequence[ModuleType]] = {
    "start": (demo,),
    "train and evaluate": (train, test, diagnose, report),
    "recognise actions and show motion": (predict, stream, serve, visualize),
    "prepare data": (prepare, doctor, generate),
    "tools": (config, models, bench, completion),
}
_EXAMPLES = """\
examples:
  emim demo
  emim predict clip.mp4
  emim train my_clips/                  (train/<class>/*.mp4)
  emim test runs/my_clips/model.safetensors --data my_clips/
"""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_NO_MEMORY = "not enough memory; smaller sizes, a smaller batch or fewer workers need less"
_LONGEST = 400
"""Characters of an unexpected error's text that are printed."""


class _Parser(argparse.ArgumentParser):
    """Parser of `emim` itself, whose help lists the commands in groups."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.groups: dict[str, list[tuple[str, str]]] = {}

    def format_help(self) -> str:
        width = max(len(name) for commands in self.groups.values() for name, _ in commands)
        lines = [self.format_usage().rstrip(), "", str(self.description)]
        for title, commands in self.groups.items():
            lines += ["", f"{title}:", *(f"  {name:<{width}}  {summary}" for name, summary in commands)]
        lines += ["", "`emim COMMAND --help` explains a command.", "", _EXAMPLES]
        return "\n".join(lines)


class _Commands:
    """Subparsers of one group, which notes the commands' summaries for the help of `emim`."""

    def __init__(self, subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        self._subparsers = subparsers
        self.summaries: list[tuple[str, str]] = []

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        self.summaries.append((name, options["help"]))
        return self._subparsers.add_parser(name, **SETTINGS, **options)


class _Version(argparse.Action):
    """`--version`, which looks the version up only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *args: object) -> None:
        from emim import __version__

        del args
        print(f"emim {__version__}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0: done. 1: an error, in one line on standard error. 2: wrong usage. 130: interrupted. 143: ended by SIGTERM, with
    the state saved.
    """
    for stream_ in (sys.stdout, sys.stderr):
        if hasattr(stream_, "reconfigure"):
            stream_.reconfigure(errors="backslashreplace")  # a file's name need not be valid text
    args = parse(build_parser(), sys.argv[1:] if argv is None else argv)
    with set_up_logging(quiet=args.quiet):
        if is_first():
            for warning in getattr(args, "warnings", ()):
                warn(f"emim {args.command}: {warning}")
        return _run(args)


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line, in the form of this version or of the last one.

    Raises:
        SystemExit: wrong usage, which is printed, or help was asked for.
    """
    warnings: tuple[str, ...] = ()
    old = find_old_json(words)
    if old is not None and any(word.startswith("--json=") for word in words):
        words, warnings, old = old.words, (old.warning,), None
    args, extra = parser.parse_known_args(words)
    takes_overrides = getattr(args, "takes_overrides", False)
    too_many = old is not None and (old.value in extra if takes_overrides else bool(extra))
    if old is not None and too_many and getattr(args, "json_took_file", False):
        # There is one word too many for the command, and one follows --json: it is the file of the old form.
        warnings = (old.warning,)
        args, extra = parser.parse_known_args(old.words)
    if extra:
        if not takes_overrides:
            parser.error(f"unrecognized arguments: {' '.join(extra)[:_LONGEST]}; see `emim {args.command} --help`")
        args.overrides = extra
    args.warnings = (*getattr(args, "warnings", ()), *warnings)
    return args


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; needs no heavy import, so that --help is quick."""
    parser = _Parser(prog="emim", description="Motion-aware video action recognition.", allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    common = argparse.ArgumentParser(add_help=False)
    add_common(common)
    subparsers = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser
    )
    for title, group in _GROUPS.items():
        commands = _Commands(subparsers)
        for command in group:
            command.add_parser(commands, common)
        parser.groups[title] = commands.summaries
    parser.set_defaults(root=parser)  # `emim completion` describes it
    return parser


def _run(args: argparse.Namespace) -> int:
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except PreemptedError as error:
        # The other processes return 0: with another status, the trainer would kill the first one.
        report_error(f"emim {args.command}: {error}")
        return 128 + signal.SIGTERM if is_first() else 0
    except EmimError as error:
        return _fail(args, str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        _discard_output()
        return 1
    except OSError as error:
        if error.filename is None and error.errno in _FULL and _output_fails():
            return _fail(args, f"standard output: {error.strerror}")
        return _fail(args, _system_error(error))
    except RecursionError:
        return _fail(args, "the input is nested too deeply; run again with --debug for the place")
    except MemoryError:
        return _fail(args, _NO_MEMORY)
    except Exception as error:
        if re.search(r"out of memory|allocate memory", str(error)):  # of the CPU in PyTorch: a RuntimeError
            return _fail(args, _NO_MEMORY)
        text = " ".join(str(error).split())[:_LONGEST]
        return _fail(args, f"unexpected {type(error).__name__}: {text}; run again with --debug for the traceback")
    return status


def _system_error(error: OSError) -> str:
    """An error of the operating system in one line: the file, if it is known, and the reason."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno == errno.ENAMETOOLONG:
        return f"{str(error.filename)[:80]}...: file name too long"
    if error.filename is None:
        return f"{reason}; run again with --debug for the place"
    return f"{error.filename}: {reason}"


def _discard_output() -> None:
    """Send standard output nowhere, so that the interpreter's own flush at its end does not fail."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _output_fails() -> bool:
    """Check if standard output cannot be written; if so, nothing more is written to it."""
    try:
        print(flush=True)
    except OSError:
        _discard_output()
        return True
    return False


def _fail(args: argparse.Namespace, message: str) -> int:
    if args.debug:
        raise
    report_error(f"emim {args.command}: {message}")
    return 1
