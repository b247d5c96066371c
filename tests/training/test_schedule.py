from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import emim
from emim.training.schedule import learning_rate, parameter_groups


@pytest.mark.parametrize(
    ("progress", "rate"),
    [(0.0, 1e-6), (0.05, (1e-3 + 1e-6) / 2), (0.1, 1e-3), (0.55, (1e-3 + 1e-6) / 2), (1.0, 1e-6), (1.7, 1e-6)],
)
def test_warm_up_then_cosine(progress: float, rate: float) -> None:
    assert learning_rate(progress, peak=1e-3, floor=1e-6, warmup=0.1) == pytest.approx(rate)


@given(st.floats(0, 1), st.floats(0, 1))
def test_stays_between_floor_and_peak(progress: float, warmup: float) -> None:
    rate = learning_rate(progress, peak=1e-3, floor=1e-6, warmup=warmup)
    assert 1e-6 <= rate <= 1e-3 or math.isclose(rate, 1e-3)


def test_what_decays() -> None:
    model = emim.create_model("uniformer_tiny_emim", num_classes=3)
    decaying, others = parameter_groups(model, 0.05)
    name_of = {id(p): name for name, p in model.named_parameters()}
    names = [{name_of[id(p)] for p in group["params"]} for group in (decaying, others)]
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert names[0] | names[1] == set(name_of.values())
    assert not names[0] & names[1]
    assert {"blocks3.0.attn.rpb", "head.weight", "patch_embed1.proj.weight"} <= names[0]
    assert {"head.bias", "norm.weight", "blocks3.0.norm1.weight", "blocks1.0.attn.bias"} <= names[1]
