"""What a report is made of: the run's folder, the log, settings, figures, charts."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from emim.data.folder import load_clips
from emim.data.manifest import ClipEntry, ClipList
from emim.data.preprocessing import Preprocessing
from emim.errors import ConfigError, DataError
from emim.evaluation.outputs import ClipOutputs
from emim.evaluation.testing import TestResult, summarise, wilson_interval
from emim.report.charts import Line, heat_map, labels, line_chart, mean_interval, round_scale, whisker_chart
from emim.report.formatting import count, duration, points, size
from emim.report.measurement import Measurement
from emim.report.report import choose_clips
from emim.report.tables import (
    changed_settings,
    class_rows,
    data_rows,
    full_recipe,
    matrix_rows,
    most_confused,
    remarks_on_clips,
)
from emim.training.recipe import load_recipe
from emim.training.run_folder import History, read_history, read_run, subsample, validation_clips

LOG = """epoch,lr,step,train_loss_epoch,train_loss_step,val_loss,val_top1
0,0.001,9,,2.5,,
0,,19,,,1.5,0.25
0,,19,2.25,,,
1,0.0005,29,,nan,,
1,,39,,,1.25,0.5
1,,39,1.75,,,
2,0.0001,49,,1.5
2,,
"""


def result_of(named: list[int], label: list[int], num_classes: int, score: list[float] | None = None) -> TestResult:
    return summarise(
        scores(named, score, num_classes),
        torch.tensor(label),
        tuple(f"class {index}" for index in range(num_classes)),
        preprocessing=Preprocessing(),
    )


def scores(named: list[int], score: list[float] | None, num_classes: int) -> torch.Tensor:
    best_N = torch.tensor([0.9] * len(named) if score is None else score)
    score_SK = ((1 - best_N) / max(1, num_classes - 1))[:, None].repeat(1, num_classes)
    score_SK[torch.arange(len(named)), torch.tensor(named)] = best_N
    return score_SK


# The log


def test_the_log_becomes_series_over_epochs(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(LOG)
    history = read_history(path)
    assert history.axis == "epoch"
    assert history.steps_per_epoch == 20
    assert history.epochs_done == 2
    assert history.steps_done == 50
    assert history.series("val_top1") == ((1.0, 0.25), (2.0, 0.5))
    assert history.series("train_loss_step") == ((0.5, 2.5), (2.5, 1.5))
    assert history.not_finite("train_loss_step") == 1
    assert history.series("nothing") == ()


def test_a_first_epoch_that_has_not_ended_is_counted_in_steps() -> None:
    history = History(({"epoch": 0.0, "step": 9.0, "lr": 0.1}, {"epoch": 0.0, "step": 19.0, "lr": 0.2}))
    assert history.axis == "step"
    assert history.epochs_done == 0
    assert history.series("lr") == ((10.0, 0.1), (20.0, 0.2))


def test_long_series_are_subsampled_to_means() -> None:
    series = tuple((float(x), float(x % 2)) for x in range(1000))
    short = subsample(series, 100)
    assert len(short) == 100
    assert all(y == 0.5 for _, y in short)
    assert [x for x, _ in short] == [10 * at + 4.5 for at in range(100)]
    assert subsample(series[:7], 100) == series[:7]


# The folder


def test_a_finished_run_lacks_nothing(trained: Path) -> None:
    run = read_run(trained)
    assert run.gaps == ()
    assert run.ending == "finished"
    assert run.card is not None
    assert run.config is not None
    assert run.config.name == "quick"
    assert set(run.data) == {"train", "val"}
    assert run.history.epochs_done == 1


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not a run folder, it has no config\.yaml"):
        read_run(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 9999, '{"train": NaN'])
def test_a_record_that_cannot_be_read_is_named(trained: Path, tmp_path: Path, content: str) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    (folder / "data.json").write_text(content)
    run = read_run(folder)
    (gap,) = run.gaps
    assert gap.startswith("data.json ")
    assert run.data == {}


def test_what_a_run_lacks_is_named(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    folder.mkdir()
    shutil.copy(trained / "config.yaml", folder)
    run = read_run(folder)
    assert run.ending == "unfinished"
    said = " ".join(run.gaps)
    for name in ("summary.json", "data.json", "versions.json", "metrics.csv", "model.safetensors"):
        assert name in said
    assert "emim train --resume" in said


def test_broken_files_are_named(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "broken"))
    (folder / "config.yaml").write_text("trainer: {epoch: 3}\n")
    (folder / "data.json").write_text("{")
    (folder / "versions.json").write_text("[]")
    (folder / "metrics.csv").write_text("step,lr\n9,fast\n")
    (folder / "model.safetensors").write_bytes(b"not safe")
    run = read_run(folder)
    said = " ".join(run.gaps)
    assert "did you mean 'trainer.epochs'" in said
    assert "data.json cannot be read" in said
    assert "versions.json holds no JSON object" in said
    assert "metrics.csv cannot be read" in said
    assert "nothing could be tested" in said
    assert (run.config, run.data, run.machine, run.card) == (None, {}, {}, None)


def test_a_run_that_diverged(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "diverged"))
    (folder / "summary.json").unlink()
    (folder / "diverged-step-3").mkdir()
    (folder / "diverged-step-3" / "divergence.json").write_text(json.dumps({"loss": "nan", "step": 3}))
    run = read_run(folder)
    assert run.ending == "diverged"
    assert run.divergences == ({"loss": "nan", "step": 3},)


# The configuration


def test_changed_settings_come_with_their_defaults() -> None:
    config = load_recipe(None, ["optim.lr=0.01", "augment.flip_map={left: right}", "data.path=2024"])
    changed = {setting.key: (setting.value, setting.default) for setting in changed_settings(config)}
    assert changed == {
        "optim.lr": ("0.01", "0.001"),
        "augment.flip_map": ("{left: right}", "{}"),
        "data.path": ("'2024'", "null"),
    }
    assert changed_settings(load_recipe(None)) == ()


def test_the_whole_configuration_is_a_recipe(tmp_path: Path) -> None:
    config = load_recipe(None, ["optim.lr=0.01", "name=ärger <b>"])
    (tmp_path / "again.yaml").write_text(full_recipe(config), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml") == config


# The clips


def test_the_own_validation_clips(generated: Path) -> None:
    found = validation_clips(load_recipe(None, [f"data.path={generated}"]), sorted(_names(generated)))
    assert len(found) == 11
    listed = load_recipe(None, [f"data.path={generated}", f"data.val={generated / 'test.csv'}"])
    assert len(validation_clips(listed, sorted(_names(generated)))) == 22


def _names(root: Path) -> list[str]:
    return [path.name for path in (root / "train").iterdir()]


def test_without_validation_clips_the_error_says_why(generated: Path, tmp_path: Path) -> None:
    names = sorted(_names(generated))
    nothing_held_out = load_recipe(None, [f"data.path={generated / 'train.csv'}", "data.val_share=0"])
    with pytest.raises(DataError, match="held out no clips for validation"):
        validation_clips(nothing_held_out, names)
    with pytest.raises(DataError, match=r"cannot load the run's validation clips .*gone"):
        validation_clips(load_recipe(None, [f"data.path={tmp_path / 'gone'}"]), names)


def test_what_flatters_is_said(trained: Path, generated: Path) -> None:
    run = read_run(trained)
    assert run.config is not None
    names = sorted(_names(generated))
    own = validation_clips(run.config, names)
    assert "chosen by their accuracy on these clips" in remarks_on_clips(run, own)[0]
    assert "trained on" in remarks_on_clips(run, load_clips(generated, split="train", classes=names))[0]
    others = load_clips(generated, split="test", classes=names)
    assert remarks_on_clips(run, others) == ()
    rows = data_rows(run, others)
    assert [(row.part, row.clips, row.spread) for row in rows] == [
        ("training", 33, "11 classes, 3 each"),
        ("validation", 11, "11 classes, 1 each"),
        ("test", 22, "11 classes, 2 each"),
    ]
    assert len({row.sha256 for row in rows}) == 3


def test_what_prepare_left_out_is_said(trained: Path, tmp_path: Path) -> None:
    told = {"splits": {"val": {"missing": ["a"], "failed": ["b", "c"], "listed": 50}}}
    (tmp_path / "prepare.json").write_text(json.dumps(told))
    tested = ClipList((ClipEntry(tmp_path / "d.mp4", 0),), ("one", "two"), tmp_path / "val.csv")
    [remark] = remarks_on_clips(read_run(trained), tested)
    assert remark.startswith("emim prepare left out 3 of 50 clips")


def test_the_most_confident_clips_of_different_classes_come_first() -> None:
    label, named = [0, 0, 0, 1, 2, 2], [0, 0, 0, 1, 0, 1]
    score = [0.99, 0.98, 0.97, 0.6, 0.5, 0.8]
    entries = tuple(ClipEntry(Path(f"{at}.mp4"), index) for at, index in enumerate([0, *label]))
    outputs = ClipOutputs(
        index=(1, 2, 3, 4, 5, 6),  # the first clip of the list could not be read
        label_S=torch.tensor(label),
        score_SK=scores(named, score, 3),
        logits_SVK=None,
        missing=((Path("0.mp4"), "gone"),),
    )
    measurement = Measurement(
        clips=ClipList(entries, ("class 0", "class 1", "class 2"), Path("list.csv")),
        outputs=outputs,
        test=result_of(named, label, 3, score),
        diagnosis=None,
        top5_hits=6,
        seconds=1.0,
        device="cpu",
    )
    right, wrong = choose_clips(measurement, 3)
    assert [clip.entry.path.name for clip in right] == ["1.mp4", "4.mp4", "2.mp4"]
    assert [(clip.label, clip.predicted) for clip in wrong] == [("class 2", "class 1"), ("class 2", "class 0")]
    assert wrong[0].score == pytest.approx(0.8)
    assert wrong[0].label_score == pytest.approx(0.1)
    assert choose_clips(measurement, 0) == ((), ())


# Figures


def test_confusion_and_classes() -> None:
    result = result_of([0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 2, 2], 4)
    pairs = [(pair.label, pair.predicted, pair.clips, pair.share) for pair in most_confused(result, 2)]
    assert pairs == [("class 2", "class 0", 1, 0.5), ("class 2", "class 1", 1, 0.5)]
    assert len(most_confused(result, 9)) == 3
    rows = matrix_rows(result)
    assert [[cell.count for cell in cells] for _, cells in rows] == [[2, 1, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [0] * 4]
    assert rows[0][1][1].share == pytest.approx(1 / 3)
    assert [cell.correct for cell in rows[1][1]] == [False, True, False, False]
    classes = class_rows(result)
    assert [row.name for row in classes] == ["class 2", "class 0", "class 1", "class 3"]
    assert classes[0].confused_with == ("class 0", 1)
    assert classes[1].interval == wilson_interval(2, 3)
    assert (classes[3].top1, classes[3].interval, classes[3].confused_with) == (None, None, None)


def test_the_interval_of_a_mean_has_a_width_where_all_is_right() -> None:
    low, high = mean_interval([10] * 4, [10] * 4)
    assert high == 1.0
    assert low == pytest.approx(1 - 1.96 * math.sqrt(11 / 144 / 10) / 2, abs=1e-4)
    assert mean_interval([10] * 400, [10] * 400)[0] > low


@pytest.mark.parametrize("truth", [(0.5, 0.6, 0.7, 0.8, 0.9), (0.95, 0.97, 0.99, 0.9, 1.0), (0.87,) * 11, (0.98,) * 11])
def test_the_interval_of_a_mean_covers_it_as_often_as_it_says(truth: tuple[float, ...]) -> None:
    draws = np.random.default_rng(0).binomial(20, truth, size=(2000, len(truth)))
    bounds = [mean_interval(hits, [20] * len(truth)) for hits in draws.tolist()]
    mean = sum(truth) / len(truth)
    assert sum(low <= mean <= high for low, high in bounds) / len(bounds) >= 0.94
    width = float(np.mean([high - low for low, high in bounds]))
    assert width < 5.5 * math.sqrt(sum(share * (1 - share) / 20 for share in truth)) / len(truth) + 0.03


# Charts


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.0, 4.7), (0.0, 1e-3), (0.0, 123456.0), (2.0, 2.0), (-3.0, 5.0)]
)
def test_scales_have_round_ticks_and_hold_all_values(low: float, high: float) -> None:
    scale = round_scale(low, high, 100.0, 20.0)
    assert scale.low <= low
    assert scale.high >= high
    assert 3 <= len(scale.ticks) <= 8
    assert scale.place(scale.low) == 100.0
    assert scale.place(scale.high) == 20.0
    steps = np.diff(scale.ticks)
    assert np.allclose(steps, steps[0])
    assert round(steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9), 6) in (1, 2, 2.5, 5)


def test_labels_of_ticks() -> None:
    assert labels((0.0, 0.2, 0.2 + 0.1)) == ("0", "0.2", "0.3")
    assert labels((0.0, 0.00025, 0.0005)) == ("0", "2.5e-4", "5e-4")
    assert labels((0.0, 50000.0)) == ("0", "50000")


def test_line_charts() -> None:
    series = tuple((float(x), 1.0 / x) for x in range(1, 6))
    chart = line_chart("Loss", (Line("training", series, "first"), Line("validation", (), "second")), "epoch")
    assert chart is not None
    [line] = chart.lines
    places = [tuple(map(float, pair.split(","))) for pair in line.points.split()]
    left, top, right, bottom = chart.frame
    assert all(left < x <= right and top <= y < bottom for x, y in places)
    assert places == sorted(places)
    assert len(line.dots) == 5
    assert chart.described == "Loss over 5 epochs. training: from 1 to 0.2, lowest 0.2, highest 1."
    assert [text for _, text in chart.x_ticks] == ["0", "1", "2", "3", "4", "5"]
    assert line_chart("Loss", (Line("none", (), "first"),), "epoch") is None


def test_a_line_of_one_point_is_a_dot_and_a_long_one_is_short() -> None:
    one = line_chart("Top-1", (Line("validation", ((1.0, 0.5),), "faint"),), "epoch", shares=True)
    assert one is not None
    assert len(one.lines[0].dots) == 1
    assert [text for _, text in one.y_ticks] == ["0%", "25%", "50%", "75%", "100%"]
    long = line_chart("Loss", (Line("training", tuple((x / 1.0, 1.0) for x in range(1, 10**5)), "faint"),), "epoch")
    assert long is not None
    assert len(long.lines[0].points.split()) == 300
    assert long.lines[0].dots == ()


def test_whiskers() -> None:
    chart = whisker_chart("Accuracy", [("as it is", 0.8, (0.7, 0.9)), ("frozen", 0.1, (0.05, 0.2))], 0.25, "chance")
    first, second = chart.rows
    assert first.low < first.at < first.high
    assert second.high < chart.mark < first.low
    assert first.y < second.y < chart.height
    assert chart.described == "Accuracy: as it is 80.0% (70.0% to 90.0%), frozen 10.0% (5.0% to 20.0%); chance 25.0%."


def test_a_heat_map_draws_each_cell_that_holds_clips_once() -> None:
    counts_KK = np.random.default_rng(0).integers(0, 3, (400, 400))
    drawn = heat_map(counts_KK.tolist(), "many")
    paths = [path for _, path in (*drawn.right, *drawn.wrong)]
    assert sum(path.count("M") for path in paths) == np.count_nonzero(counts_KK)
    assert sum(path.count("M") for _, path in drawn.right) == np.count_nonzero(counts_KK.diagonal())
    assert len(paths) <= 16
    assert heat_map([[2, 0], [1, 1]], "few").right == ((0.5, "M1 1h1v1h-1z"), (1.0, "M0 0h1v1h-1z"))


def test_words() -> None:
    assert [duration(seconds) for seconds in (1.23, 59.7, 61, 3599.6, 18_180)] == [
        "1.2 s", "1 min 0 s", "1 min 1 s", "1 h 0 min", "5 h 3 min",
    ]  # fmt: skip
    assert (count(1, "clip"), count(12_345, "clip"), count(2, "class", "classes")) == (
        "1 clip", "12\u202f345 clips", "2 classes",
    )  # fmt: skip
    assert points(-0.125) == "−12.5"
    assert (size(399_600), size(2_345_678)) == ("400 kB", "2.3 MB")
