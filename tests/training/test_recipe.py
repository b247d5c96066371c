from __future__ import annotations

import math
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from emim.data.augment.transforms import resolve_label_map
from emim.datasets.synthetic import CLASSES
from emim.errors import ConfigError
from emim.training.config import RunConfig
from emim.training.recipe import (
    RENAMED_KEYS,
    describe_keys,
    find_recipe,
    from_dict,
    known_keys,
    load_recipe,
    recipe_folder,
    to_dict,
    to_yaml,
)

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
        ("model.window=4", "^model.window: must be odd, got 4$"),
        ("model.stem_stride=3", "^model.stem_stride: input should be 1 or 2, got 3$"),
        ("preprocesing.size=64", "^unknown key 'preprocesing.size'; did you mean 'preprocessing.size'"),
        ("data.max_skip=0.5", "did you mean 'data.max_skip_share'"),
        ("optm.weight_decay=0.5", "did you mean 'optim.weight_decay'"),
        ("modle.name=x", "did you mean 'model.name'"),
        ("xyz=3", "`emim config` prints all keys$"),
        ("mix.xyz=3", "mix has mixup, cutmix, prob, switch_prob, label_smoothing$"),
        ("optim.lr=1e400", "^optim.lr: input should be a finite number, got inf$"),
        ("trainer.max_minutes=1e400", "^trainer.max_minutes: input should be a finite number, got inf$"),
        ("trainer.max_minutes=.inf", "^trainer.max_minutes: input should be a finite number, got inf$"),
        ("trainer.max_minutes=nan", "^trainer.max_minutes: input should be .*, got nan$"),
        ("trainer.save_minutes=.nan", "^trainer.save_minutes: input should be .*, got nan$"),
        ("trainer.epochs=1e400", "^trainer.epochs: input should be a finite number, got inf$"),
        ("trainer.epochs=" + "9" * 5000, "^trainer.epochs: '99.* is not a value .a number beyond 64 bits.$"),
        ("trainer.epochs=0x" + "f" * 5000, "^trainer.epochs: '0xff.* is not a value .a number beyond 64 bits.$"),
        ("optim.lr=" + "9" * 400, "^optim.lr: '99.* is not a value .a number beyond 64 bits.$"),
        ("trainer.epochs=99999999999", "^trainer.epochs: input should be less than or equal to 2147483647"),
        ("trainer.seed=-1", "^trainer.seed: input should be greater than or equal to 0"),
        ("trainer.epochs=2024-99-99", "^trainer.epochs: .*got '2024-99-99'$"),
        ("trainer.epochs=!!timestamp x", "^trainer.epochs: .* is not a value .tags are not supported.$"),
        ("augment.flip_map=" + "[" * 5000, "^augment.flip_map: .* is not a value .nested more than 20 deep.$"),
        ("augment.flip_map=" + "{a: " * 50000, "^augment.flip_map: .* is not a value .nested more than 20 deep.$"),
        ("augment.flip_map" + ".a" * 5000 + "=1", "^unknown key 'augment.flip_map.a.*: nested more than 20 deep$"),
        ("augment.flip_map={a: b, a: c}", "^augment.flip_map: .* is not a value .key 'a' is given twice.$"),
        ("x" * 100000 + "=1", "^unknown key 'xxx.{90,100}; .*"),
        ("optim." + "x" * 100000 + "=1", "^unknown key 'optim.xxx.{90,100}; .*"),
        ("x" * 100000, "^override 'xxx.{90,100} must be key=value$"),
        ("trainer.precision=" + "x" * 100000, "^trainer.precision: input should be .*, got 'xxx.{90,100}$"),
        ("augment.randaugment=rand-" + "x" * 100000, "^randaugment: .{0,400}$"),
        ("data.path=" + "x" * 300, "^data.path: must be a path, but is too long for one, got 'xxx.{90,100}$"),
        ("data.val=" + "x/" * 3000, "^data.val: must be a path, but is too long for one"),
        ("model.checkpoint=a\0b", "^model.checkpoint: must be a path, but holds a null character"),
        ("output=" + "x" * 300, "^output: must be a path, but is too long for one"),
        ("name=../../x", "^name: must be the name of one folder: .*, got '../../x'$"),
        ("name=/tmp/x", "^name: must be the name of one folder"),
        ("name=a\\b", "^name: must be the name of one folder"),
        ("name=..", "^name: must be the name of one folder"),
        ("name=.", "^name: must be the name of one folder"),
        ("name=", "^name: input should be a valid string, got None$"),
        ("name=a\nb", "^name: must be the name of one folder"),
        ("name=" + "é" * 150, "^name: must be at most 200 bytes long"),
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
        ("trainr: {epochs: 3}\n", r"unknown key 'trainr'; did you mean 'trainer'\?"),
        ("optim: {lr: 1}\nname: x\noptim: {lr: 2}\n", "key 'optim' is given twice"),
        ("optim: {lr: 1, lr: 2}\n", "key 'lr' is given twice"),
        ("name: &a [*a]\n", "an anchor that contains itself"),
        ("a: " + "[" * 100000, "nested more than 20 deep"),
        ("\n".join(f"{'  ' * n}a:" for n in range(500)), "nested more than 20 deep"),
        ("trainer: {epochs: " + "9" * 5000 + "}\n", "a number beyond 64 bits"),
        ("trainer: {epochs: !!python/name:os.system x}\n", "tags are not supported"),
        ("trainer: {epochs: !!int x}\n", "tags are not supported"),
        ("? [a, b]\n: 3\n", "not valid YAML"),
        ("x" * (2**20 + 1), "larger than 1 MiB"),
        ("name: ../../x\n", "name: must be the name of one folder"),
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


def test_repeated_anchors_are_bounded(tmp_path: Path) -> None:
    # "Billion laughs": nine lines that stand for 10^9 values.
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="more than 10000 values"):
        load_recipe(path)
    merged = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 9))]
    path.write_text("\n".join(merged))
    with pytest.raises(ConfigError, match="more than 10000 values"):
        load_recipe(path)


def test_plain_anchors_work(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("optim: {lr: &rate 0.5, min_lr: *rate}\nmix: &m {mixup: 0.1}\n")
    assert load_recipe(path).optim.min_lr == 0.5


def test_words_that_older_yaml_takes_for_something_else_are_text(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("augment: {flip_map: {yes: no, on: 2024-01-01}}\nname: 12:30\ndata: {cache: yes}\n")
    config = load_recipe(path)
    assert config.augment.flip_map == {"yes": "no", "on": "2024-01-01"}
    assert (config.name, config.data.cache) == ("12:30", True)
    assert load_recipe(None, ["trainer.seed=010"]).trainer.seed == 10


@pytest.mark.parametrize("name", ["ärger <b>", "a b", "1e5", "yes", "null-1", "2024", "x.y", "#1", "~x", "-"])
def test_names_survive_yaml(tmp_path: Path, name: str) -> None:
    config = load_recipe(None, [f"name={name}", f"data.path={name}"])
    assert config.name == name
    path = tmp_path / "r.yaml"
    path.write_text(to_yaml(config))
    assert load_recipe(path) == config
    path.write_text(yaml.safe_dump(to_dict(config)))
    assert load_recipe(path) == config


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "x/" * 3000])
def test_impossible_recipe_names_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^no recipe file .{1,100}, and no recipe of that name"):
        find_recipe(name)


def test_old_keys_work_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match=r"^optim\.matching is now optim\.photometric; the old name works until"):
        assert load_recipe(None, ["optim.matching=30"]).optim.photometric == 30
    path = tmp_path / "config.yaml"
    path.write_text("optim: {matching: 3}\ntrainer: {checkpoint_blocks: [0, 0, 1, 0]}\n")
    with pytest.warns(FutureWarning, match=r"config\.yaml: trainer\.checkpoint_blocks is now trainer\.activation_ch"):
        config = load_recipe(path, ["optim.photometric=4"])
    assert (config.optim.photometric, config.trainer.activation_checkpointing) == (4, (0, 0, 1, 0))
    stored = {"optim": {"matching": 5}}  # as in the card of a model
    with pytest.warns(FutureWarning, match=r"optim\.matching is now"):
        assert from_dict(stored).optim.photometric == 5
    assert stored == {"optim": {"matching": 5}}
    with pytest.raises(ConfigError, match=r"optim\.matching is the old name of optim\.photometric, which is set, too"):
        from_dict({"optim": {"matching": 5, "photometric": 5}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for recipe in RECIPES:
            load_recipe(recipe)


def test_renamed_keys_are_known_under_their_new_names_only() -> None:
    assert set(RENAMED_KEYS.values()) <= set(known_keys())
    assert not set(RENAMED_KEYS) & set(known_keys())


@pytest.mark.parametrize("path", [None, *RECIPES], ids=lambda path: "defaults" if path is None else path.stem)
def test_what_is_printed_can_be_pasted_back(tmp_path: Path, path: Path | None) -> None:
    config = load_recipe(path)
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(config))
    assert load_recipe(again) == config


def test_every_key_can_be_given_as_an_override() -> None:
    for config in (RunConfig(), load_recipe(find_recipe("motion"))):
        words = []
        for item in describe_keys():
            value: Any = to_dict(config)
            for part in item.key.split("."):
                value = value[part]
            words.append(f"{item.key}={yaml.safe_dump(value, default_flow_style=True, width=1000).split(chr(10))[0]}")
        assert load_recipe(None, words) == config


def test_every_key_has_a_type_a_default_and_a_description() -> None:
    described = describe_keys()
    assert [item.key for item in described] == list(known_keys())
    for item in described:
        assert len(item.description) > 10, item.key
        assert item.type, item.key
    by_key = {item.key: item for item in described}
    assert by_key["optim.betas"][1:4] == ("list of 2 numbers", "each at least 0, below 1", [0.9, 0.999])
    assert by_key["trainer.devices"][1:4] == ("integer or text", "at least 1 or auto", "auto")
    assert by_key["model.window"].range == "1 to 63, odd"
    assert by_key["optim.layer_decay"].range == "above 0, at most 1"


@pytest.mark.parametrize("item", describe_keys(), ids=lambda item: item.key)
def test_the_stated_ranges_are_those_that_are_checked(item: Any) -> None:
    def accepts(value: float) -> bool:
        text = f"[{', '.join([str(value)] * int(item.type.split()[2]))}]" if "list" in item.type else str(value)
        try:
            load_recipe(None, [f"{item.key}={text}"])
        except ConfigError:
            return False
        return True

    step = 1 if "integer" in item.type else 1e-6
    for limit in item.range.removeprefix("each ").split(", "):
        words = limit.split(" ")
        if words[:2] == ["at", "least"]:
            low = float(words[2]) if step < 1 else int(words[2])
            assert accepts(low)
            assert not accepts(low - step)
        elif words[0] == "above":
            assert accepts(float(words[1]) + step)
            assert not accepts(float(words[1]))
        elif words[0] == "below":
            assert accepts(float(words[1]) - step)
            assert not accepts(float(words[1]))
        elif words[:2] == ["at", "most"]:
            assert accepts(float(words[2]))
            assert not accepts(float(words[2]) + step)
        elif "to" in words and "list" not in item.type:
            low, high = (int(words[0]), int(words[2])) if step == 1 else (float(words[0]), float(words[2]))
            assert all(map(accepts, (low, high)))
            assert not any(map(accepts, (low - 1, high + (2 if "odd" in item.range else 1))))


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30),
    st.integers(min_value=10**300, max_value=10**301),
    st.sampled_from(["auto", "1e400", "-1e400", "9" * 5000, "nan", "dense", "rand-m9-n3", "rand-m" + "9" * 400]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(
    key=st.one_of(st.sampled_from(sorted(known_keys())), st.sampled_from(["optim", "model.name.x", ""]), st.text()),
    value=st.one_of(values.map(lambda value: yaml.safe_dump(value, default_flow_style=True)), values.map(str),
                    st.text()),
)  # fmt: skip
def test_every_override_gives_a_configuration_or_a_config_error(key: str, value: str) -> None:
    with suppress(ConfigError):
        config = load_recipe(None, [f"{key}={value}"])
        assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config
        assert not any(isinstance(value, float) and not math.isfinite(value) for value in plain_values(to_dict(config)))


@settings(max_examples=200, deadline=None)
@given(content=st.dictionaries(st.sampled_from(["name", "optim", "model", "trainer", "x"]), values, max_size=4))
def test_every_recipe_gives_a_configuration_or_a_config_error(
    content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=False), encoding="utf-8")
    with suppress(ConfigError):
        config = load_recipe(path)
        assert from_dict(to_dict(config)) == config


def plain_values(value: Any) -> list[Any]:
    """Every plain value in nested dictionaries and lists."""
    if isinstance(value, dict):
        return [number for inner in value.values() for number in plain_values(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in plain_values(inner)]
    return [value]
