"""`emim serve`: a local web page that names the action in a video."""

from __future__ import annotations

import argparse
import importlib.util

from emim.cli.console import SubParsers, natural, positive, say
from emim.cli.predict import add_device_options, load_recogniser
from emim.environment import let_waiting_threads_sleep
from emim.errors import ConfigError

_PACKAGES = {"starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
_HIGHEST_PORT = 65535


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "serve",
        parents=[common],
        help="a local web page that names the action in a video",
        description=(
            "A local web page: drop a video or use the camera, and see the best classes, the motion that the network "
            "compares, and what the decision rests on. POST /api/predict answers programs with JSON. Needs "
            "`pip install 'emim[serve]'`."
        ),
    )
    parser.add_argument("--checkpoint", help="model.safetensors of a run (default: the bundled model)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine only)"
    )
    parser.add_argument("--port", type=_port, default=8000, help="0 takes a free one (default 8000)")
    parser.add_argument("--max-mb", type=positive, default=200, help="size of an upload in MiB (default 200)")
    parser.add_argument("--max-seconds", type=positive, default=60, help="duration of a video (default 60)")
    parser.add_argument(
        "--read-seconds", type=positive, default=60, help="how long decoding a video may take (default 60)"
    )
    parser.add_argument("--read-mb", type=positive, default=2048, help="memory for decoding a video (default 2048)")
    parser.add_argument("--waiting", type=natural, default=32, help="requests that may wait (default 32)")
    running = parser.add_argument_group("running")
    add_device_options(running)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
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
            say(
                f"emim serve: warning: {args.host} can be reached from other machines. There is no password and no "
                "encryption, and whoever reaches it can have videos decoded here."
            )
        try:
            server.make_server(
                app,
                settings,
                started=lambda: print(f"{server.address(bound)}  (Ctrl-C to stop)", flush=True),
                stopping=app.state.begin_to_stop,
            ).run(sockets=[bound])
        except KeyboardInterrupt:  # the usual way to stop it
            say("stopped")
    return 0


def _port(text: str) -> int:
    value = natural(text)
    if value > _HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"must be at most {_HIGHEST_PORT}, got {value}")
    return value
