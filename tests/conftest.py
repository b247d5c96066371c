"""What several test files share: generated clips on disk, a trained model, and where the real clips lie."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Tests that start processes have more threads than cores, and threads that spin while they wait would take them.
# OpenMP reads it when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads it when it is imported, which other imports below do.
    os.environ.setdefault("TRITON_INTERPRET", "1")

import miniature
from chromium import Chromium, ChromiumMissingError, find_chromium
from serving import Served, read_address

SHARED = Path(__file__).resolve().parents[1].parent / "shared"

# The smallest run that does everything: 32-pixel clips of 4 frames, one epoch.
QUICK = [
    "preprocessing.num_frames=4",
    "preprocessing.size=32",
    "preprocessing.crops=1",
    "trainer.epochs=1",
    "trainer.batch_size=8",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "data.workers=0",
]


class TellAtOnce:
    """Names failed and very slow tests when they end: a run that is cut off prints no summary."""

    SLOW = 60.0
    """Seconds."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def _tell(self, line: str) -> None:
        terminal: Any = self.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.write_line(f"\n{line}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._tell(f"failed in {report.when}: {report.nodeid}\n{report.longreprtext[-600:]}")
        elif report.duration > self.SLOW:
            self._tell(f"{report.duration:.0f} s of {report.when}: {report.nodeid}")


def pytest_configure(config: pytest.Config) -> None:
    # A run started in the background may ignore Ctrl-C, and the commands that tests interrupt would inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(TellAtOnce(config))


@dataclass(frozen=True)
class CommandResult:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


@pytest.fixture
def emim_command(capfd: pytest.CaptureFixture[str]) -> Callable[..., CommandResult]:
    """Runs the real command line in this process."""
    from emim.cli.main import main

    def run(*words: object) -> CommandResult:
        capfd.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:  # argparse ends so
            status = int(stop.code or 0)
        captured = capfd.readouterr()
        return CommandResult(status, captured.out, captured.err)

    return run


ONE_AFTER_THE_OTHER = """
import contextlib, io, json, sys
from emim.cli.main import main

for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
    if status:
        break
"""


def run_in_a_process(*commands: Sequence[object]) -> list[CommandResult]:
    """Run commands one after the other, up to one that fails, in a process of their own: it gives its memory back."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run([sys.executable, "-c", ONE_AFTER_THE_OTHER, words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [CommandResult(*json.loads(line)) for line in done.stdout.splitlines()]


def start_emim(
    *words: object, processes: int = 1, torchrun: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start the real command line as a process of its own, or as several under torchrun; one thread in each.

    Args:
        words: the command.
        processes: how many on this machine.
        torchrun: its options, where they are to be others than those of one machine.
        environment: more variables.
    """
    launcher = [sys.executable, "-m"]
    if processes > 1 or torchrun:
        options = torchrun or ("--standalone", f"--nproc-per-node={processes}")
        launcher += ["torch.distributed.run", *options, "-m"]
    return subprocess.Popen(
        [*launcher, "emim", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def emim_process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start_emim`, with an end to all that it started."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: object, **how: Any) -> subprocess.Popen[str]:
        started.append(start_emim(*words, **how))
        return started[-1]

    yield start
    for process in started:
        with process:  # closes its pipes
            process.kill()


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of generated clips: <root>/{train,val,test}/<class>/*.mp4."""
    from emim.datasets.synthetic import ClipOptions, write_dataset

    root = tmp_path_factory.mktemp("generated") / "data"
    write_dataset(
        root, splits={"train": 3, "val": 1, "test": 2}, options=ClipOptions(num_frames=8, height=48, width=64)
    )
    return root


LogLines = Callable[[], list[str]]


@pytest.fixture
def log_lines(caplog: pytest.LogCaptureFixture) -> LogLines:
    """The messages that the package has logged since the last call, as the command line would print them."""
    caplog.set_level(logging.INFO, "emim")

    def lines() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.name.startswith("emim")]
        caplog.clear()
        return found

    return lines


@pytest.fixture(scope="session")
def trained(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a quick run on `generated`."""
    from emim.training.recipe import load_recipe
    from emim.training.run import train

    output = tmp_path_factory.mktemp("runs")
    config = load_recipe(None, [f"data.path={generated}", f"output={output}", "name=quick", *QUICK])
    return train(config, progress_bar=False).folder


@pytest.fixture(scope="session")
def report_page(trained: Path, generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of `trained`, tested on the test clips of `generated`."""
    from emim.cli.main import main

    page = tmp_path_factory.mktemp("report") / "report.html"
    words = ["report", trained, "--data", generated, "-o", page, "--show-clips", 2, "--workers", 0, "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    return page


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """The folder of real clips; skips where it is absent."""
    folder = SHARED / "clips"
    if not folder.is_dir():
        pytest.skip(f"real clips are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """A headless Chromium, installed from the system's packages if need be; skips where that is impossible."""
    try:
        program = find_chromium()
    except ChromiumMissingError as error:
        pytest.skip(str(error))
    with Chromium(program) as browser:
        yield browser


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`emim serve` with the bundled model on the CPU, which takes 2 MB and 5 seconds of video."""
    folder = tmp_path_factory.mktemp("served")
    words = ("serve", "--port", 0, "--device", "cpu", "--max-mb", 2, "--max-seconds", 5, "--read-mb", 512)
    with start_emim(*words, environment={"TMPDIR": str(folder)}) as process:
        try:
            yield read_address(process, folder)
        finally:
            process.kill()


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The miniature of a known data set (see `miniature.build`), built once; not to be changed."""
    folder = tmp_path_factory.mktemp("miniatures")

    def original(name: str) -> Path:
        root = folder / name
        return root if root.exists() else miniature.build(name, root)

    return original


@pytest.fixture
def copy_of(originals: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the miniature of a known data set, for one test to change."""
    return lambda name: Path(shutil.copytree(originals(name), tmp_path / name))


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that PyTorch hands out uninitialised is filled with NaN; tilings are not tuned."""
    monkeypatch.setenv("EMIM_OPS_TUNE", "0")
    torch.use_deterministic_algorithms(True)  # torch.utils.deterministic.fill_uninitialized_memory is on by default
    yield
    torch.use_deterministic_algorithms(False)
