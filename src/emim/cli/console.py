"""What the commands share in talking to a person: tables, bars, lines on standard error."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from emim import utils as files
from emim.errors import ConfigError

# Seconds that other processes leave the first one to print an error: launchers end it once another has failed.
_TIME_TO_SAY_IT = 2.0


class SubParsers(Protocol):
    """What `ArgumentParser.add_subparsers` returns, as far as the commands need it."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser: ...


def say(line: str) -> None:
    """A line of progress. It goes to standard error: standard output is for results."""
    print(line, file=sys.stderr, flush=True)


def process_rank() -> int:
    """Which of the processes of a run this is, as torchrun, Slurm or the trainer has numbered it; 0 is the first."""
    return int(next((os.environ[key] for key in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if os.environ.get(key)), "0"))


def report(message: str) -> None:
    """An error on standard error: once, where all processes of a run have come to the same one."""
    rank = process_rank()
    if rank == 0:
        say(message)
        return
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        say(f"[process {rank}] {message}")
    else:  # all of them have come to the same error; the first one says it, if a launcher does not end it before
        time.sleep(_TIME_TO_SAY_IT)


@contextmanager
def progress_bar(title: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, if that is a terminal; yields a function of (done, total).

    What is printed meanwhile appears above the bar where standard output is a terminal, too, and goes where it should
    where it is not.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns,
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        redirect_stdout=sys.stdout.isatty(),  # else results for a file would be printed on standard error
        transient=True,
    ) as bars:
        task = bars.add_task(title, total=total)
        yield lambda done, all_: bars.update(task, completed=done, total=all_)


def print_table(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table on standard output; the first column is left-aligned, the others right-aligned."""
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
    """Write JSON; the file appears whole or not at all.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        files.write_json(path, content)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def check_folder(path: Path | None) -> None:
    """Make the folder of a result that is to be written later.

    Raises:
        ConfigError: it cannot be made, which is better said before the work than after it.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def percent(share: float | None) -> str:
    """A share as per cent with one decimal; a dash for None."""
    return "-" if share is None else f"{share:.1%}"


def positive(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def natural(text: str) -> int:
    """An argument that is a whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {value}")
    return value
