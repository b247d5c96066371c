"""Runs that are killed or asked to end at any moment, and go on as if nothing had happened."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import QUICK, LogLines, start_emim
from emim.errors import CheckpointError, ConfigError
from emim.models.trained_model import load_model
from emim.training.recipe import load_recipe
from emim.training.run import resume, train
from emim.training.run_folder import STATE_FILE, read_state

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
    return lambda: (run / STATE_FILE).is_file() and read_state(run / STATE_FILE).step >= steps


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
    return train(load_recipe(None, overrides), progress_bar=False).folder


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
    assert 17 <= read_state(run / STATE_FILE).step < STEPS
    last = emim_process(*arguments)
    assert last.wait(120) == 0, last.communicate()[1]
    assert read_state(run / STATE_FILE).step == STEPS
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
    before = read_state(run / STATE_FILE).step
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "asked to end; the state is saved at step" in told
    assert f"go on with: emim train --resume {run}" in told
    if processes == 1:
        assert process.returncode == 128 + signal.SIGTERM
        assert "Traceback" not in told
    assert read_state(run / STATE_FILE).step > before  # within an epoch, or at its end
    rest = emim_process("train", "--resume", run, processes=processes)
    _, told = rest.communicate(timeout=120)
    assert rest.returncode == 0, told
    assert read_state(run / STATE_FILE).step == STEPS
    if processes == 1:
        assert_equal(whole, run)


def test_half_a_state_is_never_picked_up(generated: Path, tmp_path: Path) -> None:
    run = trained(generated, tmp_path, "trainer.epochs=2")
    state = run / STATE_FILE
    # What a kill in the middle of a save leaves behind lies beside the state, and is passed over.
    state.with_name(f".{state.name}.partial").write_bytes(state.read_bytes()[:1000])
    resume(run, ["trainer.epochs=3"], progress_bar=False)
    assert read_state(state).step == 12
    assert sorted(path.name for path in state.parent.iterdir()) == [state.name]
    # A state that something else has cut is an error, not a fresh start.
    state.write_bytes(state.read_bytes()[:-2000])
    with pytest.raises(CheckpointError, match=r"last\.ckpt: not a readable state of a run"):
        resume(run, [], progress_bar=False)


def test_the_log_of_an_interrupted_run_goes_on(generated: Path, tmp_path: Path) -> None:
    run = trained(generated, tmp_path, "trainer.epochs=2")
    before = (run / "metrics.csv").read_text().splitlines()
    resume(run, ["trainer.epochs=4"], progress_bar=False)
    after = (run / "metrics.csv").read_text().splitlines()
    columns = after[0].split(",")
    epochs = [float(row.split(",")[columns.index("epoch")]) for row in after[1:]]
    assert sorted(set(epochs)) == [0, 1, 2, 3]
    assert len(after) - 1 == 2 * (len(before) - 1)


def test_resuming_a_finished_run_changes_nothing(generated: Path, tmp_path: Path, log_lines: LogLines) -> None:
    run = trained(generated, tmp_path, "trainer.epochs=2", "trainer.keep=last")
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    result = resume(run, [], progress_bar=False)
    assert any("all 2 epochs are done; continue with trainer.epochs=<more>" in line for line in log_lines())
    assert result.metrics["val_top1"] == json.loads(before["summary.json"])["val_top1"]
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_a_kill_before_the_model_is_written_loses_nothing(generated: Path, tmp_path: Path) -> None:
    run = trained(generated, tmp_path, "trainer.epochs=2", "trainer.keep=last")
    model, summary = (run / "model.safetensors").read_bytes(), json.loads((run / "summary.json").read_text())
    (run / "model.safetensors").unlink()
    (run / "summary.json").unlink()
    resume(run, [], progress_bar=False)
    assert (run / "model.safetensors").read_bytes() == model  # the averaged weights, and the same card
    again = json.loads((run / "summary.json").read_text())
    assert {key: again[key] for key in ("epochs", "steps", "val_top1")} == {
        key: summary[key] for key in ("epochs", "steps", "val_top1")
    }


def test_what_a_run_cannot_go_on_with_is_named(generated: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(generated, data)
    run = trained(data, tmp_path, "trainer.epochs=1")
    extra = data / "train" / "left" / "extra.mp4"
    shutil.copy(next((data / "train" / "left").glob("*.mp4")), extra)
    with pytest.raises(ConfigError, match="training clips have changed since the run began, from 33 to 34"):
        resume(run, ["trainer.epochs=2"], progress_bar=False)
    extra.unlink()
    resume(run, ["trainer.epochs=2"], progress_bar=False)
    assert load_recipe(run / "config.yaml").trainer.epochs == 2  # what is in force is on record


def test_ctrl_c_ends_with_the_state_of_the_last_save(generated: Path, tmp_path: Path, emim_process: Start) -> None:
    run = tmp_path / "run"
    process = emim_process(*words(generated, tmp_path, "trainer.save_minutes=0", "trainer.epochs=100"))
    wait_for(has_steps(run, 2), process)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.rstrip().endswith("interrupted")
    assert "Traceback" not in told
    # Within an epoch, clips cannot be divided in another way.
    state = read_state(run / STATE_FILE)
    if state.batch:
        with pytest.raises(ConfigError, match=r"interrupted within an epoch with 8 clips a pass, 1 passes a step"):
            resume(run, ["trainer.batch_size=4"], progress_bar=False)
