"""A form with a video, written to disk as it arrives: never more than allowed, whatever its headers announce."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import anyio
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from emim.serve.settings import Refusal

FILE_FIELD = "file"
_LONGEST_VALUE = 1024
_MOST_PARTS = 16
_LONGEST_NAME = 120
_ENVELOPE = 64 << 10
"""Bytes of a form around its file."""


@dataclass
class Form:
    """What was sent.

    Attributes:
        name: of the file, as its sender calls it, without folders.
        size: of the file in bytes; None where there was no file.
        values: the other fields.
    """

    name: str = "video"
    size: int | None = None
    values: dict[str, str] = field(default_factory=dict)


def check_headers(headers: Mapping[str, str], max_bytes: int) -> bytes:
    """Refuse what need not be read; returns the boundary between the parts of the form.

    Raises:
        Refusal: it is no form, or announces to be too large.
    """
    kind, options = parse_options_header(headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Refusal(415, f"Send the video as multipart/form-data, in the field {FILE_FIELD!r}.")
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes + _ENVELOPE:
        raise too_large(max_bytes)
    return options[b"boundary"]


async def receive_form(
    chunks: AsyncIterator[bytes], boundary: bytes, path: Path, *, max_bytes: int, seconds: float
) -> Form:
    """Write the file of a form to `path`.

    Raises:
        Refusal: too large, too slow, cut off, no file, or no form at all.
    """
    with path.open("wb") as file:
        receiver = _Receiver(file, max_bytes)
        try:
            parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": receiver.begin_part,
                    "on_header_field": receiver.take_header_name,
                    "on_header_value": receiver.take_header_value,
                    "on_header_end": receiver.end_header,
                    "on_headers_finished": receiver.end_headers,
                    "on_part_data": receiver.take_data,
                    "on_part_end": receiver.end_part,
                    "on_end": receiver.end,
                },
            )
            with anyio.fail_after(seconds):
                async for chunk in chunks:
                    receiver.count(len(chunk))
                    parser.write(chunk)
        except TimeoutError:
            raise Refusal(408, f"The upload took longer than {seconds:.0f} seconds.") from None
        except FormParserError as error:
            raise Refusal(400, f"The form cannot be read: {error}.") from error
    if not receiver.ended:
        raise Refusal(400, "The form ends before its end; send it again.")
    if receiver.form.size is None:
        raise Refusal(400, f"There is no file in the field {FILE_FIELD!r}.")
    if receiver.form.size == 0:
        raise Refusal(422, f"{receiver.form.name}: the file is empty.")
    return receiver.form


def too_large(max_bytes: int) -> Refusal:
    """The refusal of a file above the limit."""
    return Refusal(
        413, f"The file is larger than the {max_bytes >> 20} MB that are allowed; cut it or make it smaller."
    )


class _Receiver:
    """Takes the parts of a form."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self.form = Form()
        self.ended = False
        self._file = file
        self._max_bytes = max_bytes
        self._total = self._parts = 0
        self._header_name, self._header_value = b"", b""
        self._field: str | None = None
        self._is_file = False
        self._value = b""

    def count(self, size: int) -> None:
        self._total += size
        if self._total > self._max_bytes + _ENVELOPE:
            raise too_large(self._max_bytes)

    def begin_part(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise Refusal(400, f"The form has more than {_MOST_PARTS} parts.")
        self._header_name, self._header_value = b"", b""
        self._field, self._is_file, self._value = None, False, b""

    def take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(self._header_value)
            self._field = options.get(b"name", b"").decode("utf-8", "replace")
            self._is_file = self._field == FILE_FIELD
            if self._is_file:
                if self.form.size is not None:
                    raise Refusal(400, "Send one file at a time.")
                self.form.name = _plain_name(options.get(b"filename", b"").decode("utf-8", "replace"))
                self.form.size = 0
        self._header_name, self._header_value = b"", b""

    def end_headers(self) -> None:
        if self._field is None:
            raise Refusal(400, "A part of the form has no name.")

    def take_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._value += data[start:end]
            if len(self._value) > _LONGEST_VALUE:
                raise Refusal(400, f"The field {self._field!r} is longer than {_LONGEST_VALUE} bytes.")
            return
        assert self.form.size is not None
        self.form.size += end - start
        if self.form.size > self._max_bytes:
            raise too_large(self._max_bytes)
        self._file.write(data[start:end])

    def end_part(self) -> None:
        if not self._is_file and self._field is not None:
            self.form.values[self._field] = self._value.decode("utf-8", "replace")

    def end(self) -> None:
        self.ended = True


def _plain_name(name: str) -> str:
    """A file's name without folders and without anything that cannot be printed."""
    last = PureWindowsPath(PurePosixPath(name).name).name
    return "".join(character for character in last if character.isprintable())[:_LONGEST_NAME] or "video"
