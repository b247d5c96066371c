"""Run the application until it is stopped."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from emim.errors import ConfigError
from emim.serve.settings import Settings

__all__ = ["address", "bind", "make_server"]

_SECONDS_TO_FINISH = 15


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket to an address; port 0 takes a free one.

    Raises:
        ConfigError: this machine has no such address, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise ConfigError(f"--host {host}: no such address ({error.strerror})") from error
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"cannot listen at {host}, port {port} ({error.strerror}); take another --port, or 0 for a free one"
        ) from error
    return bound


def address(bound: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(
    app: Starlette, settings: Settings, *, started: Callable[[], None], stopping: Callable[[], None]
) -> uvicorn.Server:
    """Return a server; `server.run(sockets=[bound])` serves until interrupted.

    Args:
        app: the application.
        settings: limits of connections.
        started: called once requests are accepted.
        stopping: called once they no longer are.
    """
    config = uvicorn.Config(
        app,
        http=functools.partial(_Connection, settings.header_seconds),  # type: ignore[arg-type]
        limit_concurrency=settings.max_connections,
        log_level="warning",
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_FINISH,
    )
    return _Server(config, started, stopping)


class _Connection(H11Protocol):
    """A connection whose headers must arrive in time, so that half-open ones do not pile up."""

    def __init__(self, header_seconds: float, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_seconds = header_seconds
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and self.conn.their_state is h11.IDLE:
            self._expect_headers()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._disarm()

    def _expect_headers(self) -> None:
        self._deadline = self.loop.call_later(self._header_seconds, self._close_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            self.transport.close()


class _Server(uvicorn.Server):
    """A server that reports when it starts and stops to accept requests."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None], stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._when_started, self._when_stopping = started, stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._when_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._when_stopping()
        await super().shutdown(sockets)
