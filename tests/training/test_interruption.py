"""Runs that are killed or asked to end at any moment, and go on as if nothing had happened."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import QUICK, start_emim
from emim.errors import CheckpointError
from emim.models.artifact import load_model
from emim.training.recipe import load_recipe
from emim.training.run import resume, train
from emim.training.state import STATE_FILE, saved_step

Start = Callable[..., "subprocess.Popen[str]"]

# Everything that draws random numbers, and an average of the weights.
OPTIONS = ["trainer.epochs=6", "trainer.ema=0.9", "mix.mixup=0.4", "model.drop_path=0.2", "augment.erasing=0.5"]
STEPS = 24


def words(generated: Path, output: Path, *more: str) -> list[str]:
    return ["train", str(generated), f"output={output}", "name=run", *QUICK, *OPTIONS, *more]


def weights(run: Path) -> dict[str, Tensor]:
    return dict(load_model(run / "model.safetensors")[0].state_dict())


def assert_equal(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert all(torch.equal(first[name], second[name]) for name in first)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)


def has_steps(run: Path, steps: int) -> Callable[[], bool]:
    return lambda: (run / STATE_FILE).is_file() and saved_step(run / STATE_FILE) >= steps


@pytest.fixture(scope="module")
def whole(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    output = tmp_path_factory.mktemp("whole")
    with start_emim(*words(generated, output)) as process:
        _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    return output / "run"


def trained(generated: Path, output: Path, *more: str) -> Path:
    """A short run within this process."""
    overrides = [f"data.path={generated}", f"output={output}", "name=run", *QUICK, *OPTIONS, *more]
    return train(load_recipe(None, overrides), say=lambda line: None, progress_bar=False).folder


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_weights(
    generated: Path, whole: Path, tmp_path: Path, emim_process: Start
) -> None:
    run = tmp_path / "run"
    rng = np.random.default_rng(0)
    arguments: list[object] = [*words(generated, tmp_path, "trainer.save_minutes=0")]
    kills = 0
    for steps in (1, 6, 11, 17):
        process = emim_process(*arguments)
        wait_for(has_steps(run, steps), process)
        time.sleep(float(rng.uniform(0, 0.3)))  # anywhere within a step, a save or a validation
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        arguments = ["train", "--resume", run]
    assert kills == 4
    assert 17 <= saved_step(run / STATE_FILE) < STEPS
    last = emim_process(*arguments)
    assert last.wait(120) == 0, last.communicate()[1]
    assert saved_step(run / STATE_FILE) == STEPS
    assert_equal(whole, run)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_asked_to_end_it_saves_and_says_how_to_go_on(
    generated: Path, whole: Path, tmp_path: Path, emim_process: Start, processes: int
) -> None:
    run = tmp_path / "run"
    share = [f"trainer.batch_size={8 // processes}"]
    process = emim_process(*words(generated, tmp_path, *share), processes=processes)
    wait_for(has_steps(run, 4), process)
    before = saved_step(run / STATE_FILE)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"asked to end; the state is saved, go on with: emim train --resume {run}" in told
    if processes == 1:
        assert process.returncode == 128 + signal.SIGTERM
        assert "Traceback" not in told
    assert saved_step(run / STATE_FILE) > before  # within an epoch, or at its end
    rest = emim_process("train", "--resume", run, processes=processes)
    _, told = rest.communicate(timeout=120)
    assert rest.returncode == 0, told
    assert saved_step(run / STATE_FILE) == STEPS
    if processes == 1:
        assert_equal(whole, run)


def test_half_a_state_is_never_picked_up(generated: Path, tmp_path: Path) -> None:
    run = trained(generated, tmp_path, "trainer.epochs=2")
    state = run / STATE_FILE
    # What a kill in the middle of a save leaves behind lies beside the state, and is passed over.
    state.with_name(f".{state.name}.partial").write_bytes(state.read_bytes()[:1000])
    resume(run, ["trainer.epochs=3"], say=lambda line: None, progress_bar=False)
    assert saved_step(state) == 12
    assert sorted(path.name for path in state.parent.iterdir()) == [state.name]
    # A state that something else has cut is an error, not a fresh start.
    state.write_bytes(state.read_bytes()[:-2000])
    with pytest.raises(CheckpointError, match=r"last\.ckpt: not a readable state of a run"):
        resume(run, [], say=lambda line: None, progress_bar=False)


def test_the_log_of_an_interrupted_run_goes_on(generated: Path, tmp_path: Path) -> None:
    run = trained(generated, tmp_path, "trainer.epochs=2")
    before = (run / "metrics.csv").read_text().splitlines()
    resume(run, ["trainer.epochs=4"], say=lambda line: None, progress_bar=False)
    after = (run / "metrics.csv").read_text().splitlines()
    columns = after[0].split(",")
    epochs = [float(row.split(",")[columns.index("epoch")]) for row in after[1:]]
    assert sorted(set(epochs)) == [0, 1, 2, 3]
    assert len(after) - 1 == 2 * (len(before) - 1)
