"""`emim serve`: a local web page that recognises the action in a video."""

from __future__ import annotations

import argparse
import importlib.util
import json

from emim.cli.console import SubParsers, say, warn, write_json
from emim.cli.options import (
    PRECISION_FOR_SPEED,
    Whole,
    add_checkpoint,
    add_device_options,
    add_result_options,
    examples,
    host_name,
)
from emim.cli.predict import load_recogniser
from emim.environment import let_waiting_threads_sleep
from emim.errors import ConfigError

__all__ = ["add_parser", "run"]

_PACKAGES = {"starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
_NUMBERS = (
    ("port", Whole(0, 65535), 8000, "port to listen on, 0: a free one"),
    ("max-mb", Whole(1, 1_000_000), 200, "largest upload in MiB"),
    ("max-seconds", Whole(1, 86_400), 60, "longest video in seconds"),
    ("read-seconds", Whole(1, 86_400), 60, "seconds that decoding a video may take"),
    ("read-mb", Whole(1, 1_000_000), 2048, "MiB of memory for decoding a video"),
    ("waiting", Whole(0, 100_000), 32, "requests that may wait"),
)


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the parser of this command."""
    parser = subparsers.add_parser(
        "serve",
        parents=[common],
        help="recognise actions on a local web page",
        description=(
            "Serve a local web page: drop a video or use the camera, and see the best classes, the motion that the "
            "network compares, and what the prediction is based on. Programs send videos to POST /api/predict and get "
            "JSON. Needs `pip install 'emim[serve]'`."
        ),
        epilog=examples("emim serve", "emim serve --checkpoint runs/mine/model.safetensors --port 0 --json"),
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--host",
        type=host_name,
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine only)",
    )
    for name, limits, default, meaning in _NUMBERS:
        parser.add_argument(
            f"--{name}", type=limits, metavar="N", default=default, help=f"{meaning} (default: {default})"
        )
    add_result_options(
        parser, "the address as JSON, once the server listens", json="the address, once the server listens"
    )
    running = parser.add_argument_group("running")
    add_device_options(running, PRECISION_FOR_SPEED)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    let_waiting_threads_sleep()
    missing = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} not installed; run: pip install 'emim[serve]'")
    from emim.serve import server
    from emim.serve.app import create_app
    from emim.serve.guard import is_local
    from emim.serve.settings import Settings

    bound = server.bind(args.host, args.port)
    with bound:
        recogniser = load_recogniser(args)
        settings = Settings(
            max_mb=args.max_mb,
            max_seconds=args.max_seconds,
            read_seconds=args.read_seconds,
            read_mb=args.read_mb,
            waiting=args.waiting,
        )
        app = create_app(recogniser, settings, host=args.host, name=args.checkpoint or "bundled")
        if not is_local(args.host):
            warn(
                f"emim serve: {args.host} can be reached from other machines. There is no password and no "
                "encryption, and whoever reaches it can have videos decoded here."
            )
        try:
            server.make_server(
                app,
                settings,
                started=lambda: _announce(args, server.address(bound)),
                stopping=app.state.begin_to_stop,
            ).run(sockets=[bound])
        except KeyboardInterrupt:  # the usual way to stop it
            say("stopped")
    return 0


def _announce(args: argparse.Namespace, address: str) -> None:
    """Print the address, as JSON with --json, and write it to the file of --output."""
    content = {"address": address, "checkpoint": args.checkpoint or "bundled"}
    print(json.dumps(content) if args.json else f"{address}  (Ctrl-C to stop)", flush=True)
    if args.output is not None:
        write_json(args.output, content)
