"""A real `emim serve` for tests, and requests to it."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BOUNDARY = "limit-of-a-part"


@dataclass(frozen=True)
class Reply:
    """Status, headers by lower-case name, and content of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """What the answer complains of."""
        return str(self.json["error"])


@dataclass(frozen=True)
class Served:
    """A running server.

    Attributes:
        process: it.
        address: its URL.
        folder: where its temporary files are.
    """

    process: subprocess.Popen[str]
    address: str
    folder: Path

    def connect(self) -> http.client.HTTPConnection:
        place = urlsplit(self.address)
        return http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, chunked: bool = False
    ) -> Reply:
        connection = self.connect()
        try:
            connection.request(method, path, body, dict(headers or {}), encode_chunked=chunked)
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, headers=headers)

    def predict(self, video: Path | bytes, name: str = "clip.mp4", **fields: object) -> Reply:
        """What the JSON endpoint says of a video, or of these bytes under that name."""
        content = video if isinstance(video, bytes) else video.read_bytes()
        return self.ask("POST", "/api/predict", form(content, name, **fields), {"Content-Type": form_type()})

    def left_over(self) -> list[Path]:
        """Uploads that lie on the disk."""
        return list(self.folder.glob("emim-serve-*/uploads/*"))

    def wait_until_idle(self) -> dict[str, Any]:
        """The health once no request is under way."""
        deadline = time.monotonic() + 30
        while True:
            health: dict[str, Any] = self.get("/health").json
            if health["queue"]["active"] == 0 or time.monotonic() > deadline:
                return health
            time.sleep(0.05)


def read_address(process: subprocess.Popen[str], folder: Path) -> Served:
    """The server that a process of `emim serve` has become, once it says so."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("http"):
        _, err = process.communicate(timeout=30)
        raise AssertionError(f"the server does not start: {line}{err}")
    return Served(process, line.split()[0], folder)


def form(content: bytes, name: str = "clip.mp4", **fields: object) -> bytes:
    """A form with a file and other fields, as browsers send it."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    disposition = f'Content-Disposition: form-data; name="file"; filename="{name}"'
    parts.append(f"--{BOUNDARY}\r\n{disposition}\r\nContent-Type: video/mp4\r\n\r\n".encode() + content + b"\r\n")
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def form_type() -> str:
    return f"multipart/form-data; boundary={BOUNDARY}"
