from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from emim.data.augment.transforms import resolve_label_map
from emim.datasets.synthetic import CLASSES
from emim.errors import ConfigError
from emim.training.config import RunConfig
from emim.training.recipe import find_recipe, from_dict, known_keys, load_recipe, recipe_folder, to_dict

RECIPES = sorted(recipe_folder().glob("*.yaml"))


def test_the_recipes_are_found() -> None:
    assert {"demo", "finetune", "motion", "msr_action3d"} <= {path.stem for path in RECIPES}
    assert find_recipe("motion") == recipe_folder() / "motion.yaml"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_says_how_to_run_it(path: Path) -> None:
    config = load_recipe(path)
    assert config.name == path.stem
    header = path.read_text().split("name:")[0]
    assert all(word in header for word in ("command", "hardware", "reaches"))
    if path.stem in ("demo", "motion"):
        for names in (config.augment.flip_map, config.augment.reverse_map):
            resolve_label_map(names, CLASSES)


def test_a_config_survives_yaml() -> None:
    config = load_recipe(recipe_folder() / "motion.yaml", ["trainer.max_minutes=null", "optim.betas=[0.8, 0.99]"])
    assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config


def test_overrides_win_and_keep_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: mine\noptim: {lr: 0.5, weight_decay: 0.1}\n")
    config = load_recipe(path, ["optim.lr=1e-3", "model.name=uniformer_tiny", "data.cache=true", "name=4"])
    assert (config.optim.lr, config.optim.weight_decay) == (1e-3, 0.1)
    assert (config.model.name, config.data.cache, config.name) == ("uniformer_tiny", True, "4")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "unknown key 'optim.lrr'; did you mean 'optim.lr'"),
        ("epochs=3", "unknown key 'epochs'; did you mean 'trainer.epochs'"),
        ("trainer.epoch=3", "did you mean 'trainer.epochs'"),
        ("optim.lr.value=3", "optim.lr: .*got"),
        ("model=3", "model is a section of keys, got 3"),
        ("optim.lr=abc", "optim.lr: .*number.*got 'abc'"),
        ("trainer.epochs=2.5", "trainer.epochs: .*got 2.5"),
        ("trainer.precision=fp8", "trainer.precision: .*got 'fp8'"),
        ("preprocessing.crops=2", "^preprocessing: crops must be 1 or 3, got 2$"),
        ("augment.randaugment=rand-w3", "^randaugment: unknown key 'w' in 'rand-w3'"),
        ("optim.lr", "override 'optim.lr' must be key=value"),
        ("optim.lr=[", "optim.lr: '\\[' is not a value"),
        ("optim.lr=-1", "^optim.lr: input should be greater than or equal to 0, got -1$"),
        ("optim.betas=[0.9, 1]", r"^optim.betas.1: input should be less than 1, got 1$"),
        ("trainer.epochs=0", "^trainer.epochs: input should be greater than or equal to 1, got 0$"),
        ("trainer.devices=0", "^trainer.devices: input should be greater than or equal to 1, got 0$"),
        ("trainer.ema=1", "^trainer.ema: input should be less than 1, got 1$"),
        ("trainer.max_minutes=0", "^trainer.max_minutes: input should be greater than 0, got 0$"),
        ("data.max_skip_share=2", "^data.max_skip_share: input should be less than or equal to 1, got 2$"),
        ("data.val_clips=0", "^data.val_clips: input should be greater than or equal to 1, got 0$"),
        ("mix.mixup=-1", "^mix.mixup: input should be greater than or equal to 0, got -1$"),
        ("model.drop_path=1.5", "^model.drop_path: input should be less than 1, got 1.5$"),
    ],
)
def test_wrong_overrides_name_the_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(None, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "a recipe is a mapping of keys, got a list"),
        ("name: [\n", "not valid YAML"),
        ("trainr: {epochs: 3}\n", r"r\.yaml: unknown key 'trainr'"),
        ("optim: 3\n", "optim is a section of keys, got 3"),
        ("trainer: {epochs: 0}\n", r"r\.yaml: trainer\.epochs: input should be greater than or equal to 1, got 0"),
    ],
)
def test_wrong_files_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_recipe(path)
    assert str(path) in str(error.value)


def test_a_wrong_override_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("optim: {lr: 0.5}\n")
    with pytest.raises(ConfigError, match=r"^optim\.lr: .*got -1$"):
        load_recipe(path, ["optim.lr=-1"])


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'motion'"):
        find_recipe("motoin")


def test_all_keys_are_listed_with_their_defaults() -> None:
    keys = known_keys()
    assert keys["optim.lr"] == RunConfig().optim.lr
    assert "augment.crop_scale" in keys
    assert not any(key in keys for key in ("optim", "model"))
