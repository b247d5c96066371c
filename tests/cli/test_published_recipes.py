"""Every published recipe, from the data set's own layout on disk to a prediction, on a miniature of the data set."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import miniature
from conftest import CommandResult, run_in_a_process
from emim.models import create_model
from emim.training.fit import model_arguments
from emim.training.memory import checkpoint_activations, least_room
from emim.training.recipe import find_recipe, load_recipe

Command = Callable[..., CommandResult]

PUBLISHED = (
    "ssv1_s16_in1k", "ssv1_s16_k400", "ssv1_b32_k400", "ssv2_s16_k400", "ssv2_b16_k400", "ssv2_b32_k400",
    "k400_s16", "k400_b16", "k400_b32", "diving48_s16_k400",
)  # fmt: skip

# Tiny clips and a few steps; everything else is the recipe's.
TINY = [
    "model.checkpoint=null",
    "preprocessing.size=32",
    "preprocessing.num_frames=4",
    "trainer.global_batch=4",
    "trainer.batch_size=2",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "optim.warmup_epochs=0.5",
    "data.workers=0",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_dry_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(find_recipe(name))
    assert recipe.data.path is not None
    assert recipe.data.val is not None
    data = Path(recipe.data.path).parent
    monkeypatch.chdir(tmp_path)
    root = miniature.build(data.name, tmp_path / "downloaded")
    run, model = tmp_path / "runs" / name, tmp_path / "runs" / name / "model.safetensors"
    video = next(path for path in sorted(root.rglob("*")) if path.suffix in (".mp4", ".webm", ".jpg"))
    clip = video.parent if video.suffix == ".jpg" else video
    first = run_in_a_process(("prepare", data.name, root, "-o", data), ("train", name, *TINY, "trainer.epochs=1"))
    assert [result.status for result in first] == [0, 0], first[-1].err
    assert f"learning rate {recipe.optim.lr * 4 / recipe.optim.lr_batch:g} (the recipe's" in first[1].err
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == summary["train_clips"] // 4 > 1

    later = run_in_a_process(
        ("train", "--resume", run, "trainer.epochs=2"),
        ("test", model, "--data", recipe.data.val, "--workers", 0, "--json", tmp_path / "t.json"),
        ("predict", clip, "--checkpoint", model, "--json"),
    )
    assert [result.status for result in later] == [0, 0, 0], later[-1].err
    assert json.loads((run / "summary.json").read_text())["steps"] == 2 * summary["steps"]
    result = json.loads((tmp_path / "t.json").read_text())
    assert result["missing"] == []
    assert result["clips"] == summary["val_clips"]
    views = result["views"]
    assert (views if isinstance(views, int) else views["clips"] * views["crops"]) == recipe.preprocessing.clips * 3
    classes = (data / "classes.txt").read_text().splitlines()
    assert {item["label"] for item in json.loads(later[2].out)["predictions"]} <= set(classes)


def test_a_recipe_does_not_train_from_random_weights_unasked(emim_command: Command, tmp_path: Path) -> None:
    root = miniature.build("ssv2", tmp_path / "downloaded")
    assert emim_command("prepare", "ssv2", root, "-o", tmp_path / "data").status == 0
    lists = [f"data.{key}={tmp_path / 'data' / name}" for key, name in (("path", "train.csv"), ("val", "val.csv"))]
    result = emim_command("train", "ssv2_s16_k400", *lists, f"output={tmp_path}")
    assert result.status == 1
    assert "weights/uniformer_small_k400.pth: no such checkpoint file" in result.err
    assert not (tmp_path / "ssv2_s16_k400").exists()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_page_on_data_sets_has_its_commands_and_the_headers_figure(name: str) -> None:
    config = load_recipe(find_recipe(name))
    page = (Path(__file__).parents[2] / "docs" / "guides" / "datasets.md").read_text()
    header = find_recipe(name).read_text().partition("\nname:")[0]
    figure = re.search(r"published without EMIM: ([\d.]+)", header)
    row = f"| `{name}` | {config.preprocessing.clips} x 3 | {figure[1] if figure else '-'} | not reproduced |"
    assert row in page
    data = Path(str(config.data.val)).parent
    assert f"emim prepare {data.name} <root> -o {data}" in page
    assert f"--data {config.data.val}" in page
    assert name in page.replace(row, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        ("ssv1_s16_in1k", "ssv1_s16_k400", "ssv2_s16_k400", "k400_s16", "diving48_s16_k400"),
        ("ssv1_b32_k400", "ssv2_b32_k400"),
        ("ssv2_b16_k400",),
        ("k400_b16",),
        ("k400_b32",),
    ],
    ids=lambda names: names[-1],
)
def test_the_header_names_the_memory_that_is_planned_with(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is kept depends on the operator's backend; the headers name that of the one that runs everywhere.
    monkeypatch.setenv("EMIM_OPS_BACKEND", "dense")
    config = load_recipe(find_recipe(names[-1]))
    pre = config.preprocessing
    model = create_model(config.model.name, 400, **model_arguments(config.model))
    checkpoint_activations(model, config.trainer.activation_checkpointing)
    room = least_room(model, (3, pre.num_frames, pre.size, pre.size), mixed=True, repeats=config.trainer.repeats)
    for name in names:
        assert f"each with at least {math.ceil(room / 2**30)} GiB free: the estimate" in find_recipe(name).read_text()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_header_leads_from_the_data_to_the_figure(name: str) -> None:
    text = find_recipe(name).read_text()
    header, _, body = text.partition("\nname:")
    config = load_recipe(find_recipe(name))
    assert f"emim train {name}" in header
    assert f"--data {config.data.val}" in header
    assert "not reproduced here" in header
    assert str(config.model.checkpoint) in header
    assert "each with at least" in header
    assert set(yaml.safe_load("name:" + body)) == {
        "name", "model", "data", "preprocessing", "augment", "mix", "optim", "trainer"
    }  # fmt: skip
