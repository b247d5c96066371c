from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from conftest import QUICK, LogLines
from emim.data.folder import load_clips
from emim.data.manifest import write_manifest
from emim.datasets.synthetic import CLASSES
from emim.errors import BrokenClipsError, CheckpointError, ConfigError, DataError, ManifestError, VideoError
from emim.models import create_model
from emim.models.trained_model import load_model, read_card
from emim.training.divergence import DivergedError, first_bad_layer
from emim.training.memory import least_room
from emim.training.module import ClassificationModule
from emim.training.recipe import load_recipe
from emim.training.run import resume, train


def quick(generated: Path, output: Path, *overrides: str) -> Any:
    config = load_recipe(None, [f"data.path={generated}", f"output={output}", "name=run", *QUICK, *overrides])
    return train(config, progress_bar=False)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(path)[0].state_dict())


def test_a_run_leaves_all_that_prediction_needs(trained: Path) -> None:
    card = read_card(trained / "model.safetensors")
    assert card.model == "uniformer_tiny_emim"
    assert card.classes == CLASSES
    assert card.preprocessing["size"] == 32
    assert card.config["trainer"]["batch_size"] == 8
    assert card.data["num_clips"] == 33
    assert 0 <= card.metrics["val_top1"] <= 1
    assert card.version
    model, _ = load_model(trained / "model.safetensors")
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 4, 32, 32)).shape == (1, 11)


def test_a_run_leaves_logs_config_and_summary(trained: Path) -> None:
    assert (trained / "metrics.csv").read_text().startswith("epoch,")
    assert list((trained / "tensorboard").glob("events*"))
    assert yaml.safe_load((trained / "config.yaml").read_text())["name"] == "quick"
    summary = json.loads((trained / "summary.json").read_text())
    assert (summary["train_clips"], summary["val_clips"], summary["classes"]) == (33, 11, 11)


def test_the_same_seed_gives_the_same_weights_with_any_number_of_workers(generated: Path, tmp_path: Path) -> None:
    runs = [quick(generated, tmp_path, "data.val_share=0.0", f"data.workers={workers}") for workers in (0, 2)]
    assert runs[0].folder != runs[1].folder
    first, second = (weights(run.model) for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_lowers_the_loss_on_the_clips_it_sees(generated: Path, tmp_path: Path) -> None:
    quiet = ["data.cache=true", "augment.crop_scale=[0.99, 1.0]", "optim.lr=3e-3", "mix.label_smoothing=0"]
    run = quick(generated, tmp_path, "trainer.epochs=14", "trainer.val_every=14", *quiet)
    rows = [row.split(",") for row in (run.folder / "metrics.csv").read_text().splitlines()]
    column = rows[0].index("train_loss_epoch")
    losses = [float(row[column]) for row in rows[1:] if row[column]]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("extra", [[], ["trainer.ema=0.9"]], ids=["plain", "ema"])
def test_resuming_ends_with_the_weights_of_an_uninterrupted_run(
    generated: Path, tmp_path: Path, extra: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["trainer.epochs=3", "mix.mixup=0.4", *extra]
    whole = quick(generated, tmp_path / "whole", *options)

    original = ClassificationModule.on_train_batch_start

    def stop_in_second_epoch(self: ClassificationModule, batch: Any, batch_idx: int) -> int | None:
        if self.current_epoch == 1 and batch_idx == 2:
            raise RuntimeError("power cut")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationModule, "on_train_batch_start", stop_in_second_epoch)
    with pytest.raises(RuntimeError, match="power cut"):
        quick(generated, tmp_path / "cut", *options)
    monkeypatch.undo()
    finished = resume(tmp_path / "cut" / "run", [], progress_bar=False)
    first, second = weights(whole.model), weights(finished.model)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_fits_into_memory_decides_the_clips_of_a_pass(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_lines: LogLines
) -> None:
    model = create_model("uniformer_tiny_emim", 11)
    room = int(1.001 * least_room(model, (3, 4, 32, 32), mixed=False, repeats=2))  # one clip, drawn twice
    options = ["trainer.global_batch=6", "trainer.batch_size=null", "optim.lr_batch=12", "data.val_share=0.0"]

    def trained_with(free: int | None, name: str, *more: str) -> str:
        if free is not None:
            monkeypatch.setattr("emim.training.fit.free_bytes", lambda device: free)
        config = load_recipe(
            None, [f"data.path={generated}", f"output={tmp_path}", f"name={name}", *QUICK, *options, *more]
        )
        folder = train(config, progress_bar=False).folder
        assert json.loads((folder / "summary.json").read_text())["steps"] == 33 // 6
        return next(line for line in log_lines() if "clips a step" in line)

    rate = "learning rate 0.0005 (the recipe's 0.001 is for 12)"
    assert trained_with(None, "all") == f"6 clips a step; {rate}; 32-true on CPU"
    assert trained_with(room, "one", "trainer.repeats=2") == (
        f"6 clips a step (1 x 6 passes), each drawn 2 times; {rate}; 32-true on CPU"
    )
    assert "6 clips a step (2 x 3 passes)" in trained_with(room, "two")
    # A resumed run keeps its division, however much memory there is now.
    monkeypatch.setattr("emim.training.fit.free_bytes", lambda device: 2**36)
    resume(tmp_path / "two", ["trainer.epochs=2"], progress_bar=False)
    assert any("6 clips a step (2 x 3 passes)" in line for line in log_lines())


def test_fine_tuning_starts_from_a_checkpoint(
    generated: Path, trained: Path, tmp_path: Path, log_lines: LogLines
) -> None:
    config = load_recipe(
        None,
        [
            f"data.path={generated}",
            f"output={tmp_path}",
            *QUICK,
            "optim.lr=0",
            "optim.min_lr=0",
            f"model.checkpoint={trained / 'model.safetensors'}",
        ],
    )
    result = train(config, progress_bar=False)
    lines = log_lines()
    assert any("100.0% of the network's values loaded" in line for line in lines)
    assert any("the warm-up (optim.warmup_epochs=1) takes all of the 1 epochs" in line for line in lines)
    before, after = weights(trained / "model.safetensors"), weights(result.model)
    assert all(torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))


def test_the_time_limit_ends_training_and_its_schedule(generated: Path, tmp_path: Path) -> None:
    rates: list[float] = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    try:
        run = quick(generated, tmp_path, "trainer.epochs=100000", "trainer.max_minutes=0.1", "data.val_share=0.0")
    finally:
        handle.remove()
    assert run.model.is_file()
    assert run.seconds >= 6
    assert rates[-1] < 0.5 * max(rates)


def test_a_diverging_loss_stops_and_names_step_layer_and_clips(generated: Path, tmp_path: Path) -> None:
    wild = ["optim.lr=1e30", "optim.warmup_epochs=0", "optim.clip_grad=0", "trainer.epochs=3"]
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step \d+ .*lower optim.lr") as error:
        quick(generated, tmp_path, *wild)
    (where,) = (tmp_path / "run").glob("diverged-step-*")
    told = json.loads((where / "divergence.json").read_text())
    assert str(where) in str(error.value)
    assert told["layer"] in str(error.value)
    assert told["layer"].startswith(("patch_embed", "blocks", "norm", "head", "the loss"))
    clips = load_file(where / "batch.safetensors")["clip"]
    assert len(told["clips"]) == len(clips) == 8
    assert all(Path(path).is_file() for path in told["clips"])
    model = create_model("uniformer_tiny_emim", 11)
    model.load_state_dict(load_file(where / "weights.safetensors"))
    assert not torch.isfinite(model(clips)).all() or told["layer"].startswith("the loss")


def test_a_bad_layer_is_found_by_name() -> None:
    model = create_model("uniformer_tiny_emim", 3).eval()
    clip, target = torch.randn(1, 3, 4, 32, 32), torch.full((1, 3), 1 / 3)
    assert first_bad_layer(model, clip, target) == "the loss alone: every layer's result is finite"
    assert first_bad_layer(model, clip * torch.inf, target) == "the input clips"
    with torch.no_grad():
        model.blocks3[1].norm2.weight.fill_(3e38)
        assert first_bad_layer(model, clip, target) in ("blocks3.1.norm2", "blocks3.1.mlp.fc1")
        model.blocks2[0].norm1.bias.fill_(torch.nan)
    assert first_bad_layer(model, clip, target).startswith("blocks2.0.norm1.bias (a parameter")


def broken_copy(generated: Path, root: Path, *places: str) -> tuple[Path, list[Path]]:
    """The data set with the first clip of each place cut short."""
    data = root / "data"
    shutil.copytree(generated, data)
    broken = [min((data / place).glob("*.mp4")) for place in places]
    for path in broken:
        path.write_bytes(path.read_bytes()[:500])
    return data, broken


def test_a_broken_clip_is_named(generated: Path, tmp_path: Path) -> None:
    data, (broken,) = broken_copy(generated, tmp_path, "train/left")
    with pytest.raises(VideoError) as error:  # one of 33 clips is more than 1 %
        quick(data, tmp_path, "data.workers=1")
    assert error.value.path == broken


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stated_share_of_broken_clips_is_skipped_and_reported(
    generated: Path, tmp_path: Path, workers: int, log_lines: LogLines
) -> None:
    data, (broken,) = broken_copy(generated, tmp_path, "train/left")
    options = ["data.max_skip_share=0.05", f"data.workers={workers}", "trainer.epochs=2"]
    config = load_recipe(None, [f"data.path={data}", f"output={tmp_path}", "name=run", *QUICK, *options])
    folder = train(config, progress_bar=False).folder
    assert len([line for line in log_lines() if str(broken) in line and line.startswith("skipped in training")]) == 1
    (skipped,) = json.loads((folder / "summary.json").read_text())["skipped"]
    assert str(broken) in skipped


def test_more_broken_clips_than_the_share_stop_with_the_list(generated: Path, tmp_path: Path) -> None:
    data, broken = broken_copy(generated, tmp_path, "train/left", "train/up")
    with pytest.raises(
        BrokenClipsError, match=r"2 training clips cannot be read, 1 are allowed .*emim doctor"
    ) as error:
        quick(data, tmp_path, "data.max_skip_share=0.05")
    assert all(str(path) in str(error.value) for path in broken)


def test_files_that_are_not_there_count_as_broken(generated: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(generated, tmp_path / "data"))
    manifests = [tmp_path / "train.csv", tmp_path / "val.csv"]
    for manifest, split in zip(manifests, ("train", "val"), strict=True):
        write_manifest(manifest, load_clips(data, split=split))
    gone = [min((data / place).glob("*.mp4")) for place in ("train/left", "val/up")]
    for path in gone:
        path.unlink()
    lists = [f"data.path={manifests[0]}", f"data.val={manifests[1]}"]
    run = quick(generated, tmp_path, *lists, "data.max_skip_share=0.05")
    summary = json.loads((run.folder / "summary.json").read_text())
    (skipped,), (missing,) = summary["skipped"], summary["missing"]
    assert f"{gone[0]}: no such file" in skipped
    assert f"{gone[1]}: no such file" in missing
    assert (summary["train_clips"], summary["val_clips"]) == (33, 11)
    with pytest.raises(ManifestError, match="1 of 33 rows name a missing file"):  # 1 % of 33 clips is none
        quick(generated, tmp_path, *lists)


def test_a_broken_validation_clip_is_missing_and_never_replaced(generated: Path, tmp_path: Path) -> None:
    data, (broken,) = broken_copy(generated, tmp_path, "val/up")
    run = quick(data, tmp_path, "trainer.epochs=2")
    summary = json.loads((run.folder / "summary.json").read_text())
    (missing,) = summary["missing"]
    assert str(broken) in missing
    assert (summary["val_top1"] * 10) == pytest.approx(round(summary["val_top1"] * 10))  # of the ten others


def test_a_head_of_other_classes_starts_anew(
    generated: Path, trained: Path, tmp_path: Path, log_lines: LogLines
) -> None:
    data = tmp_path / "data"
    for split in ("train", "val"):
        for name in CLASSES:
            shutil.copytree(generated / split / name, data / split / f"new {name}")
    start = f"model.checkpoint={trained / 'model.safetensors'}"
    config = load_recipe(None, [f"data.path={data}", f"output={tmp_path}", *QUICK, start, "optim.lr=0"])
    result = train(config, progress_bar=False)
    lines = log_lines()
    assert any("other classes, so the head starts from random weights" in line for line in lines)
    before, after = weights(trained / "model.safetensors"), weights(result.model)
    assert not torch.allclose(before["head.weight"], after["head.weight"], atol=1e-3)
    assert torch.allclose(before["blocks3.0.attn.rpb"], after["blocks3.0.attn.rpb"], atol=1e-3)


def test_the_same_classes_in_another_order_are_an_error(generated: Path, trained: Path, tmp_path: Path) -> None:
    clips = load_clips(generated, split="train")
    write_manifest(tmp_path / "train.csv", clips)
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in reversed(clips.classes)))
    start = f"model.checkpoint={trained / 'model.safetensors'}"
    config = load_recipe(None, [f"data.path={tmp_path / 'train.csv'}", f"output={tmp_path}", *QUICK, start])
    with pytest.raises(ConfigError, match="the same classes in another order, class 0 is"):
        train(config, progress_bar=False)


def test_a_run_records_versions_and_the_data_it_saw(trained: Path) -> None:
    versions = json.loads((trained / "versions.json").read_text())
    assert versions["versions"]["torch"] == torch.__version__
    assert {"emim", "lightning", "av"} <= set(versions["versions"])
    assert versions["processor"]
    data = json.loads((trained / "data.json").read_text())
    assert data["train"]["counts"] == dict.fromkeys(CLASSES, 3)
    assert data["val"]["num_clips"] == 11
    assert len(data["train"]["sha256"]) == 64


def test_the_last_weights_are_kept_where_the_recipe_says_so(generated: Path, tmp_path: Path) -> None:
    options = ["trainer.epochs=3", "trainer.keep=last"]
    run = quick(generated, tmp_path, *options)
    state = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    assert all(torch.equal(value, state[f"model.{name}"]) for name, value in weights(run.model).items())


def test_wrong_settings_are_named(generated: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path is not set"):
        train(load_recipe(None, []))
    with pytest.raises(DataError, match="nowhere"):
        train(load_recipe(None, ["data.path=nowhere"]))
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: no such checkpoint file"):
        quick(generated, tmp_path, "model.checkpoint=nowhere.pth")
    with pytest.raises(ConfigError, match=r"could not be loaded again: the card's preprocessing\.num_frames: "):
        quick(generated, tmp_path, "preprocessing.num_frames=100000")
    with pytest.raises(ConfigError, match="not a run folder"):
        resume(tmp_path, [])
    with pytest.raises(ConfigError, match=r"^x{100}\.\.\.: not a run folder, no such folder exists$"):
        resume(Path("x" * 5000), [])
    assert not (tmp_path / "run").exists()  # nothing was made by what failed before it started
