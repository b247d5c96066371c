"""Runs that are killed or asked to end at any moment, and go on as if nothing had happened."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import QUICK, CommandResult, LogLines, start_emim
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
    state, seen = run / STATE_FILE, set[int]()

    def reached() -> bool:
        if not state.is_file() or (written := state.stat().st_mtime_ns) in seen:
            return False  # reading takes time from the process that trains
        seen.add(written)
        return read_state(state).step >= steps

    return reached


@pytest.fixture(scope="module")
def whole(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    output = tmp_path_factory.mktemp("whole")
    with start_emim(*words(generated, output)) as process:
        _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    return output / "run"


def trained_here(generated: Path, output: Path, *more: str) -> Path:
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
    assert "stopped by SIGTERM at step" in told
    assert f"continue with: emim train --resume {run}" in told
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
    run = trained_here(generated, tmp_path, "trainer.epochs=2")
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


class RunsCode:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("how", ["added", "alone", "legacy", "plain pickle"])
def test_a_state_that_would_run_code_is_refused(
    trained: Path, tmp_path: Path, emim_command: Callable[..., CommandResult], how: str
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    state, mark = run / STATE_FILE, tmp_path / "ran"
    content = torch.load(state, weights_only=True)
    hostile = {**content, "extra": RunsCode(mark)} if how == "added" else RunsCode(mark)
    if how == "plain pickle":
        state.write_bytes(pickle.dumps(hostile))
    else:
        torch.save(hostile, state, _use_new_zipfile_serialization=how != "legacy")
    result = emim_command("train", "--resume", run, "trainer.epochs=2")
    assert result.status == 1
    assert f"{state}: not a readable state of a run: refused" in result.err
    assert f"it asks for {os.system.__module__}.system" in result.err
    assert f"model.checkpoint={run / 'model.safetensors'}" in result.err
    assert "Traceback" not in result.err
    assert not mark.exists()


def test_a_state_holds_plain_values_and_tensors_alone(generated: Path, tmp_path: Path) -> None:
    path = trained_here(generated, tmp_path, "trainer.epochs=1", "trainer.precision=bf16-mixed") / STATE_FILE
    stored = torch.load(path, weights_only=True)
    assert {"state_dict", "optimizer_states", "loops", "callbacks", "averaging_state"} <= stored.keys()
    # Names by which version 0.1 saved the states of its callbacks, whose runs can be resumed.
    assert {"TellValidation", "SaveState"} <= stored["callbacks"].keys()


BROKEN_STATES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no position": (lambda state: state.pop("ClipDataModule"), "ClipDataModule: field required"),
    "no seconds": (lambda state: state.pop("emim_seconds"), "emim_seconds: field required"),
    "another callback": (lambda state: state.update(callbacks={}), "callbacks.SaveState: field required"),
    "steps": (lambda state: state.update(global_step=-1), "global_step: input should be greater than or equal to 0"),
    "division": (
        lambda state: state["ClipDataModule"].update(division=(10**9, 1, 1)),
        "ClipDataModule.division.0: input should be less than or equal to",
    ),
    "a weight missing": (
        lambda state: state["state_dict"].pop("model.head.bias"),
        r"head.bias is missing, \[11\] in the network",
    ),
    "a weight of another shape": (
        lambda state: state["state_dict"].update({"model.head.bias": torch.zeros(12)}),
        r"head.bias has the shape \[12\], \[11\] in the network",
    ),
    "a moment of another shape": (
        lambda state: state["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(7)),
        "exp_avg of parameter 0 does not fit",
    ),
    "no learning rate": (
        lambda state: [group.pop("lr") for group in state["optimizer_states"][0]["param_groups"]],
        r"optimiser group 0 is incomplete \(lr missing\)",
    ),
    "no loops": (lambda state: state.update(loops=3), "the run cannot continue from this state"),
    "another version": (
        lambda state: state.update({"pytorch-lightning_version": "x"}),
        "the run cannot continue from this state",
    ),
}


@pytest.mark.parametrize("fault", BROKEN_STATES)
def test_a_broken_state_is_one_error_that_names_the_file(trained: Path, tmp_path: Path, fault: str) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    spoil, message = BROKEN_STATES[fault]
    content = torch.load(run / STATE_FILE, weights_only=True)
    spoil(content)
    torch.save(content, run / STATE_FILE)
    with pytest.raises(CheckpointError, match=rf"last\.ckpt: .*{message}"):
        resume(run, ["trainer.epochs=2"], progress_bar=False)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.json", "{"),
        ("data.json", '{"train": 3}'),
        ("metrics.csv", "step,lr\n0,much\n"),
        ("data.json", "[" * 9999),
    ],
)
def test_a_broken_record_of_a_run_is_one_error_that_names_the_file(
    trained: Path, tmp_path: Path, name: str, content: str
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / name).write_text(content)
    with pytest.raises(ConfigError, match=name):
        resume(run, ["trainer.epochs=2"], progress_bar=False)


def test_the_log_of_an_interrupted_run_goes_on(generated: Path, tmp_path: Path) -> None:
    run = trained_here(generated, tmp_path, "trainer.epochs=2")
    before = (run / "metrics.csv").read_text().splitlines()
    resume(run, ["trainer.epochs=4"], progress_bar=False)
    after = (run / "metrics.csv").read_text().splitlines()
    columns = after[0].split(",")
    epochs = [float(row.split(",")[columns.index("epoch")]) for row in after[1:]]
    assert sorted(set(epochs)) == [0, 1, 2, 3]
    assert len(after) - 1 == 2 * (len(before) - 1)


def test_resuming_a_finished_run_changes_nothing(generated: Path, tmp_path: Path, log_lines: LogLines) -> None:
    run = trained_here(generated, tmp_path, "trainer.epochs=2", "trainer.keep=last")
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    result = resume(run, [], progress_bar=False)
    assert any("all 2 epochs are done; continue with trainer.epochs=<more>" in line for line in log_lines())
    assert result.metrics["val_top1"] == json.loads(before["summary.json"])["val_top1"]
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_a_kill_before_the_model_is_written_loses_nothing(generated: Path, tmp_path: Path) -> None:
    run = trained_here(generated, tmp_path, "trainer.epochs=2", "trainer.keep=last")
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
    run = trained_here(data, tmp_path, "trainer.epochs=1")
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
