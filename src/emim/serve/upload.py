"""Receive a form with a video: never more bytes than allowed, whatever its headers announce, and never too slowly."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import anyio
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from emim.serve.settings import Refusal, Settings

__all__ = ["FILE_FIELD", "Form", "check_headers", "receive_form", "too_large"]

FILE_FIELD = "file"
_MAX_FIELDS = 16
_MAX_FIELD_BYTES = 1024
_MAX_NAME_LENGTH = 120
_ENVELOPE_BYTES = 64 << 10
"""Bytes of a form around its file."""
_RATE_AFTER_SECONDS = 10.0
"""Time that an upload has before its rate is checked."""


@dataclass
class Form:
    """A received form.

    Attributes:
        name: name of the file, as its sender calls it, without folders.
        size: bytes of the file.
        values: the other fields.
    """

    name: str
    size: int
    values: dict[str, str] = field(default_factory=dict)


def check_headers(headers: Mapping[str, str], max_bytes: int) -> None:
    """Refuse a request whose body need not be read.

    Raises:
        Refusal: it is no form, or announces too large a body.
    """
    kind = headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data") or "boundary=" not in kind:
        raise Refusal(415, f"Send the video as multipart/form-data, in the field {FILE_FIELD!r}.")
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_bytes + _ENVELOPE_BYTES:
        raise too_large(max_bytes)


async def receive_form(
    chunks: AsyncIterator[bytes], headers: Mapping[str, str], path: Path, settings: Settings
) -> Form:
    """Write the file of a form to `path`.

    Args:
        chunks: the body.
        headers: of the request, checked with `check_headers`.
        path: file to write.
        settings: limits on size, time and rate.

    Raises:
        Refusal: too large, too slow, cut off, no file, or no form at all.
    """
    parser = _Parser(
        Headers(headers),
        _limited(chunks, settings, lambda: parser.ended),
        max_files=1,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        with anyio.fail_after(settings.upload_seconds):
            form = await parser.parse()
    except TimeoutError:
        raise Refusal(408, f"The upload took longer than {settings.upload_seconds:g} seconds.") from None
    except MultiPartException as error:
        raise Refusal(400, f"The form cannot be read: {error.message.rstrip('.')}.") from error
    try:
        upload = form.get(FILE_FIELD)
        if not isinstance(upload, UploadFile):
            raise Refusal(400, f"There is no file in the field {FILE_FIELD!r}.")
        name = _plain_name(upload.filename or "")
        with path.open("wb") as file:
            await anyio.to_thread.run_sync(shutil.copyfileobj, upload.file, file, 1 << 20)
        size = path.stat().st_size
        if size > settings.max_bytes:
            raise too_large(settings.max_bytes)
        if size == 0:
            raise Refusal(422, f"{name}: the file is empty.")
        return Form(name, size, {key: value for key, value in form.multi_items() if isinstance(value, str)})
    finally:
        await form.close()


class _Parser(MultiPartParser):
    """A parser that knows whether it has seen the end of the form."""

    ended = False

    def on_end(self) -> None:
        self.ended = True


async def _limited(
    chunks: AsyncIterator[bytes], settings: Settings, ended: Callable[[], bool]
) -> AsyncGenerator[bytes, None]:
    """Pass the chunks on; refuse more bytes than allowed, fewer a second than expected, and a form that is cut off.

    An error that is raised here ends the parser, which then closes its files.
    """
    total, started = 0, time.monotonic()
    async for chunk in chunks:
        total += len(chunk)
        if total > settings.max_bytes + _ENVELOPE_BYTES:
            raise too_large(settings.max_bytes)
        seconds = time.monotonic() - started - _RATE_AFTER_SECONDS
        if seconds > 0 and total < settings.min_rate * seconds:
            raise Refusal(408, f"The upload is slower than {settings.min_rate >> 10} KB a second.")
        yield chunk
    if not ended():
        raise Refusal(400, "The form ends before its end; send it again.")


def too_large(max_bytes: int) -> Refusal:
    """Return the refusal of a file above the limit."""
    return Refusal(
        413, f"The file is larger than the {max_bytes >> 20} MB that are allowed; cut it or make it smaller."
    )


def _plain_name(name: str) -> str:
    """Return a file's name without folders and unprintable characters."""
    last = PureWindowsPath(PurePosixPath(name).name).name
    return "".join(character for character in last if character.isprintable())[:_MAX_NAME_LENGTH] or "video"
