"""The real server and its JSON endpoint, with good, broken and hostile requests."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image
from video_fixtures import encode

from conftest import CommandResult
from emim import Recogniser
from emim.data.video import open_video
from serving import Served, form, form_type, read_address

GIF = b"GIF89a\xff\xff\xff\xff\x80\x00\x00\x00\x00\x00\xff\xff\xff"
GIF_FRAME = b"!\xf9\x04\x00\x0a\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00"
"""A canvas of 65535 x 65535 pixels in a few bytes."""


@pytest.fixture(scope="session")
def clip(generated: Path) -> Path:
    return next((generated / "test" / "left").glob("*.mp4"))


@pytest.fixture(autouse=True)
def nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the server lives, nothing is under way, and no upload lies on the disk."""
    yield
    if "served" in request.fixturenames:
        served: Served = request.getfixturevalue("served")
        assert served.wait_until_idle()["queue"]["active"] == 0
        assert served.left_over() == []


def test_predictions_are_those_of_the_recogniser(served: Served, clip: Path) -> None:
    reply = served.predict(clip, topk=11)
    assert reply.status == 200
    expected = Recogniser.load(device="cpu").predict(clip, topk=11)
    assert [item["label"] for item in reply.json["predictions"]] == [item.label for item in expected]
    assert [item["score"] for item in reply.json["predictions"]] == pytest.approx(
        [item.score for item in expected], abs=1e-4
    )
    assert reply.json["file"] == "clip.mp4"
    assert reply.json["video"] == {
        "bytes": clip.stat().st_size,
        "frames": 8,
        "fps": pytest.approx(30, abs=25),
        "seconds": pytest.approx(8 / reply.json["video"]["fps"], abs=0.01),
        "width": 64,
        "height": 48,
    }
    assert "pictures" not in reply.json
    assert len(served.predict(clip).json["predictions"]) == 5


def test_pictures_can_be_fetched(served: Served, clip: Path, tmp_path: Path) -> None:
    reply = served.predict(clip, topk=1, pictures=1)
    assert reply.status == 200
    pictures = reply.json["pictures"]
    assert pictures["problem"] == ""
    assert reply.json["predictions"][0]["label"] in pictures["description"]
    motion = served.get(pictures["motion"])
    assert (motion.status, motion.headers["content-type"]) == (200, "video/mp4")
    (tmp_path / "motion.mp4").write_bytes(motion.body)
    with open_video(tmp_path / "motion.mp4") as reader:
        assert (reader.num_frames, reader.height, reader.width) == (4, 48, 128)  # 15 frames a second; frame and field
    part = served.get(pictures["motion"], Range="bytes=0-9")
    assert (part.status, part.body) == (206, motion.body[:10])
    explanation = served.get(pictures["explanation"])
    assert (explanation.status, explanation.headers["content-type"]) == (200, "image/png")
    (tmp_path / "explanation.png").write_bytes(explanation.body)
    with Image.open(tmp_path / "explanation.png") as picture:
        assert picture.width > 400
    assert served.get(pictures["motion"] + "x").status == 404
    assert served.get("/results/../uploads").status == 404
    assert served.get(pictures["motion"].replace("motion.mp4", "..%2f..%2fuploads")).status == 404


def test_the_page_and_its_headers(served: Served) -> None:
    page = served.get("/")
    assert page.status == 200
    assert b"Drop a video" in page.body
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert page.headers["x-content-type-options"] == "nosniff"
    for name in ("page.js", "style.css", "icon.svg"):
        assert served.get(f"/static/{name}").status == 200
    health = served.get("/health").json
    assert health["status"] == "ok"
    assert health["model"] == "uniformer_tiny_emim"
    assert health["device"] == "cpu"
    assert "left" in health["classes"]
    assert health["limits"] == {"max_mb": 2, "max_seconds": 5}


def broken(kind: str, clip: Path, folder: Path) -> bytes:
    """A file that is no good."""
    if kind == "huge":
        return GIF + 2 * GIF_FRAME + b";"
    if kind == "image":
        Image.new("RGB", (64, 48)).save(folder / "image.png")
        return (folder / "image.png").read_bytes()
    if kind == "long":
        return encode(folder / "long.mp4", "libx264", count=12, rate=Fraction(2)).read_bytes()
    if kind == "single":
        return encode(folder / "one.mp4", "libx264", count=1).read_bytes()
    whole = clip.read_bytes()
    hole = bytearray(whole)
    hole[200:-1200] = bytes(len(whole) - 1400)
    return {"empty": b"", "text": b"no video\n" * 9, "cut": whole[: len(whole) // 2], "hole": bytes(hole)}[kind]


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("empty", 422, "the file is empty"),
        ("text", 415, "is not a video: it holds text"),
        ("image", 415, "is not a video: it holds an image"),
        ("cut", 422, "ends "),
        ("hole", (415, 422), ""),
        ("single", 422, "has one frame only"),
        ("huge", 422, ""),
        ("long", 422, "it lasts 6.0 seconds, and 5 are allowed"),
    ],
)
def test_broken_files_get_a_reason(
    served: Served, clip: Path, tmp_path: Path, kind: str, status: int | tuple[int, ...], reason: str
) -> None:
    reply = served.predict(broken(kind, clip, tmp_path), name=f"{kind}.mp4", pictures=1)
    assert reply.status in (status if isinstance(status, tuple) else (status,)), reply.body
    assert reply.error.startswith(f"{kind}.mp4: ")
    assert reason in reply.error
    assert str(served.folder) not in reply.error
    assert reply.error.endswith(".")
    assert served.predict(clip).status == 200


def test_memory_of_decoding_is_limited(served: Served) -> None:
    canvas = GIF.replace(b"\xff\xff\xff\xff", b"\x00\x20\x00\x20", 1)  # 8192 x 8192
    reply = served.predict(canvas + 8 * GIF_FRAME + b";")
    assert reply.status == 422
    assert "needs more memory than 512 MB" in reply.error


@pytest.mark.parametrize("announced", [True, False])
def test_too_large_a_file_is_refused_whatever_is_announced(served: Served, announced: bool) -> None:
    body = form(bytes(3 << 20))
    headers = {"Content-Type": form_type()}
    if announced:
        reply = served.ask("POST", "/api/predict", body, headers)
    else:
        pieces = (body[start : start + 65536] for start in range(0, len(body), 65536))
        reply = served.ask("POST", "/api/predict", pieces, {**headers, "Transfer-Encoding": "chunked"}, chunked=True)
    assert reply.status == 413
    assert "larger than the 2 MB" in reply.error


def test_requests_that_are_wrong(served: Served, clip: Path) -> None:
    assert served.ask("POST", "/api/predict", b"{}", {"Content-Type": "application/json"}).status == 415
    assert served.ask("POST", "/api/predict", b"", {"Content-Type": "multipart/form-data"}).status == 415
    no_file = form(b"x").replace(b'name="file"', b'name="movie"')
    reply = served.ask("POST", "/api/predict", no_file, {"Content-Type": form_type()})
    assert (reply.status, reply.error) == (400, "There is no file in the field 'file'.")
    assert served.ask("POST", "/api/predict", b"nonsense", {"Content-Type": form_type()}).status == 400
    assert served.ask("POST", "/api/predict", form(b"x")[:-9], {"Content-Type": form_type()}).status == 400
    for value in ("0", "-1", "many", "99999"):
        reply = served.predict(clip, topk=value)
        assert (reply.status, "topk" in reply.error) == (400, True)
    assert served.predict(clip, pictures="yes").status == 400
    assert served.get("/api/predict").status == 405
    assert served.get("/nothing").status == 404
    assert served.get("/static/../app.py").status == 404


def test_other_sites_pages_are_refused(served: Served, clip: Path) -> None:
    assert served.get("/health", Host="attacker.example").status == 403
    assert served.get("/health", Host="localhost:1").status == 200
    headers = {"Content-Type": form_type(), "Origin": "https://attacker.example"}
    assert served.ask("POST", "/api/predict", form(clip.read_bytes()), headers).status == 403
    assert served.ask("POST", "/api/predict", form(clip.read_bytes()), {**headers, "Origin": "null"}).status == 403
    own = {**headers, "Origin": served.address}
    assert served.ask("POST", "/api/predict", form(clip.read_bytes()), own).status == 200


def test_clients_that_go_leave_nothing(served: Served, clip: Path) -> None:
    answered = served.wait_until_idle()["answered"]
    body = form(clip.read_bytes(), pictures=1)
    for sent in (body[: len(body) // 2], body):
        for _ in range(3):
            connection = served.connect()
            connection.putrequest("POST", "/api/predict")
            connection.putheader("Content-Type", form_type())
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(sent)
            time.sleep(0.05)
            connection.close()
    assert served.wait_until_idle()["answered"] == answered
    assert served.predict(clip).status == 200


@pytest.mark.skipif(sys.platform != "linux", reason="finds the decoder in /proc")
def test_a_killed_decoder_is_told_and_survived(served: Served, tmp_path: Path) -> None:
    # A transport stream is decoded in full, which takes long enough to be hit.
    options = {"preset": "ultrafast", "crf": "45"}
    video = encode(tmp_path / "long.ts", "libx264", count=100, size=(960, 1280), options=options)
    done = threading.Event()
    known = set(_decoders(served.process.pid))

    def kill() -> None:
        while not done.is_set():
            for process in set(_decoders(served.process.pid)) - known:
                time.sleep(0.05)
                os.kill(process, signal.SIGKILL)
                return
            time.sleep(0.002)

    killer = threading.Thread(target=kill)
    killer.start()
    reply = served.predict(video)
    done.set()
    killer.join()
    assert (reply.status, reply.error) == (
        422,
        "clip.mp4: the decoder crashed on it (its process crashed (SIGKILL)); it is probably damaged, export it again.",
    )
    assert served.predict(video).status == 200


def _decoders(server: int) -> list[int]:
    """Grandchildren: they are copies of a child that has only imported."""
    try:
        return [decoder for child in _children(server) for decoder in _children(child)]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _children(process: int) -> list[int]:
    threads = Path(f"/proc/{process}/task").iterdir()
    return [int(word) for thread in threads for word in (thread / "children").read_text().split()]


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_it_stops_without_a_trace(emim_process: Callable[..., object], tmp_path: Path, clip: Path, sent: int) -> None:
    process = emim_process("serve", "--port", 0, "--host", "0.0.0.0", environment={"TMPDIR": str(tmp_path)})
    served = read_address(process, tmp_path)  # type: ignore[arg-type]
    served = Served(served.process, served.address.replace("0.0.0.0", "127.0.0.1"), tmp_path)
    assert list(tmp_path.glob("emim-serve-*"))
    with ThreadPoolExecutor(3) as threads:  # one is drawn, the others wait
        replies = [threads.submit(served.predict, clip, pictures=1) for _ in range(3)]
        while served.get("/health").json["queue"]["active"] < 3 and not replies[0].done():
            time.sleep(0.01)
        served.process.send_signal(sent)
    for reply in replies:
        assert reply.result().status == 200 or reply.result().error == "The server is stopping."
    out, err = served.process.communicate(timeout=30)
    assert served.process.returncode == (0 if sent == signal.SIGINT else -sent)
    assert "0.0.0.0 can be reached from other machines" in err
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.glob("emim-serve-*")) == []


def test_a_port_in_use_is_one_line(emim_command: Callable[..., CommandResult]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = emim_command("serve", "--port", taken.getsockname()[1])
    assert result.status == 1
    assert result.err.startswith("emim serve: cannot listen at 127.0.0.1, port ")
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--port", "70000"], 2, "must be at most 65535"),
        (["--host", "nowhere.invalid"], 1, "--host nowhere.invalid: no such address"),
        (["--port", "0", "--checkpoint", "missing.safetensors"], 1, "missing.safetensors: no such checkpoint file"),
        (["--max-mb", "0"], 2, "must be at least 1"),
    ],
)
def test_wrong_options(emim_command: Callable[..., CommandResult], words: list[str], status: int, message: str) -> None:
    result = emim_command("serve", *words)
    assert result.status == status
    assert message in result.err
    assert "Traceback" not in result.err


def test_a_missing_package_is_named(
    emim_command: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = emim_command("serve")
    assert (result.status, result.err) == (1, "emim serve: uvicorn not installed; run: pip install 'emim[serve]'\n")
