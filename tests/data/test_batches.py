from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emim.data.loader import EpochBatches
from emim.errors import ConfigError


def steps(batches: EpochBatches) -> list[list[tuple[int, int]]]:
    return list(batches)


def test_every_clip_once_in_a_new_order_every_epoch() -> None:
    batches = EpochBatches(50, 5, seed=3)
    orders = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        found = steps(batches)
        assert steps(batches) == found
        assert [len(batch) for batch in found] == [5] * 10 == [5] * len(batches)
        assert {draw for batch in found for draw, _ in batch} == {epoch}
        orders.append([index for batch in found for _, index in batch])
        assert sorted(orders[-1]) == list(range(50))
    assert orders[0] != orders[1]
    assert orders[0] != [index for batch in EpochBatches(50, 5, seed=4) for _, index in batch]


@given(
    num_items=st.integers(1, 60), batch=st.integers(1, 5), accumulate=st.integers(1, 3), world=st.integers(1, 4),
    epoch=st.integers(0, 3), repeats=st.integers(1, 2),
)  # fmt: skip
def test_processes_see_in_a_step_what_one_process_sees(
    num_items: int, batch: int, accumulate: int, world: int, epoch: int, repeats: int
) -> None:
    one = EpochBatches(num_items, batch, seed=1, accumulate=accumulate * world, repeats=repeats)
    many = [
        EpochBatches(num_items, batch, seed=1, accumulate=accumulate, repeats=repeats, rank=rank, world=world)
        for rank in range(world)
    ]
    for batches in (one, *many):
        batches.set_epoch(epoch)
    together = [found for together in zip(*many, strict=True) for found in together]
    assert together == steps(one)
    drawn = [pair for found in together for pair in found]
    assert len(set(drawn)) == len(drawn)  # no augmentation is seen twice
    assert all(len(found) == batch * repeats for found in together)
    if num_items >= one.global_batch:
        assert len({index for _, index in drawn}) * repeats == len(drawn)


def test_clips_that_fill_no_step_wait_and_too_few_clips_go_round() -> None:
    assert [len(batch) for batch in EpochBatches(11, 4)] == [4, 4]
    assert [len(batch) for batch in EpochBatches(11, 2, accumulate=2)] == [2, 2, 2, 2]
    small = steps(EpochBatches(3, 8))
    assert [len(batch) for batch in small] == [8]
    counts = [sum(index == clip for _, index in small[0]) for clip in range(3)]
    assert sorted(counts) == [2, 3, 3]


def test_repeats_stand_side_by_side_with_draws_of_their_own() -> None:
    batches = EpochBatches(4, 2, repeats=2)
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        for batch in batches:
            assert [draw for draw, _ in batch] == [2 * epoch, 2 * epoch + 1] * 2
            assert batch[0][1] == batch[1][1] != batch[2][1] == batch[3][1]


def test_an_epoch_goes_on_from_any_batch() -> None:
    whole, rest = EpochBatches(40, 4, seed=2), EpochBatches(40, 4, seed=2)
    whole.set_epoch(3)
    rest.start_at(3, 6)
    rest.set_epoch(3)  # as a trainer does before an epoch
    assert len(rest) == 10
    assert steps(rest) == steps(whole)[6:]
    assert steps(rest) == steps(whole)  # once only
    rest.start_at(3, 6)
    rest.set_epoch(4)
    whole.set_epoch(4)
    assert steps(rest) == steps(whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "world": 2}, "rank 2 is outside 0..1"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_items": 0}, "num_items must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_wrong_numbers_are_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EpochBatches(**{"num_items": 4, "batch_size": 2, **options})
