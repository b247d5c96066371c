"""The command `emim`: parses arguments, runs a command, turns errors into one readable line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from emim.cli import (
    bench,
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
from emim.cli.console import set_up_logging
from emim.distributed import is_first
from emim.errors import EmimError, PreemptedError

_COMMANDS = (
    demo,
    train,
    config,
    test,
    diagnose,
    report,
    predict,
    visualize,
    stream,
    serve,
    models,
    generate,
    prepare,
    doctor,
    bench,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0: done. 1: an error, said in one line on standard error. 2: wrong usage. 130: interrupted. 143: asked to end
    (SIGTERM), with the state saved.
    """
    parser = build_parser()
    args, extra = parser.parse_known_args(argv)
    if extra:
        if not getattr(args, "takes_overrides", False):
            parser.error(f"unrecognized arguments: {' '.join(extra)}; see `emim {args.command} --help`")
        args.overrides = extra
    try:
        with set_up_logging():
            status: int = args.run(args)
        sys.stdout.flush()
    except PreemptedError as error:
        # The other processes return 0: with another status, the trainer would kill the first one.
        report_error(f"emim {args.command}: {error}")
        return 128 + signal.SIGTERM if is_first() else 0
    except EmimError as error:
        return _fail(args, f"emim {args.command}: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        return _fail(
            args,
            f"emim {args.command}: unexpected {type(error).__name__}: {text}; run again with --debug for the traceback",
        )
    return status


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; needs no heavy import, so that --help is quick."""
    from emim import __version__

    parser = argparse.ArgumentParser(
        prog="emim", description="Motion-aware video action recognition.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"emim {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(subparsers, common)
    return parser


def _fail(args: argparse.Namespace, message: str) -> int:
    if args.debug:
        raise
    report_error(message)
    return 1
