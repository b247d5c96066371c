"""Output of the commands: tables, progress bars, lines on standard error, JSON on standard output and in files."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from emim import utils as files
from emim.distributed import process_rank
from emim.errors import ConfigError

__all__ = [
    "JsonLines",
    "SubParsers",
    "check_folder",
    "complain",
    "give_result",
    "percent",
    "print_json",
    "print_table",
    "progress_bar",
    "report",
    "say",
    "set_up_logging",
    "warn",
    "write_json",
]

# Seconds that the other processes wait for the first one to print an error: launchers end it once another has failed.
_TIME_TO_SAY_IT = 2.0


_log = logging.getLogger("emim")
_QUIET = logging.WARNING
"""Level of the package's logger with --quiet."""


class SubParsers(Protocol):
    """The part of `ArgumentParser.add_subparsers`' result that the commands use."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        """Add the parser of a command."""


class _LineHandler(logging.Handler):
    """Prints each message on standard error: its text alone, without time or logger."""

    def emit(self, record: logging.LogRecord) -> None:
        rank = process_rank()
        if rank and record.levelno <= logging.INFO:
            return
        origin = f"[process {rank}] " if rank else ""
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        _print_error(f"{origin}{level}{self.format(record)}")


@contextmanager
def set_up_logging(*, quiet: bool = False) -> Iterator[None]:
    """Print the package's log messages and its deprecation warnings on standard error, within the block.

    Only the command line does so; a library user decides where the messages of the logger "emim" go. Processes other
    than the first one of a job print warnings only, as all do if `quiet`.
    """
    handler, level = _LineHandler(), _log.level
    _log.addHandler(handler)
    _log.setLevel(_QUIET if quiet else logging.INFO)
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_in_one_line(message: Warning | str, category: type[Warning], *details: Any, **more: Any) -> None:
            if issubclass(category, FutureWarning):
                _print_error(f"warning: {message}")
            else:
                show(message, category, *details, **more)

        warnings.showwarning = show_in_one_line
        try:
            yield
        finally:
            _log.removeHandler(handler)
            _log.setLevel(level)


def say(line: str) -> None:
    """Print a line of progress on standard error, unless the command is quiet; standard output is for results."""
    if _log.level != _QUIET:
        _print_error(line)


def warn(line: str) -> None:
    """Print a warning on standard error."""
    _print_error(f"warning: {line}")


def complain(line: str) -> None:
    """Print an error on standard error after which the command goes on, such as one about one video of several."""
    _print_error(line)


def report(message: str) -> None:
    """Print an error on standard error; once if all processes of a run fail with the same one."""
    rank = process_rank()
    if rank == 0:
        _print_error(message)
        return
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        _print_error(f"[process {rank}] {message}")
    else:  # every process fails in the same way before they join, and the first one prints it
        time.sleep(_TIME_TO_SAY_IT)


def _print_error(message: str) -> None:
    with suppress(OSError):  # standard error may be closed
        print(message, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(title: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error if that is a terminal and the command is not quiet; yields a function of (done, total).

    Lines printed meanwhile appear above the bar if standard output is a terminal as well.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns,
        console=Console(stderr=True),
        disable=not sys.stderr.isatty() or _log.level == _QUIET,
        redirect_stdout=sys.stdout.isatty(),  # else results for a file would be printed on standard error
        transient=True,
    ) as bars:
        task = bars.add_task(title, total=total)
        yield lambda done, all_: bars.update(task, completed=done, total=all_)


def print_table(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table on standard output; the first column is left-aligned, the others right-aligned."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 110
    Console(file=sys.stdout, width=width, highlight=False, markup=False).print(table)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        files.write_json(path, content)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def give_result(args: argparse.Namespace, content: Callable[[], Any]) -> None:
    """Write a command's result as JSON: to standard output with `--json`, and to the file of `--output`.

    Args:
        args: of the command, with its result options.
        content: makes the result; called if one of the options is given.

    Raises:
        ConfigError: the file cannot be written.
    """
    if not args.json and args.output is None:
        return
    made = content()
    if args.json:
        print_json(made)
    if args.output is not None:
        write_json(args.output, made)
        say(f"written to {args.output}")


def print_json(content: Any) -> None:
    """Print an object as JSON on standard output."""
    print(json.dumps(content, indent=2), flush=True)


class JsonLines:
    """Writes results as JSON, one object per line, to standard output with `--json` and to the file of `--output`.

    Args:
        args: of the command, with its result options.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._print = args.json
        self._path: Path | None = args.output
        self._file: TextIO | None = None
        if self._path is not None:
            check_folder(self._path)
            try:
                self._file = self._path.open("w", encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"{self._path}: cannot be written ({error.strerror})") from error

    def __bool__(self) -> bool:
        return self._print or self._file is not None

    def write(self, content: Any) -> None:
        """Write one object; the line has left the process when this returns.

        Raises:
            ConfigError: the file cannot be written.
        """
        line = json.dumps(content)
        if self._print:
            print(line, flush=True)
        if self._file is None:
            return
        try:
            self._file.write(f"{line}\n")
            self._file.flush()
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be written ({error.strerror})") from error

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            with suppress(OSError):  # every line was flushed; a failure then was an error already
                self._file.close()


def check_folder(path: Path | None) -> None:
    """Make the folder of a result that will be written later, so that an error comes before the work.

    Raises:
        ConfigError: the folder cannot be made, or `path` is a folder itself.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"{path}: cannot be written (a part of its path is a file, not a folder)") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
    if path.is_dir():
        raise ConfigError(f"{path}: cannot be written (it is a folder; give a file)")


def percent(share: float | None) -> str:
    """Format a share as per cent with one decimal; None is a dash."""
    return "-" if share is None else f"{share:.1%}"
