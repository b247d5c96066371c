"""Tests of the parts of the server: forms, kept pictures, local addresses, the queue."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from video_fixtures import encode

from emim import Recogniser
from emim.serve import server, upload
from emim.serve.app import create_app
from emim.serve.engine import Engine
from emim.serve.guard import is_local
from emim.serve.pictures import Results
from emim.serve.settings import Refusal, Settings
from emim.serve.upload import Form, check_headers, receive_form
from serving import BOUNDARY, form, form_type

HEADERS = {"content-type": form_type()}


def receive(body: bytes, path: Path, step: int = 1 << 16, pause: float = 0, **limits: float) -> Form:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), step):
            await asyncio.sleep(pause)
            yield body[start : start + step]

    settings = dataclasses.replace(Settings(max_mb=1), **limits)
    return asyncio.run(receive_form(chunks(), HEADERS, path, settings))


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
def test_a_form_is_the_same_in_whatever_pieces_it_comes(tmp_path: Path, step: int) -> None:
    content = bytes(range(256)) + b"\r\n--" + BOUNDARY[:-1].encode()  # nearly the end of a part
    got = receive(form(content, "a/b\\c\x07lip.mp4", topk=3), tmp_path / "file", step)
    assert got == Form("clip.mp4", len(content), {"topk": "3"})
    assert (tmp_path / "file").read_bytes() == content


def test_names_are_short_and_there_is_always_one(tmp_path: Path) -> None:
    assert receive(form(b"x", "n" * 500), tmp_path / "file").name == "n" * 120
    assert receive(form(b"x", "folder/"), tmp_path / "file").name == "folder"
    assert receive(form(b"x", ""), tmp_path / "file").name == "video"


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (form(bytes((1 << 20) + 1)), 413, "larger than the 1 MB"),
        (form(b"x", note="n" * 2000), 400, "Part exceeded maximum size of 1KB"),
        (form(b"x", **{f"field{number}": 1 for number in range(20)}), 400, "Too many fields"),
        (form(b"x")[: -len(f"--{BOUNDARY}--\r\n")] + form(b"y"), 400, "Too many files"),
        (form(b"x").replace(b"Content-Disposition", b"Other"), 400, "must be provided"),
        (form(b"x").replace(b"\r\n\r\nx", b"\r\n" + b"a" * 9000 + b"\r\n\r\nx"), 400, "cannot be read"),
        (form(b"x")[:-20], 400, "ends before its end"),
        (form(b""), 422, "is empty"),
    ],
)
def test_forms_that_are_refused(tmp_path: Path, body: bytes, status: int, reason: str) -> None:
    with pytest.raises(Refusal, match=reason) as caught:
        receive(body, tmp_path / "file")
    assert caught.value.status == status


def test_a_slow_upload_ends(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="took longer") as caught:
        receive(form(bytes(500)), tmp_path / "file", step=10, pause=0.05, upload_seconds=0.2)
    assert caught.value.status == 408


def test_an_announced_size_is_believed_when_it_is_too_large() -> None:
    headers = {"content-type": form_type(), "content-length": str(1 << 40)}
    with pytest.raises(Refusal, match="larger") as caught:
        check_headers(headers, 1 << 20)
    assert caught.value.status == 413
    check_headers({"content-type": form_type(), "content-length": "five"}, 1 << 20)


def test_an_upload_that_trickles_ends_long_before_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_RATE_AFTER_SECONDS", 0.2)
    with pytest.raises(Refusal, match="slower than 4 KB a second") as caught:
        receive(form(bytes(500)), tmp_path / "file", step=1, pause=0.05)
    assert caught.value.status == 408


def test_results_go_by_age_and_by_number(tmp_path: Path) -> None:
    now = [0.0]
    results = Results(tmp_path / "results", keep_seconds=10, keep_results=2, clock=lambda: now[0])

    def add() -> str:
        (tmp_path / "motion.mp4").write_bytes(b"m")
        return results.add([tmp_path / "motion.mp4"])

    first, second = add(), add()
    assert results.find(first, "motion.mp4") is not None
    now[0] = 5.0
    third = add()
    assert results.find(first, "motion.mp4") is None
    assert results.find(second, "motion.mp4") is not None
    assert results.find(second, "../motion.mp4") is None
    assert results.find("..", "motion.mp4") is None
    now[0] = 11.0
    assert results.find(second, "motion.mp4") is None
    assert results.find(third, "motion.mp4") is not None
    now[0] = 16.0
    results.forget_old()
    assert len(results) == 0
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.4", False),
        ("localhost.attacker.example", False),
        ("127.0.0.1.nip.io", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, local: bool) -> None:
    assert is_local(host) is local


def test_no_more_than_so_many_wait() -> None:
    async def fill() -> None:
        engine = Engine(Recogniser.load(device="cpu"), Settings(waiting=1))
        try:
            with engine.place():
                with engine.place(), pytest.raises(Refusal, match="2 videos are waiting") as caught, engine.place():
                    pass
                assert caught.value.status == 503
                with engine.place():
                    assert engine.active == 2
            assert (engine.active, engine.answered, engine.refused) == (0, 3, 1)
        finally:
            engine.stop()

    asyncio.run(fill())


def test_decoding_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    # A transport stream is decoded in full before anything is known of it.
    video = encode(tmp_path / "long.ts", "libx264", count=100, size=(480, 640), options={"preset": "ultrafast"})

    async def answer() -> None:
        engine = Engine(Recogniser.load(device="cpu"), Settings(read_seconds=0.05))
        try:
            with pytest.raises(Refusal, match=r"long\.ts: decoding took longer than 0\.05 seconds") as caught:
                await engine.answer(video, "long.ts", topk=1)
            assert caught.value.status == 504
        finally:
            engine.stop()

    asyncio.run(answer())


def test_half_open_connections_are_closed() -> None:
    """Headers that come a byte at a time, the second request of a connection too; a whole request is answered."""
    settings = Settings(header_seconds=0.5)
    bound = server.bind("127.0.0.1", 0)
    app = create_app(Recogniser.load(device="cpu"), settings)
    ready = threading.Event()
    running = server.make_server(app, settings, started=ready.set, stopping=app.state.begin_to_stop)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        assert ready.wait(30)
        slow = [socket.create_connection(bound.getsockname()[:2], timeout=10) for _ in range(20)]
        for number, connection in enumerate(slow):
            if number % 2:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
            connection.sendall(b"GET /health HT")
        for connection in slow:
            answer = b""
            while piece := connection.recv(1 << 16):
                answer += piece
            assert b"HTTP/1.1 408" in answer
            connection.close()
    finally:
        running.should_exit = True
        thread.join(30)
