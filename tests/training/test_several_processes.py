"""Several processes train as one does at the same number of clips a step."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conftest import QUICK, start_emim
from emim.data.folder import load_clips
from emim.data.loader import EpochBatches
from emim.models.trained_model import load_model

Start = Callable[..., "subprocess.Popen[str]"]

OPTIONS = [
    "trainer.epochs=3", "trainer.global_batch=8", "trainer.batch_size=4", "trainer.repeats=2", "mix.mixup=0.8",
    "mix.cutmix=1.0", "model.drop_path=0.2", "trainer.ema=0", "trainer.keep=last",
]  # fmt: skip


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["train_loss_epoch"]) for row in csv.DictReader(file) if row["train_loss_epoch"]]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def slurm_variables(rank: int, count: int) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NAME": "quick", "SLURM_NTASKS": str(count),
        "SLURM_NTASKS_PER_NODE": str(count), "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0",
        "SLURM_JOB_NUM_NODES": "1", "SLURM_NNODES": "1", "SLURM_NODELIST": "localhost",
    }  # fmt: skip


def agent_options(count: int) -> list[str]:
    return [
        f"--nnodes={count}", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}",
        "--rdzv-id=quick",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def alone(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, which accumulates what the others share."""
    output = tmp_path_factory.mktemp("alone")
    with start_emim("train", generated, f"output={output}", "name=run", *QUICK, *OPTIONS) as process:
        _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    return output / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "strategy"),
    [("torchrun", "ddp"), ("torchrun", "fsdp"), ("own", "ddp"), ("slurm", "ddp"), ("two agents", "ddp")],
)
def test_two_processes_follow_the_loss_curve_of_one(
    generated: Path, alone: Path, tmp_path: Path, emim_process: Start, launcher: str, strategy: str
) -> None:
    words = [
        "train", generated, f"output={tmp_path}", "name=run", *QUICK, *OPTIONS, f"trainer.strategy={strategy}"
    ]  # fmt: skip
    hows: dict[str, list[dict[str, Any]]] = {
        "torchrun": [{"processes": 2}],
        "own": [{}],
        # What srun sets in the processes that it starts.
        "slurm": [{"environment": slurm_variables(rank, 2)} for rank in range(2)],
        # As on two machines, each of which starts one process.
        "two agents": [{"torchrun": agent_options(2)}] * 2,
    }
    devices = ["trainer.devices=2"] if launcher == "own" else []
    processes = [emim_process(*words, *devices, **how) for how in hows[launcher]]
    outputs = [process.communicate(timeout=200) for process in processes]
    out, told = ("".join(texts) for texts in zip(*outputs, strict=True))
    assert [process.returncode for process in processes] == [0] * len(processes), told
    assert told.count("8 clips a step (4 on each of 2 devices), each drawn 2 times") == 1  # one of them talks
    assert out.count("model.safetensors") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # and they share one folder

    run = tmp_path / "run"
    assert losses(run) == pytest.approx(losses(alone), rel=1e-5)
    assert len(losses(run)) == 3
    here, there = (json.loads((folder / "summary.json").read_text()) for folder in (run, alone))
    assert (here["steps"], here["lr"], here["processes"]) == (there["steps"], there["lr"], 2)
    ours, theirs = (dict(load_model(folder / "model.safetensors")[0].named_parameters()) for folder in (run, alone))
    for name, value in ours.items():  # running statistics are each process's own, as usual; Adam magnifies rounding
        torch.testing.assert_close(value, theirs[name], rtol=1e-2, atol=2e-4)


@pytest.mark.slow
def test_a_sharded_run_goes_on(generated: Path, tmp_path: Path, emim_process: Start) -> None:
    words = [generated, f"output={tmp_path}", "name=run", *QUICK, *OPTIONS, "trainer.strategy=fsdp", "trainer.epochs=1"]
    run = tmp_path / "run"
    for arguments, steps in ((words, 4), (["--resume", run, "trainer.epochs=2"], 8)):
        process = emim_process("train", *arguments, processes=2)
        _, told = process.communicate(timeout=200)
        assert process.returncode == 0, told
        assert json.loads((run / "summary.json").read_text())["steps"] == steps
    assert len(losses(run)) == 2


@pytest.mark.slow
def test_broken_clips_of_all_processes_count_together(generated: Path, tmp_path: Path, emim_process: Start) -> None:
    data = Path(shutil.copytree(generated, tmp_path / "data"))
    clips = load_clips(data, split="train").entries
    # One for each process in the first epoch.
    firsts = [next(iter(EpochBatches(len(clips), 4, rank=rank, world=2)))[0][1] for rank in range(2)]
    for index in firsts:
        clips[index].path.write_bytes(b"")
    process = emim_process(
        "train", data, f"output={tmp_path}", "name=run", *QUICK, "trainer.global_batch=8", "trainer.batch_size=4",
        "data.max_skip_share=0.05", "trainer.epochs=1", processes=2,
    )  # fmt: skip
    _, told = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "emim train: 2 training clips cannot be read, 1 are allowed (data.max_skip_share)" in told
    assert all(f"{clips[index].path}: has zero bytes" in told for index in firsts)
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.slow
def test_each_process_dumps_its_own_bad_batch(generated: Path, tmp_path: Path, emim_process: Start) -> None:
    wild = ["optim.lr=1e30", "optim.warmup_epochs=0", "optim.clip_grad=0", "trainer.epochs=3", "trainer.batch_size=4"]
    process = emim_process("train", generated, f"output={tmp_path}", "name=run", *QUICK, *wild, processes=2)
    _, told = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "the loss is nan at step" in told or "the loss is inf at step" in told
    dumps = list((tmp_path / "run").glob("diverged-step-*/divergence.json"))
    assert dumps
    positions = {str(entry.path): at for at, entry in enumerate(load_clips(generated, split="train").entries)}
    for path in dumps:
        bad = json.loads(path.read_text())
        assert path.parent.name.endswith("-process-1") == (bad["process"] == 1)
        batches = EpochBatches(len(positions), 4, rank=bad["process"], world=2)
        batches.set_epoch(bad["epoch"])
        taken = [[index for _, index in batch] for batch in batches]
        assert [positions[clip] for clip in bad["clips"]] in taken
        assert len(load_file(path.with_name("batch.safetensors"))["clip"]) == 4


@pytest.mark.slow
def test_an_error_of_all_processes_is_said_once(tmp_path: Path, emim_process: Start) -> None:
    process = emim_process("train", tmp_path / "nowhere", processes=2)
    _, told = process.communicate(timeout=100)
    assert process.returncode != 0
    assert told.count("no recipe of that name") == told.count("emim train:") == 1
