"""ASGI application: the page, the JSON endpoint and the health endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message

from emim.errors import EmimError
from emim.inference.recogniser import Recogniser
from emim.serve.engine import Answer, Engine
from emim.serve.guard import Guard
from emim.serve.pictures import Results
from emim.serve.settings import Refusal, Settings
from emim.serve.upload import Form, check_headers, receive_form

__all__ = ["PAGE", "create_app"]

PAGE = Path(__file__).with_name("page")
_DRAIN_BYTES, _DRAIN_SECONDS = 64 << 20, 5.0
_SWEEP_SECONDS = 15.0
_CLIENT_GONE = 499
"""The customary status for a client that has disconnected; it is never sent."""


def create_app(
    recogniser: Recogniser, settings: Settings | None = None, *, host: str = "127.0.0.1", name: str = "bundled"
) -> Starlette:
    """Create the application, to be served by any ASGI server in one process.

    `app.state.begin_to_stop()` makes it refuse waiting requests, so that the server can end soon.

    Args:
        recogniser: the trained network.
        settings: limits.
        host: address that it will listen at, see `emim.serve.guard`.
        name: display name of the checkpoint.
    """
    service = _Service(recogniser, settings or Settings(), name)
    routes = [
        Route("/", _page),
        Route("/health", service.health),
        Route("/api/predict", service.predict, methods=["POST"]),
        Route("/results/{result}/{picture}", service.picture),
        Mount("/static", StaticFiles(directory=PAGE)),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, host=host)],
        exception_handlers={Refusal: _refused, HTTPException: _http_error, Exception: _unexpected},
        lifespan=service.lifespan,
    )
    app.state.begin_to_stop = service.begin_to_stop
    return app


class _Body:
    """The body of a request, with a record of whether all of it has arrived."""

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._stream = Request(request.scope, self._noting).stream()
        self._ended = False

    async def _noting(self) -> Message:
        message = await self._receive()
        self._ended = message["type"] == "http.disconnect" or not message.get("more_body")
        return message

    def chunks(self) -> AsyncIterator[bytes]:
        """Return the chunks as they arrive; raises `ClientDisconnect` when the client disconnects."""
        return self._stream

    async def drain(self) -> None:
        """Read on for a moment and discard it: a client that is still sending would only see a closed connection."""
        left = _DRAIN_BYTES
        with anyio.move_on_after(_DRAIN_SECONDS):
            while left > 0 and not self._ended:
                left -= len((await self._noting()).get("body", b""))


class _Service:
    """State shared by the requests, and their handlers."""

    def __init__(self, recogniser: Recogniser, settings: Settings, name: str) -> None:
        self.recogniser = recogniser
        self.settings = settings
        self.name = name
        self.started = time.monotonic()
        self.engine: Engine
        self.results: Results
        self.uploads: Path

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Keep all files in one folder, which is deleted at the end."""
        with tempfile.TemporaryDirectory(prefix="emim-serve-") as folder:
            self.uploads = Path(folder) / "uploads"
            self.uploads.mkdir()
            settings = self.settings
            self.results = Results(Path(folder) / "results", settings.keep_seconds, settings.keep_results)
            self.engine = Engine(self.recogniser, settings)
            sweeper = asyncio.create_task(self._sweep())
            try:
                yield
            finally:
                sweeper.cancel()
                await asyncio.to_thread(self.engine.stop)

    def begin_to_stop(self) -> None:
        self.engine.begin_to_stop()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.results.forget_old()

    async def health(self, request: Request) -> Response:
        """Answer with the model, the queue and the limits."""
        settings, engine = self.settings, self.engine
        return JSONResponse(
            {
                "status": "ok",
                "model": self.recogniser.card.model,
                "checkpoint": self.name,
                "classes": list(self.recogniser.classes),
                "device": str(self.recogniser.device),
                "precision": self.recogniser.precision,
                "queue": {"active": engine.active, "limit": settings.waiting + 1},
                "answered": engine.answered,
                "refused": engine.refused,
                "uptime_seconds": round(time.monotonic() - self.started, 1),
                "limits": {"max_mb": settings.max_mb, "max_seconds": settings.max_seconds},
            }
        )

    async def predict(self, request: Request) -> Response:
        """Answer with the best classes of the video in a form."""
        body = _Body(request)
        try:
            with self.engine.place(), tempfile.TemporaryDirectory(dir=self.uploads) as folder:
                return await self._predict(request, body, Path(folder))
        except ClientDisconnect:
            return Response(status_code=_CLIENT_GONE)
        except asyncio.CancelledError:  # by the server, at the end of its grace period
            return JSONResponse({"error": "The server is stopping."}, 503)
        except Refusal:
            await body.drain()
            raise

    async def _predict(self, request: Request, body: _Body, folder: Path) -> Response:
        started = time.monotonic()
        settings = self.settings
        check_headers(request.headers, settings.max_bytes)
        path = folder / "upload"
        form = await receive_form(body.chunks(), request.headers, path, settings)
        topk = _topk(form.values)
        drawn = folder / "pictures" if _wants_pictures(form.values) else None
        if drawn is not None:
            drawn.mkdir()
        answer = await _while_connected(request, self.engine.answer(path, form.name, topk=topk, pictures=drawn))
        content = _content(answer, form)
        if answer.pictures is not None:
            content["pictures"] = self._keep(answer)
        content["seconds"]["total"] = round(time.monotonic() - started, 3)
        return JSONResponse(content)

    def _keep(self, answer: Answer) -> dict[str, Any]:
        pictures = answer.pictures
        assert pictures is not None
        files = [path for path in (pictures.motion, pictures.explanation) if path is not None]
        place = f"/results/{self.results.add(files)}"
        return {
            "motion": f"{place}/{pictures.motion.name}" if pictures.motion else None,
            "explanation": f"{place}/{pictures.explanation.name}" if pictures.explanation else None,
            "description": pictures.description,
            "problem": pictures.problem,
            "kept_seconds": self.settings.keep_seconds,
        }

    async def picture(self, request: Request) -> Response:
        """Answer with a picture of a result."""
        path = self.results.find(request.path_params["result"], request.path_params["picture"])
        if path is None:
            raise Refusal(404, "There is no such picture any more; send the video again.")
        return FileResponse(path)


def _content(answer: Answer, form: Form) -> dict[str, Any]:
    intake = answer.intake
    return {
        "file": form.name,
        "predictions": [{"label": item.label, "score": round(item.score, 6)} for item in answer.predictions],
        "video": {
            "bytes": form.size,
            "frames": intake.frames,
            "fps": round(intake.fps, 3),
            "seconds": round(intake.seconds, 3),
            "width": intake.width,
            "height": intake.height,
        },
        "seconds": dict(answer.seconds),
    }


def _topk(values: Mapping[str, str]) -> int:
    text = values.get("topk", "5")
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise Refusal(400, f"topk must be a whole number from 1 to 1000, not {text!r}.")
    return int(text)


def _wants_pictures(values: Mapping[str, str]) -> bool:
    text = values.get("pictures", "0")
    if text not in ("0", "1"):
        raise Refusal(400, f"pictures must be 0 or 1, not {text!r}.")
    return text == "1"


async def _while_connected(request: Request, work: Any) -> Answer:
    """Return the result of the work, and cancel it if the client disconnects.

    Raises:
        ClientDisconnect: the client has disconnected.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        answer: Answer = task.result()
        return answer
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _page(request: Request) -> Response:
    return FileResponse(PAGE / "index.html")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return JSONResponse({"error": error.reason}, error.status, headers=_retry(error.status))


def _retry(status: int) -> dict[str, str]:
    return {"Retry-After": "30"} if status == 503 else {}


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "There is nothing here; the page is at /.", 405: "This address does not take such requests."}
    return JSONResponse({"error": said.get(error.status_code, error.detail)}, error.status_code, headers=error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    text = str(error) if isinstance(error, EmimError) else f"unexpected {type(error).__name__}"
    return JSONResponse({"error": f"The server failed: {text}."}, 500)
