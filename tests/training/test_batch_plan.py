from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emim.errors import ConfigError
from emim.training.batch_plan import plan_batches
from emim.training.config import OptimConfig, TrainerConfig


@given(
    total=st.integers(1, 256), world=st.sampled_from([1, 2, 4, 8]), fits=st.integers(1, 64), lr=st.floats(1e-5, 1e-2)
)
def test_the_recipes_clips_a_step_are_kept_on_any_hardware(total: int, world: int, fits: int, lr: float) -> None:
    trainer, optim = TrainerConfig(global_batch=total, batch_size=None), OptimConfig(lr=lr, lr_batch=total)
    if total % world:
        with pytest.raises(ConfigError, match=f"global_batch={total} does not divide among {world} devices"):
            plan_batches(trainer, optim, world=world, fits=fits)
        return
    plan = plan_batches(trainer, optim, world=world, fits=fits)
    assert plan.global_batch == plan.batch_size * plan.accumulate * world == total
    assert plan.batch_size <= fits
    assert plan.lr == lr
    bigger = [n for n in range(plan.batch_size + 1, fits + 1) if (total // world) % n == 0]
    assert not bigger


@pytest.mark.parametrize(
    ("trainer", "world", "expected"),
    [
        ({"batch_size": 16}, 1, (16, 1, 16)),
        ({"batch_size": 16, "accumulate": 2}, 4, (16, 2, 128)),
        ({"global_batch": 32, "batch_size": 4}, 2, (4, 4, 32)),
        ({"global_batch": 32, "batch_size": None, "accumulate": 8}, 1, (4, 8, 32)),
        ({"global_batch": 6, "batch_size": 4}, 1, (3, 2, 6)),  # the largest even part that is not above
    ],
)
def test_batches_by_hand(trainer: dict[str, int | None], world: int, expected: tuple[int, int, int]) -> None:
    plan = plan_batches(TrainerConfig(**trainer), OptimConfig(), world=world)  # type: ignore[arg-type]
    assert (plan.batch_size, plan.accumulate, plan.global_batch) == expected


def test_the_rate_follows_the_clips_a_step_and_says_so() -> None:
    optim = OptimConfig(lr=2e-4, lr_batch=32)
    small = plan_batches(TrainerConfig(global_batch=8, batch_size=2, repeats=2), optim, world=2)
    assert small.lr == pytest.approx(5e-5)
    assert str(small) == (
        "8 clips a step (2 on each of 2 devices x 2 passes), each drawn 2 times; "
        "learning rate 5e-05 (the recipe's 0.0002 is for 32)"
    )
    assert plan_batches(TrainerConfig(batch_size=64), OptimConfig(lr=2e-4), world=4).lr == 2e-4  # taken as it is


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"batch_size": None}, "batch_size and trainer.global_batch are both null"),
        ({"global_batch": 0}, "global_batch must be at least 1, got 0"),
        ({"global_batch": 10, "accumulate": 3, "batch_size": None}, "10 is no multiple of 1 devices x .*accumulate=3"),
        ({"global_batch": 12, "accumulate": 3, "batch_size": 2}, "means trainer.batch_size=4, got 2"),
    ],
)
def test_contradictions_are_named(trainer: dict[str, int | None], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_batches(TrainerConfig(**trainer), OptimConfig(), world=1)  # type: ignore[arg-type]
