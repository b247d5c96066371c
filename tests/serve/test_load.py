"""The server under load."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving import read_address

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "serve_load.py"


@pytest.fixture(scope="session")
def clip(generated: Path) -> Path:
    return next((generated / "test" / "left").glob("*.mp4"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")
def test_fifty_requests_eight_at_once_lose_none_and_leave_memory_flat(clip: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(clip), "--json", str(tmp_path / "load.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    load = json.loads((tmp_path / "load.json").read_text())
    assert (load["requests"], load["answered"], load["at_once"]) == (50, 50, 8)
    assert load["after"] - load["before"] < 64  # MiB; one upload kept with its views would be more than one
    assert done.returncode == 0


@pytest.mark.slow
def test_more_than_may_wait_are_told_to_come_again(
    emim_process: Callable[..., subprocess.Popen[str]], clip: Path, tmp_path: Path
) -> None:
    process = emim_process("serve", "--port", 0, "--waiting", 1, environment={"TMPDIR": str(tmp_path)})
    served = read_address(process, tmp_path)
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda _: served.predict(clip, pictures=1), range(8)))
    refused = [reply for reply in replies if reply.status == 503]
    assert {reply.status for reply in replies} == {200, 503}
    assert all(reply.headers["retry-after"] == "30" for reply in refused)
    assert "videos are waiting already" in refused[0].error
    health = served.wait_until_idle()
    assert (health["answered"], health["refused"]) == (8 - len(refused), len(refused))
    assert served.predict(clip).status == 200
