"""Does `emim serve` hold load? Many requests, several at once: none lost, and memory that does not grow.

    python benchmarks/serve_load.py <video> --requests 50 --at-once 8 [--pictures]

Starts the real command on a free port and sends the video again and again to the JSON endpoint. Before the counted
requests come some to warm up, because the first ones fill caches. Memory is resident memory, of the server process
after the warm-up and at the end, and of all its processes at the highest; pages that several share are divided among
them. The exit status is 1 where a request got no answer or another one than the first, or where the server has grown by
more than `--allowed`. Needs Linux (/proc).
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import statistics
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emim.environment import describe_machine
from emim.utils import write_json

_READING_SECONDS = 0.2


@dataclass(frozen=True)
class Load:
    """What was measured.

    Attributes:
        requests: how many were sent.
        answered: with the status 200 and the labels of the first answer.
        at_once: how many were under way at a time.
        pictures: whether they asked for pictures.
        seconds: of all together.
        median: seconds of a request, waiting for the others included.
        p95: the same, of the slowest twentieth.
        before: MiB of the server after the warm-up.
        after: MiB of the server after the last request.
        peak: MiB at the highest, of the server and the processes that decode.
    """

    requests: int
    answered: int
    at_once: int
    pictures: bool
    seconds: float
    median: float
    p95: float
    before: float
    after: float
    peak: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("video", type=Path, help="a video file")
    parser.add_argument("--requests", type=int, default=50, help="how many")
    parser.add_argument("--at-once", type=int, default=8, help="how many at a time")
    parser.add_argument("--warm-up", type=int, default=16, help="requests before those counted")
    parser.add_argument("--pictures", action="store_true", help="ask for pictures, too")
    parser.add_argument("--checkpoint", help="a trained model (default: the bundled one)")
    parser.add_argument("--allowed", type=float, default=64.0, help="MiB of growth that pass")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()

    command = [sys.executable, "-m", "emim", "serve", "--port", "0"]
    if options.checkpoint:
        command += ["--checkpoint", options.checkpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().partition("  ")[0]
        if not address.startswith("http://"):
            return 1
        try:
            load = measure(address.removeprefix("http://"), server.pid, options)
        finally:
            server.send_signal(signal.SIGINT)
    print(describe_machine().line())
    print(
        f"{load.answered} of {load.requests} requests answered, {load.at_once} at once, in {load.seconds:.1f} s; "
        f"median {load.median:.2f} s, 95 % within {load.p95:.2f} s"
    )
    print(
        f"server: {load.before:.0f} MiB after the warm-up, {load.after:.0f} MiB after the last request; "
        f"with its readers {load.peak:.0f} MiB at the highest"
    )
    if options.json:
        write_json(options.json, asdict(load))
    return 0 if load.answered == load.requests and load.after - load.before <= options.allowed else 1


def measure(place: str, server: int, options: argparse.Namespace) -> Load:
    """Warm up, then send and count."""
    boundary = uuid.uuid4().hex
    body = form(options.video, boundary, options.pictures)
    first = post(place, body, boundary)
    if first is None:
        sys.exit("the first request got no answer; is it a video?")
    done = threading.Event()
    peaks: list[float] = []
    watcher = threading.Thread(target=watch, args=(server, peaks, done))
    times: list[float] = []

    def timed(number: int) -> bool:
        begun = time.monotonic()
        answer = post(place, body, boundary)
        times.append(time.monotonic() - begun)
        return answer is not None and labels(answer) == labels(first)

    with ThreadPoolExecutor(options.at_once) as threads:
        list(threads.map(timed, range(options.warm_up)))
        times.clear()
        before = memory(server)
        watcher.start()
        begun = time.monotonic()
        answered = sum(threads.map(timed, range(options.requests)))
        seconds = time.monotonic() - begun
    after = memory(server)
    done.set()
    watcher.join()
    times.sort()
    return Load(
        requests=options.requests,
        answered=answered,
        at_once=options.at_once,
        pictures=options.pictures,
        seconds=round(seconds, 2),
        median=round(statistics.median(times), 3),
        p95=round(times[min(len(times) - 1, int(0.95 * len(times)))], 3),
        before=round(before, 1),
        after=round(after, 1),
        peak=round(max([*peaks, after]), 1),
    )


def form(video: Path, boundary: str, pictures: bool) -> bytes:
    """The form that a browser would send."""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="pictures"\r\n\r\n{int(pictures)}\r\n--{boundary}\r\n'
    head += f'Content-Disposition: form-data; name="file"; filename="{video.name}"\r\n\r\n'
    return head.encode() + video.read_bytes() + f"\r\n--{boundary}--\r\n".encode()


def post(place: str, body: bytes, boundary: str) -> dict[str, Any] | None:
    """The answer; None where there is none, or one of another status than 200, which is printed."""
    connection = http.client.HTTPConnection(place, timeout=600)
    try:
        connection.request("POST", "/api/predict", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
        answer = connection.getresponse()
        content: dict[str, Any] = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        print(f"lost: {error!r}", file=sys.stderr)
        return None
    finally:
        connection.close()
    if answer.status != 200:
        print(f"status {answer.status}: {content}", file=sys.stderr)
        return None
    return content


def labels(answer: dict[str, Any]) -> list[str]:
    return [item["label"] for item in answer["predictions"]]


def watch(server: int, peaks: list[float], done: threading.Event) -> None:
    """Keep the highest memory of all processes of the server."""
    while not done.wait(_READING_SECONDS):
        peaks[:] = [max([*peaks, sum(map(memory, [server, *descendants(server)]))])]


def memory(process: int) -> float:
    """Proportional resident memory of a process in MiB: pages that several share are divided among them."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def descendants(process: int) -> list[int]:
    """Children, their children, and so on."""
    try:
        threads = list(Path(f"/proc/{process}/task").iterdir())
        words = [(thread / "children").read_text(encoding="ascii").split() for thread in threads]
    except (FileNotFoundError, ProcessLookupError):
        return []
    children = [int(word) for line in words for word in line]
    return children + [deeper for child in children for deeper in descendants(child)]


if __name__ == "__main__":
    raise SystemExit(main())
