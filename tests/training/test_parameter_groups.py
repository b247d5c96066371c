from __future__ import annotations

import pytest

import emim
from emim.errors import ConfigError
from emim.training.optimisation import parameter_groups


def test_what_decays() -> None:
    model = emim.create_model("uniformer_tiny_emim", num_classes=3)
    decaying, others = sorted(parameter_groups(model, 0.05), key=lambda group: -group["weight_decay"])
    name_of = {id(p): name for name, p in model.named_parameters()}
    names = [{name_of[id(p)] for p in group["params"]} for group in (decaying, others)]
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert names[0] | names[1] == set(name_of.values())
    assert not names[0] & names[1]
    assert {"blocks3.0.attn.rpb", "head.weight", "patch_embed1.proj.weight"} <= names[0]
    assert {"head.bias", "norm.weight", "blocks3.0.norm1.weight", "blocks1.0.attn.bias"} <= names[1]


def test_all_have_the_full_rate_by_default() -> None:
    model = emim.create_model("uniformer_tiny_emim", num_classes=3)
    assert {group["lr_scale"] for group in parameter_groups(model, 0.05)} == {1.0}


def test_layer_decay_falls_from_the_head_to_the_stem() -> None:
    model = emim.create_model("uniformer_tiny_emim", num_classes=3)  # depths 1, 1, 2, 2
    scale_of = {
        id(parameter): group["lr_scale"]
        for group in parameter_groups(model, 0.05, layer_decay=0.5)
        for parameter in group["params"]
    }
    scales = {name: scale_of[id(parameter)] for name, parameter in model.named_parameters()}
    assert scales["head.weight"] == scales["norm.weight"] == 1
    for name, steps_below in (
        ("blocks4.1.norm1.weight", 1),
        ("blocks4.0.norm1.weight", 2),
        ("patch_embed4.proj.weight", 2),
        ("blocks3.0.attn.rpb", 4),
        ("blocks1.0.norm1.weight", 6),
        ("patch_embed1.proj.weight", 7),
    ):
        assert scales[name] == 0.5**steps_below, name


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1])
def test_a_wrong_layer_decay_is_named(value: float) -> None:
    with pytest.raises(ConfigError, match="layer_decay must be above 0 and at most 1, got"):
        parameter_groups(emim.create_model("uniformer_tiny_emim", num_classes=3), 0.05, value)
