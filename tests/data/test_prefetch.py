"""Reading ahead: the same views in the same order, a bounded distance ahead, and workers that die or are dismissed."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from emim.data.prefetch import AHEAD_PER_WORKER, VideoViews, lost_workers_named, read_views
from emim.data.preprocessing import Preprocessing, finish_views, raw_test_views, test_views
from emim.data.video import open_video
from emim.errors import EmptyVideoError, ProcessError, VideoError, VideoNotFoundError

PRE = Preprocessing(num_frames=4, size=32, clips=2)


@pytest.fixture(scope="module")
def videos(generated: Path) -> list[Path]:
    return sorted((generated / "test").rglob("*.mp4"))[:6]


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
def test_finished_views_are_the_test_views_to_the_bit(videos: list[Path], fit: str) -> None:
    pre = Preprocessing(num_frames=4, size=40, clips=2, fit=fit)  # type: ignore[arg-type]
    raw_VCTHW = VideoViews(pre)[videos[0]]
    assert raw_VCTHW.dtype == torch.uint8
    assert raw_VCTHW.shape[-2:] == ((30, 40) if fit == "letterbox" else (40, 40))
    with open_video(videos[0]) as reader:
        expected_VCTHW = test_views(reader, pre)
    views_VCTHW = finish_views(raw_VCTHW, pre)
    assert views_VCTHW.shape == (pre.num_views, 3, 4, 40, 40)
    assert torch.equal(views_VCTHW, expected_VCTHW)
    # By the definition, in float64.
    top, left = (40 - raw_VCTHW.shape[-2]) // 2, (40 - raw_VCTHW.shape[-1]) // 2
    inner_VCTHW = views_VCTHW[..., top : 40 - top, left : 40 - left]
    assert torch.allclose(inner_VCTHW.double(), (raw_VCTHW.double() / 255 - 0.45) / 0.225, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_views_come_in_the_order_of_the_paths_and_errors_in_their_place(
    videos: list[Path], tmp_path: Path, workers: int
) -> None:
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    paths = [videos[0], tmp_path / "nowhere.mp4", *videos[1:4], empty, videos[4]]
    outcomes = list(read_views(paths, PRE, workers=workers))
    assert [path for path, _ in outcomes] == paths
    for path, outcome in outcomes:
        if path in videos:
            assert isinstance(outcome, torch.Tensor)
            with open_video(path) as reader:
                assert torch.equal(outcome, raw_test_views(reader, PRE))
        else:
            assert isinstance(outcome, VideoError)
            assert outcome.path == path
    assert type(outcomes[1][1]) is VideoNotFoundError
    assert type(outcomes[5][1]) is EmptyVideoError


@pytest.mark.parametrize("workers", [0, 2])
def test_paths_are_taken_only_a_few_ahead_without_end(videos: list[Path], workers: int) -> None:
    taken = 0

    def without_end() -> Iterator[Path]:
        nonlocal taken
        for path in itertools.cycle(videos):
            taken += 1
            yield path

    views = read_views(without_end(), PRE, workers=workers)
    for done, _ in enumerate(itertools.islice(views, 30), start=1):
        assert taken - done <= workers * AHEAD_PER_WORKER + 1
    views.close()  # type: ignore[attr-defined]  # a generator
    assert taken < 40
    assert multiprocessing.active_children() == []


def test_a_killed_worker_is_an_error_that_names_what_was_read(videos: list[Path]) -> None:
    views = read_views(itertools.cycle(videos), PRE, workers=1)
    next(views)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None

    def go_on_without_it(pid: int) -> None:
        with lost_workers_named():
            os.kill(pid, signal.SIGKILL)
            for _ in views:
                pass

    with pytest.raises(ProcessError, match="a process that reads videos has ended") as error:
        go_on_without_it(worker.pid)
    assert "emim doctor" in str(error.value)
    assert "\n" not in str(error.value)
    assert multiprocessing.active_children() == []


def test_other_errors_pass_through_unchanged() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError) as raised, lost_workers_named():
        raise error
    assert raised.value is error


def test_many_videos_are_not_all_named() -> None:
    asked = [Path(f"{number}.mp4") for number in range(20)]
    with pytest.raises(ProcessError) as raised, lost_workers_named(asked):
        raise RuntimeError("DataLoader worker (pid 17) is killed by signal: Bus error. It is possible that")
    assert "has ended (killed by signal: Bus error), while it and the others were to read 0.mp4," in str(raised.value)
    assert "7.mp4 and 12 more" in str(raised.value)
    assert "8.mp4" not in str(raised.value).replace("18.mp4", "")
