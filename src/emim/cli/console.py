"""Output of the commands: tables, progress bars, and lines on standard error."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from emim import utils as files
from emim.distributed import process_rank
from emim.errors import ConfigError

# Seconds that the other processes wait for the first one to print an error: launchers end it once another has failed.
_TIME_TO_SAY_IT = 2.0


class SubParsers(Protocol):
    """The part of `ArgumentParser.add_subparsers`' result that the commands use."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser: ...


def say(line: str) -> None:
    """Print a line of progress on standard error; standard output is for results."""
    print(line, file=sys.stderr, flush=True)


class _LineHandler(logging.Handler):
    """Prints each message on standard error: its text alone, without time or logger."""

    def emit(self, record: logging.LogRecord) -> None:
        rank = process_rank()
        if rank and record.levelno <= logging.INFO:
            return
        origin = f"[process {rank}] " if rank else ""
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        try:
            say(f"{origin}{level}{self.format(record)}")
        except Exception:
            self.handleError(record)


@contextmanager
def set_up_logging() -> Iterator[None]:
    """Print the package's log messages and its deprecation warnings on standard error, within the block.

    Only the command line does so; a library user decides where the messages of the logger "emim" go. Processes other
    than the first one of a job print warnings only.
    """
    logger, handler = logging.getLogger("emim"), _LineHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_in_one_line(message: Warning | str, category: type[Warning], *details: Any, **more: Any) -> None:
            if issubclass(category, FutureWarning):
                say(f"warning: {message}")
            else:
                show(message, category, *details, **more)

        warnings.showwarning = show_in_one_line
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


def report(message: str) -> None:
    """Print an error on standard error, once if all processes of a job have met the same one."""
    rank = process_rank()
    if rank == 0:
        say(message)
        return
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        say(f"[process {rank}] {message}")
    else:  # all processes have met the same error; the first one prints it, unless a launcher ends it before
        time.sleep(_TIME_TO_SAY_IT)


@contextmanager
def progress_bar(title: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on standard error, if that is a terminal; yields a function of (done, total).

    Lines printed meanwhile appear above the bar. Standard output that is no terminal is left alone.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns,
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        redirect_stdout=sys.stdout.isatty(),  # otherwise results meant for a file would go to standard error
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


def check_folder(path: Path | None) -> None:
    """Make the folder of a file that is to be written later, so that an error comes before the work.

    Raises:
        ConfigError: the folder cannot be made.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def percent(share: float | None) -> str:
    """Format a share as per cent with one decimal; None as a dash."""
    return "-" if share is None else f"{share:.1%}"


def positive(text: str) -> int:
    """Parse an argument that is a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def natural(text: str) -> int:
    """Parse an argument that is a whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {value}")
    return value
