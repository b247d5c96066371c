"""The parts of a diagnosis by themselves: interventions, bootstrap, swaps, sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from backends_here import why_not
from emim.errors import ClipSizeError
from emim.evaluation.diagnosis.ablations import (
    appearance_zeroed,
    freeze,
    motion_zeroed,
    reverse,
    shuffle,
    shuffled_order,
)
from emim.evaluation.diagnosis.diagnose import AblationResult, conclude, notes_on
from emim.evaluation.diagnosis.statistics import Accuracies, Estimate, Swap, bootstrap, find_swaps
from emim.nn import EMIM
from emim.nn.affinity import emim_blocks
from emim.ops import cost_volume_attention, motion_mlp

GRID = (3, 4, 5)
BACKENDS = ("reference", "dense", "cpp", "triton")
Change = Callable[[nn.Module], AbstractContextManager[None]]


def numbered(frames: int) -> Tensor:
    """Two views [2, 3, T, 2, 2] whose values are their frame numbers, those of the second from 100."""
    return torch.arange(frames).view(1, 1, -1, 1, 1).expand(2, 3, -1, 2, 2) + torch.tensor([0, 100]).view(2, 1, 1, 1, 1)


def frame_numbers(views_VCTHW: Tensor) -> list[list[int]]:
    return views_VCTHW[:, 0, :, 0, 0].tolist()


def test_frozen_and_reversed_by_hand() -> None:
    assert frame_numbers(freeze(numbered(4))) == [[2] * 4, [102] * 4]
    assert frame_numbers(freeze(numbered(5))) == [[2] * 5, [102] * 5]
    assert frame_numbers(freeze(numbered(1))) == [[0], [100]]
    assert frame_numbers(reverse(numbered(3))) == [[2, 1, 0], [102, 101, 100]]


@pytest.mark.parametrize("change", [freeze, reverse, lambda views: shuffle(views, 0, 0)])
def test_the_shared_views_are_left_as_they_are(change: Callable[[Tensor], Tensor]) -> None:
    views = torch.randn(2, 3, 5, 4, 4)
    before = views.clone()
    assert change(views).shape == views.shape
    assert torch.equal(views, before)


@given(st.integers(1, 40), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_shuffled_order_holds_every_frame_in_another_order(frames: int, clip: int, seed: int) -> None:
    order = shuffled_order(frames, clip, seed)
    assert sorted(order.tolist()) == list(range(frames))
    assert (order.tolist() == list(range(frames))) == (frames == 1)
    assert torch.equal(order, shuffled_order(frames, clip, seed))
    first, second = frame_numbers(shuffle(numbered(frames), clip, seed))
    assert first == order.tolist()
    assert second == [100 + frame for frame in first]  # the same in every view


def test_orders_are_drawn_evenly_and_differ_by_clip_and_seed() -> None:
    orders = [tuple(shuffled_order(3, clip, seed=0).tolist()) for clip in range(1000)]
    counts = {order: orders.count(order) for order in set(orders)}
    assert len(counts) == 5  # all of six but one
    assert all(150 < count < 250 for count in counts.values())
    assert orders[:20] != [tuple(shuffled_order(3, clip, seed=1).tolist()) for clip in range(20)]


@pytest.fixture
def network() -> nn.Sequential:
    """Two EMIM modules, and a layer that no intervention may touch."""
    torch.manual_seed(0)
    modules = [EMIM(8, 2, window=3, motion_start="correlation"), EMIM(8, 1, window=(3, 5), motion_start="correlation")]
    for module in modules:
        nn.init.normal_(module.qkv.bias)
        nn.init.normal_(module.motion_conv[2].bias)
    return nn.Sequential(*modules, nn.Linear(8, 8))


@pytest.mark.parametrize("change", [motion_zeroed, appearance_zeroed])
def test_weights_come_back_to_the_bit_also_on_an_error(network: nn.Sequential, change: Change) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def changed() -> set[str]:
        return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}

    layer = "motion_conv.2" if change is motion_zeroed else "qkv"
    with change(network):
        assert changed() == {f"{module}.{layer}.{kind}" for module in (0, 1) for kind in ("weight", "bias")}
    assert not changed()
    with pytest.raises(ClipSizeError), change(network), torch.inference_mode():
        network[0](torch.zeros(1, 5, 8), GRID)
    assert not changed()
    assert all(value.requires_grad for value in network.parameters())


def paths(emim: EMIM, x_BLC: Tensor) -> tuple[Tensor, Tensor]:
    """What the appearance and the motion path give, [B, N, T, H, W, D], by the reference operator."""
    B, _, C = x_BLC.shape
    N = emim.num_heads
    q, k, v = emim.qkv(x_BLC).reshape(B, *GRID, 3, N, C // N).permute(4, 0, 5, 1, 2, 3, 6)
    appearance, affinity = cost_volume_attention(q, k, v, emim.rpb, backend="reference", return_affinity=True)
    first, _, last = emim.motion_conv
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    return appearance, motion_mlp(affinity, first.weight, first.bias, last.weight, last.bias, backend="reference")


def projected(emim: EMIM, path_BNTHWD: Tensor) -> Tensor:
    B = len(path_BNTHWD)
    out: Tensor = emim.proj(path_BNTHWD.permute(0, 2, 3, 4, 1, 5).reshape(B, -1, emim.proj.in_features))
    return out


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_zeroed_path_leaves_the_other_alone(network: nn.Sequential, backend: str) -> None:
    if reason := why_not(backend):
        pytest.skip(reason)
    emim = network[0]
    emim.backend = backend
    x_BLC = torch.randn(2, 3 * 4 * 5, 8)
    with torch.inference_mode():
        appearance, motion = paths(emim, x_BLC)
        with motion_zeroed(emim):
            torch.testing.assert_close(emim(x_BLC, GRID), projected(emim, appearance), atol=1e-5, rtol=1e-5)
        with appearance_zeroed(emim):
            # The padding, 1e-6, is below this tolerance.
            torch.testing.assert_close(emim(x_BLC, GRID), projected(emim, motion), atol=1e-5, rtol=1e-5)
        assert (emim(x_BLC, GRID) - projected(emim, appearance)).abs().max() > 0.01
        assert (emim(x_BLC, GRID) - projected(emim, motion)).abs().max() > 0.01


def test_emim_modules_are_found_by_name(network: nn.Sequential) -> None:
    assert list(emim_blocks(network)) == ["0", "1"]
    assert emim_blocks(nn.Linear(2, 2)) == {}
    with motion_zeroed(nn.Linear(2, 2)):  # nothing to change
        pass


outcomes = st.integers(1, 4).flatmap(
    lambda conditions: st.lists(st.tuples(*[st.booleans()] * conditions), min_size=1, max_size=60)
)


def inside(estimate: Estimate) -> bool:
    return estimate.interval[0] <= estimate.value <= estimate.interval[1]


@settings(deadline=None, max_examples=60)
@given(outcomes, st.integers(0, 1000))
def test_intervals_hold_their_estimates_and_do_not_depend_on_the_order(rows: list[tuple[bool, ...]], seed: int) -> None:
    right_CN = np.array(rows).T
    found = bootstrap(right_CN, seed)
    for estimate, right_N in zip(found.accuracy, right_CN, strict=True):
        assert estimate.value == pytest.approx(right_N.mean())
        assert 0 <= estimate.interval[0] <= estimate.interval[1] <= 1
        assert inside(estimate)
    for estimate, accuracy in zip(found.difference, found.accuracy, strict=True):
        assert estimate.value == pytest.approx(accuracy.value - found.accuracy[0].value)
        assert -1 <= estimate.interval[0] <= estimate.interval[1] <= 1
        assert inside(estimate)
    assert found.difference[0] == Estimate(0.0, (0.0, 0.0))
    assert bootstrap(np.random.default_rng(seed).permutation(right_CN, axis=1), seed) == found


@pytest.mark.parametrize(
    ("right_CN", "accuracy", "difference"),
    [
        ([[True] * 9, [False] * 9], [1, 0], -1),
        ([[True], [False]], [1, 0], -1),
        ([[False], [True]], [0, 1], 1),
    ],
)
def test_where_all_clips_are_alike_the_interval_has_no_width(
    right_CN: list[list[bool]], accuracy: list[float], difference: float
) -> None:
    found = bootstrap(np.array(right_CN))
    assert found.accuracy == tuple(Estimate(value, (value, value)) for value in accuracy)
    assert found.difference[1] == Estimate(difference, (difference, difference))


def by_drawing_clips(right_CN: NDArray[np.bool_], resamples: int) -> Accuracies:
    """The textbook's way: draw clips with replacement, one resample after the other."""
    rng = np.random.default_rng(5)
    drawn = [right_CN[:, rng.integers(0, right_CN.shape[1], right_CN.shape[1])].mean(1) for _ in range(resamples)]
    values_RC = np.stack(drawn)

    def estimates(values_RC: NDArray[np.float64], value_C: NDArray[np.float64]) -> tuple[Estimate, ...]:
        low_C, high_C = np.percentile(values_RC, (2.5, 97.5), axis=0)
        return tuple(
            Estimate(float(value), (float(low), float(high)))
            for value, low, high in zip(value_C, low_C, high_C, strict=True)
        )

    mean_C = right_CN.mean(1)
    return Accuracies(estimates(values_RC, mean_C), estimates(values_RC - values_RC[:, :1], mean_C - mean_C[0]))


def test_intervals_are_those_of_drawing_clips_and_differences_are_paired() -> None:
    rng = np.random.default_rng(0)
    base_N = rng.random(400) < 0.8
    much_N = base_N & (rng.random(400) < 0.5)
    little_N = base_N.copy()
    little_N[np.flatnonzero(base_N)[:4]] = False
    right_CN = np.stack([base_N, much_N, little_N])
    found, expected = bootstrap(right_CN, resamples=20_000), by_drawing_clips(right_CN, 20_000)
    for ours, theirs in zip(found.accuracy + found.difference, expected.accuracy + expected.difference, strict=True):
        assert ours.value == pytest.approx(theirs.value)
        assert ours.interval == pytest.approx(theirs.interval, abs=0.004)
    # Four clips of 400 make a difference that is told from zero, however uncertain both accuracies are.
    assert found.difference[2].interval[1] < 0
    assert found.accuracy[2].interval[1] > found.accuracy[0].interval[0]


def swaps_of(rows: Sequence[tuple[int, int, int, int]], num_classes: int = 5) -> tuple[Swap, ...]:
    """From (label, as is, reversed, how many clips)."""
    clips = [row[:3] for row in rows for _ in range(row[3])]
    label_N, as_is_N, reversed_N = np.array(clips, dtype=np.int64).T
    return find_swaps(label_N, as_is_N, reversed_N, num_classes)


def test_pairs_that_swap_by_hand() -> None:
    found = swaps_of(
        [
            (3, 3, 1, 3), (3, 3, 3, 1), (1, 1, 3, 2),  # 3 goes to 1 in three of four, 1 to 3 always
            (1, 0, 4, 9), (3, 1, 1, 9),  # named wrongly as they are: they say nothing of reversal
            (0, 0, 4, 2), (0, 0, 0, 2), (4, 4, 0, 2), (4, 4, 2, 2),  # half of either
            (2, 2, 2, 5),
        ]
    )  # fmt: skip
    assert found == (Swap((1, 3), (1.0, 0.75), (2, 4)), Swap((0, 4), (0.5, 0.5), (4, 4)))


def test_a_swap_needs_both_directions_and_more_than_one_clip() -> None:
    assert swaps_of([(0, 0, 1, 4), (1, 1, 1, 4)]) == ()  # one direction
    assert swaps_of([(0, 0, 1, 4), (1, 1, 0, 1)]) == ()  # one clip
    assert swaps_of([(0, 0, 1, 4), (1, 1, 0, 1), (1, 1, 1, 4)]) == ()  # a share of one fifth
    assert len(swaps_of([(0, 0, 1, 4), (1, 1, 0, 1), (1, 1, 1, 3)])) == 1  # of one quarter


def result(name: str, accuracy: tuple[float, float, float], difference: tuple[float, float, float]) -> AblationResult:
    (low, value, high), (low_d, value_d, high_d) = accuracy, difference
    changed = None if name == "as_is" else Estimate(value_d, (low_d, high_d))
    return AblationResult(name, Estimate(value, (low, high)), changed, ())


GOOD = result("as_is", (0.85, 0.9, 0.95), (0, 0, 0))


@pytest.mark.parametrize(
    ("frozen", "start"),
    [
        (result("frozen", (0.05, 0.1, 0.15), (-0.85, -0.8, -0.75)), "It needs motion: frozen, accuracy falls from 90"),
        (result("frozen", (0.4, 0.5, 0.6), (-0.5, -0.4, -0.3)), "It uses motion, but not motion alone: frozen, acc"),
        (result("frozen", (0.84, 0.89, 0.94), (-0.02, -0.01, 0)), "No use of motion was seen: frozen, accuracy goes"),
        (result("frozen", (0.9, 0.95, 1), (0.02, 0.05, 0.08)), "It does better without motion: frozen, accuracy ri"),
    ],
)
def test_what_is_said_of_freezing(frozen: AblationResult, start: str) -> None:
    said = conclude([GOOD, frozen], chance=0.1)
    assert len(said) == 1
    assert said[0].startswith(start)


def test_a_network_at_chance_is_not_judged() -> None:
    poor = result("as_is", (0.09, 0.15, 0.22), (0, 0, 0))
    frozen = result("frozen", (0, 0.05, 0.1), (-0.15, -0.1, -0.05))
    (said,) = conclude([poor, frozen], chance=0.1)
    assert said.startswith("On the unchanged clips, accuracy is not clearly above chance (15.0%, chance 10.0%)")


def test_what_is_said_of_order_and_paths() -> None:
    results = [
        GOOD,
        result("frozen", (0.05, 0.1, 0.15), (-0.85, -0.8, -0.75)),
        result("shuffled", (0.8, 0.85, 0.9), (-0.08, -0.05, -0.02)),
        result("reversed", (0.84, 0.89, 0.94), (-0.03, -0.01, 0.01)),
        result("motion_zeroed", (0.3, 0.4, 0.5), (-0.6, -0.5, -0.4)),
        result("appearance_zeroed", (0.9, 0.95, 1), (0.02, 0.05, 0.08)),
    ]
    assert conclude(results, chance=0.1)[1:] == (
        "Shuffling the frames costs 5.0 points and reversing them makes no clear difference (-3.0 to +1.0 points).",
        "In the EMIM modules, zeroing the motion features costs 50.0 points and zeroing the appearance path gains "
        "5.0 points.",
    )


def test_notes_say_what_was_zeroed_and_what_changes_nothing() -> None:
    (with_emim,) = notes_on(["blocks3.0.attn", "blocks4.0.attn"], 8)
    assert "the EMIM modules alone (2: blocks3.0.attn, blocks4.0.attn)" in with_emim
    single, without = notes_on([], 1)
    assert "one frame" in single
    assert "no EMIM module" in without
