"""Prediction of many videos: what one by one gives, in order, with bounded memory."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from emim.data.prefetch import AHEAD_PER_WORKER, VideoViews, read_views
from emim.data.preprocessing import Preprocessing
from emim.errors import CheckpointError, ConfigError, VideoError
from emim.inference import scoring as stream
from emim.inference.reading import ViewReader
from emim.inference.recogniser import Predictions, Recogniser
from emim.inference.scoring import VideoScore, VideoScorer, auto_batch_size, auto_workers, stream_scores

CPU = torch.device("cpu")
Outcomes = list[tuple[Path, Predictions | VideoError]]


@pytest.fixture
def recogniser(trained: Path) -> Recogniser:
    return Recogniser.load(trained / "model.safetensors", device="cpu")


@pytest.fixture(scope="module")
def videos(generated: Path) -> list[Path]:
    return sorted((generated / "test").rglob("*.mp4"))[:7]


@pytest.fixture
def with_broken(videos: list[Path], tmp_path: Path) -> list[Path]:
    """Broken videos first, in the middle and last."""
    cut, text = tmp_path / "cut.mp4", tmp_path / "text.mp4"
    cut.write_bytes(videos[0].read_bytes()[:600])
    text.write_text("no video\n" * 50)
    return [text, *videos[:3], tmp_path / "nowhere.mp4", cut, *videos[3:], tmp_path / "gone.mp4"]


def several_views(recogniser: Recogniser) -> None:
    recogniser.preprocessing = dataclasses.replace(recogniser.preprocessing, clips=2, crops=3, fit="crop")
    assert recogniser.preprocessing.num_views == 6


def one_by_one(recogniser: Recogniser, paths: list[Path]) -> Outcomes:
    outcomes: Outcomes = []
    for path in paths:
        try:
            outcomes.append((path, recogniser.predict(path, topk=11)))
        except VideoError as error:
            outcomes.append((path, error))
    return outcomes


def assert_same(found: Outcomes, expected: Outcomes) -> None:
    assert [path for path, _ in found] == [path for path, _ in expected]
    for (_, one), (_, other) in zip(found, expected, strict=True):
        if isinstance(other, VideoError):
            assert type(one) is type(other)
            assert str(one) == str(other)
        else:
            assert isinstance(one, Predictions)
            assert one.info == other.info
            scores = [{item.label: item.score for item in items} for items in (one, other)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 4), (1, 64), (2, 3), (None, None)])
@pytest.mark.parametrize("views", ["one", "several"])
def test_it_is_what_one_by_one_gives(
    recogniser: Recogniser, with_broken: list[Path], workers: int | None, batch_size: int | None, views: str
) -> None:
    if views == "several":
        several_views(recogniser)
    found = list(recogniser.predict_many(with_broken, topk=11, workers=workers, batch_size=batch_size))
    assert sum(isinstance(outcome, VideoError) for _, outcome in found) == 4
    assert_same(found, one_by_one(recogniser, with_broken))


def test_the_number_of_workers_changes_no_bit(recogniser: Recogniser, with_broken: list[Path]) -> None:
    several_views(recogniser)
    first, again, loaded = (
        [(path, str(found)) for path, found in recogniser.predict_many(with_broken, workers=workers, batch_size=4)]
        for workers in (0, 0, 2)
    )
    assert first == again == loaded


def test_batches_are_full_whichever_videos_they_hold(recogniser: Recogniser, with_broken: list[Path]) -> None:
    several_views(recogniser)
    sizes: list[int] = []
    recogniser.model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    list(recogniser.predict_many(with_broken, workers=0, batch_size=4))
    assert sizes == [4] * 10 + [2]  # seven videos of six views


def test_results_come_as_soon_as_their_batch_is_done(recogniser: Recogniser, videos: list[Path]) -> None:
    taken: list[Path] = []
    outcomes = recogniser.predict_many((taken.append(path) or path for path in videos), workers=0, batch_size=2)
    ahead = [len(taken) - done for done, _ in enumerate(outcomes, start=1)]
    assert ahead == [1, 0, 1, 0, 1, 0, 0]


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 3), (2, 2)])
def test_an_endless_list_is_taken_only_a_few_ahead(
    recogniser: Recogniser, with_broken: list[Path], workers: int, batch_size: int
) -> None:
    taken = 0

    def without_end() -> Iterator[Path]:
        nonlocal taken
        for path in itertools.cycle(with_broken):
            taken += 1
            yield path

    outcomes = recogniser.predict_many(without_end(), workers=workers, batch_size=batch_size)
    for done, _ in enumerate(itertools.islice(outcomes, 25), start=1):
        # Read ahead, and behind a batch that is not full.
        assert taken - done <= workers * AHEAD_PER_WORKER + 1 + 2 * batch_size
    del outcomes
    assert multiprocessing.active_children() == []


def test_broken_videos_do_not_pile_up_behind_one_that_waits(recogniser: Recogniser, videos: list[Path]) -> None:
    scorer = VideoScorer(recogniser.model, recogniser.preprocessing, device=CPU, batch_size=3)
    scorer.add(videos[0], VideoViews(recogniser.preprocessing)[videos[0]])
    given: list[Path] = [videos[0]]
    handed: list[Path] = []
    for number in range(50):
        given.append(Path(f"{number}.mp4"))
        scorer.add(given[-1], VideoError(given[-1], "broken"))
        handed += [path for path, _ in scorer.finished()]
        assert scorer.waiting <= 6
    assert handed == given


def test_results_that_are_fetched_one_batch_later_are_the_same(recogniser: Recogniser, with_broken: list[Path]) -> None:
    """As on a GPU."""
    several_views(recogniser)
    pre = recogniser.preprocessing
    at_once, later = (VideoScorer(recogniser.model, pre, device=CPU, batch_size=3) for _ in range(2))
    later._lag = 1
    results: list[list[tuple[Path, Any]]] = [[], []]
    for path, outcome in read_views(with_broken, pre):
        for scorer, found in zip((at_once, later), results, strict=True):
            scorer.add(path, outcome)
            found += scorer.finished()
    assert (len(results[0]), len(results[1])) == (11, 9)  # the last video, and the broken one behind it
    for scorer, found in zip((at_once, later), results, strict=True):
        found += scorer.rest()
    for (path, one), (path_later, other) in zip(*results, strict=True):
        assert path == path_later
        assert one is other if isinstance(one, VideoError) else torch.equal(one, other)


def test_bfloat16_differs_a_little(recogniser: Recogniser, trained: Path, videos: list[Path]) -> None:
    rounded = Recogniser.load(trained / "model.safetensors", device="cpu", precision="bf16-mixed")
    exact_NK, rounded_NK = (
        torch.stack(
            [
                found.score_K
                for _, found in stream_scores(
                    one.model,
                    videos,
                    ViewReader(one.preprocessing),
                    device=CPU,
                    workers=0,
                    batch_size=3,
                    precision=one.precision,
                )
                if isinstance(found, VideoScore)
            ]
        )
        for one in (recogniser, rounded)
    )
    assert exact_NK.dtype == rounded_NK.dtype == torch.float32
    assert 1e-6 < (exact_NK - rounded_NK).abs().max() < 0.1
    one_by_one = {item.label: item.score for item in rounded.predict(videos[0], topk=11)}
    (_, first), *_ = rounded.predict_many(videos[:1], topk=11)
    assert {item.label: item.score for item in first} == pytest.approx(one_by_one, abs=0.01)


@pytest.mark.parametrize("many", [False, True])
def test_logits_that_are_not_finite_are_an_error_and_no_guess(
    recogniser: Recogniser, videos: list[Path], many: bool
) -> None:
    torch.nn.init.constant_(recogniser.model.head.bias, torch.nan)
    with pytest.raises(CheckpointError, match="NaN or infinite in 32-true") as error:
        list(recogniser.predict_many(videos)) if many else recogniser.predict(videos[0])
    assert str(videos[0]) in str(error.value)


@pytest.mark.parametrize(("options", "error"), [({"workers": -1}, ConfigError), ({"batch_size": 0}, ConfigError)])
def test_wrong_options_are_errors_before_anything_is_read(
    recogniser: Recogniser, options: dict[str, int], error: type[Exception]
) -> None:
    with pytest.raises(error):
        recogniser.predict_many(["nowhere.mp4"], **options)
    with pytest.raises(ValueError, match="topk"):
        recogniser.predict_many(["nowhere.mp4"], topk=0)


def test_no_videos_give_nothing(recogniser: Recogniser) -> None:
    assert list(recogniser.predict_many([])) == []


@pytest.mark.parametrize(
    ("cores", "videos", "device", "workers"),
    [
        (8, 1, "cpu", 0),
        (8, 3, "cuda", 0),
        (8, 5, "cpu", 5),
        (8, 500, "cpu", 8),
        (8, None, "cuda", 8),
        (1, 500, "cpu", 0),
        (1, 500, "cuda", 1),
        (128, 500, "cuda", 32),
    ],
)
def test_workers_where_nothing_was_said(
    monkeypatch: pytest.MonkeyPatch, cores: int, videos: int | None, device: str, workers: int
) -> None:
    monkeypatch.setattr(stream, "usable_cores", lambda: cores)
    assert auto_workers(videos, torch.device(device)) == workers


def test_batch_size_where_nothing_was_said() -> None:
    assert auto_batch_size(CPU) == 8
    assert auto_batch_size(torch.device("cuda")) > 8


def test_letterboxed_videos_of_several_shapes_share_a_batch(
    recogniser: Recogniser, videos: list[Path], tmp_path: Path
) -> None:
    from emim.datasets.synthetic import ClipOptions, write_dataset

    write_dataset(tmp_path / "tall", splits={"test": 1}, options=ClipOptions(num_frames=8, height=64, width=48))
    tall = sorted((tmp_path / "tall").rglob("*.mp4"))[:2]
    recogniser.preprocessing = Preprocessing(num_frames=4, size=32, fit="letterbox", crops=1)
    paths = [videos[0], tall[0], videos[1], tall[1]]
    found = list(recogniser.predict_many(paths, topk=11, workers=0, batch_size=3))
    assert_same(found, one_by_one(recogniser, paths))
