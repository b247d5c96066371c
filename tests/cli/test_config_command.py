"""`emim config`, overrides on the command line, and what goes to which stream."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from emim.cli.console import set_up_logging
from emim.training.recipe import find_recipe, known_keys, load_recipe

Command = Callable[..., Any]


def test_the_keys_can_be_pasted_back(emim_command: Command, tmp_path: Path) -> None:
    result = emim_command("config")
    assert result.status == 0
    assert result.err == ""
    path = tmp_path / "mine.yaml"
    path.write_text(result.out)
    assert load_recipe(path) == load_recipe(None)
    assert emim_command("config", path).out == result.out
    assert (
        "# Peak learning rate, for `lr_batch` clips per optimiser step.\n  lr: 0.001  # number; at least 0\n"
        in result.out
    )


def test_a_recipe_and_overrides(emim_command: Command, tmp_path: Path) -> None:
    result = emim_command("config", "ssv2_s16_k400", "optim.lr=1e-3", "--trainer.epochs", 7)
    path = tmp_path / "mine.yaml"
    path.write_text(result.out)
    expected = load_recipe(find_recipe("ssv2_s16_k400"), ["optim.lr=1e-3", "trainer.epochs=7"])
    assert load_recipe(path) == expected
    assert "  epochs: 7  # integer; at least 1; default 30\n" in result.out


def test_json(emim_command: Command) -> None:
    result = emim_command("config", "motion", "--json")
    content = json.loads(result.out)
    assert list(content) == list(known_keys())
    assert content["trainer.max_minutes"] == {
        "value": 33.0,
        "type": "number or null",
        "range": "above 0",
        "default": None,
        "description": "Time limit in minutes, at which the schedule ends, too; null is no limit.",
    }


def test_the_old_option_still_works_and_says_so(emim_command: Command) -> None:
    result = emim_command("train", "--keys")
    assert result.status == 0
    assert result.out == emim_command("config").out
    assert result.err == "warning: --keys is now the command `emim config`; it works until version 0.3\n"


def test_old_keys_are_one_line_of_warning(emim_command: Command) -> None:
    result = emim_command("config", "optim.matching=3")
    assert result.status == 0
    assert yaml.safe_load(result.out)["optim"]["photometric"] == 3
    assert result.err == ("warning: optim.matching is now optim.photometric; the old name works until version 0.3\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["config", "nowhere"], "no recipe file nowhere"),
        (["config", "preprocesing.size=64"], "did you mean 'preprocessing.size'"),
        (["config", "xyz=64"], "unknown key 'xyz'; `emim config` prints all keys"),
        (["train", "demo", "name=../../x"], "name: must be the name of one folder"),
        (["train", "demo", "data.path=" + "x" * 5000], "data.path: must be a path, but is too long for one"),
        (["train", "demo", "x" * 5000 + "=1"], "unknown key 'xxx"),
        (["train", "demo", "trainer.max_minutes=1e400"], "trainer.max_minutes: input should be a finite number"),
        (["train", "demo", "trainer.epochs=" + "9" * 5000], "a number beyond 64 bits"),
        (["train", "demo", "augment.flip_map=" + "[" * 5000], "nested more than 20 deep"),
        (["train", "deep.yaml"], "deep.yaml: not valid YAML (nested more than 20 deep"),
        (["train", "twice.yaml"], "twice.yaml: not valid YAML (key 'name' is given twice"),
        (["train", "bytes.yaml"], "bytes.yaml: cannot be read"),
        (["train", "--resume", "nowhere"], "nowhere: not a run folder, no such folder exists"),
        (["train", "demo", "--optim.lr"], "--optim.lr needs a value"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value)[:40],
)
def test_errors_are_one_line(
    emim_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("deep.yaml").write_text("a: " + "[" * 100000)
    Path("twice.yaml").write_text("name: x\nname: y\n")
    Path("bytes.yaml").write_bytes(bytes(range(128, 256)))
    before = sorted(tmp_path.parent.iterdir())
    result = emim_command(*words)
    assert result.status == 1
    assert result.out == ""
    (line,) = result.err.splitlines()
    assert line.startswith(f"emim {words[0]}: ")
    assert message in line
    assert "unexpected" not in line
    assert len(line) < 1000
    assert sorted(tmp_path.parent.iterdir()) == before


@pytest.mark.parametrize("words", [["config"], ["train"], ["train", "--resume"]], ids=" ".join)
def test_names_that_no_file_can_have_are_wrong_usage(emim_command: Command, words: list[str]) -> None:
    result = emim_command(*words, "x" * 5000)
    assert result.status == 2
    assert "file name too long (5000 characters)" in result.err


def test_messages_of_the_package_are_plain_lines_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("emim.training.test")
    with set_up_logging():
        logger.info("progress at 50 %d")
        logger.debug("details")
        logger.warning("a clip is missing")
    logger.info("after it")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "progress at 50 %d\nwarning: a clip is missing\n"


def test_other_processes_send_warnings_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with set_up_logging():
        logging.getLogger("emim.x").info("progress")
        logging.getLogger("emim.x").warning("a clip is missing")
    assert capsys.readouterr().err == "[process 2] warning: a clip is missing\n"


@pytest.mark.parametrize("module", ["emim.training.run_folder", "emim.inference.recogniser"])
def test_reading_and_recognising_need_no_trainer(module: str) -> None:
    code = f"import sys, {module}; assert not {{'lightning', 'torchmetrics', 'tensorboard'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_library_user_gets_no_prints(generated: Path, tmp_path: Path) -> None:
    from conftest import QUICK

    words = [f"data.path={generated}", f"output={tmp_path}", *QUICK]
    code = (
        "from emim.training.recipe import load_recipe\nfrom emim.training.run import train\n"
        f"train(load_recipe(None, {words!r}))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("", "")
