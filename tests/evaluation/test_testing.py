from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from emim.data.folder import load_clips
from emim.data.manifest import ClipList
from emim.data.preprocessing import Preprocessing
from emim.errors import CheckpointError, DataError
from emim.evaluation import testing
from emim.evaluation.outputs import ClipOutputs, score_clips
from emim.inference.recogniser import Recogniser
from emim.inference.scoring import ScoringOptions, mean_score, score_views, view_logits


@pytest.fixture
def recogniser(trained: Path) -> Recogniser:
    return Recogniser.load(trained / "model.safetensors", device="cpu")


@pytest.fixture
def clips(recogniser: Recogniser, generated: Path) -> ClipList:
    return load_clips(generated, split="test", classes=recogniser.classes)


def outputs_of(recogniser: Recogniser, clips: ClipList, **options: Any) -> ClipOutputs:
    outputs = score_clips(recogniser, clips, ScoringOptions(**{"workers": 0, **options}), keep_logits=True)
    assert outputs is not None
    assert outputs.logits_SVK is not None
    return outputs


def result_of(outputs: ClipOutputs, clips: ClipList) -> testing.TestResult:
    return testing.summarise(outputs.score_SK, outputs.label_S, clips.classes, preprocessing=Preprocessing())


def test_accuracies_by_hand() -> None:
    scores = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7]])
    result = testing.summarise(scores, torch.tensor([0, 1, 1, 0]), ("a", "b", "c"), preprocessing=Preprocessing())
    assert result.top1 == 0.5
    assert result.top5 == 1.0
    assert [row.top1 for row in result.per_class] == [0.5, 0.5, None]
    assert result.mean_class == 0.5
    assert result.confusion == ((1, 0, 1), (1, 1, 0), (0, 0, 0))


def test_top5_and_mean_class_differ_from_top1() -> None:
    scores = torch.eye(8)[torch.tensor([0, 0, 0, 1])] + torch.linspace(0.08, 0.01, 8)
    label_B = torch.tensor([0, 0, 4, 7])
    result = testing.summarise(scores, label_B, tuple("abcdefgh"), preprocessing=Preprocessing())
    assert result.top1 == 0.5
    assert result.top5 == 0.75  # class 4 is among the five best of the third clip, 7 is not of the fourth
    assert result.mean_class == pytest.approx(1 / 3)


def test_views_are_averaged_per_video_after_the_softmax() -> None:
    class Mean(torch.nn.Module):
        def forward(self, clip: torch.Tensor) -> torch.Tensor:
            return torch.stack([clip.flatten(1).mean(1), clip.flatten(1).std(1)], 1)

    videos = [torch.randn(count, 3, 2, 4, 4) for count in (3, 1, 9)]
    scores = score_views(Mean(), videos, torch.device("cpu"))
    expected = torch.stack([Mean()(video).softmax(-1).mean(0) for video in videos])
    torch.testing.assert_close(scores, expected)

    logits = view_logits(Mean(), videos, torch.device("cpu"))
    assert [tuple(logits_VK.shape) for logits_VK in logits] == [(3, 2), (1, 2), (9, 2)]
    assert torch.equal(mean_score(logits), scores)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (90, 100, 0.8256, 0.9448)]
)
def test_the_interval_is_wilsons(hits: int, count: int, low: float, high: float) -> None:
    assert testing.wilson_interval(hits, count) == pytest.approx((low, high), abs=1e-4)


def test_the_same_test_gives_the_same_bits_with_any_number_of_workers(recogniser: Recogniser, clips: ClipList) -> None:
    first, again, loaded = (outputs_of(recogniser, clips, batch_size=8, workers=workers) for workers in (0, 0, 2))
    assert first.logits_SVK is not None
    assert len(first.logits_SVK) == 22
    for other in (again, loaded):
        assert other.logits_SVK is not None
        assert torch.equal(first.logits_SVK, other.logits_SVK)
        assert torch.equal(first.score_SK, other.score_SK)
        assert first.index == other.index == tuple(range(22))


@pytest.mark.parametrize("batch_size", [1, 3, 22])
def test_another_batch_size_changes_rounding_and_no_figure(
    recogniser: Recogniser, clips: ClipList, batch_size: int
) -> None:
    first, other = outputs_of(recogniser, clips, batch_size=8), outputs_of(recogniser, clips, batch_size=batch_size)
    assert first.logits_SVK is not None
    assert other.logits_SVK is not None
    assert (first.logits_SVK - other.logits_SVK).abs().max() <= 1e-5
    assert result_of(first, clips) == result_of(other, clips)
    assert sum(sum(row) for row in result_of(other, clips).confusion) == 22


@pytest.mark.parametrize(("crops", "batch_size", "passes"), [
    (1, 8, [8, 8, 6]), (1, 5, [5, 5, 5, 5, 2]), (3, 8, [8] * 8 + [2]), (3, 3, [3] * 22), (3, 32, [32, 32, 2]),
])  # fmt: skip
def test_the_batch_size_is_that_of_the_passes(
    recogniser: Recogniser, clips: ClipList, crops: int, batch_size: int, passes: list[int]
) -> None:
    sizes: list[int] = []
    recogniser.model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    views = dataclasses.replace(recogniser.preprocessing, crops=crops, fit="crop")
    outputs_of(recogniser, clips, batch_size=batch_size, preprocessing=views)
    assert sizes == passes


def test_old_names_work_with_a_warning(recogniser: Recogniser, clips: ClipList) -> None:
    new = testing.evaluate(recogniser, clips, ScoringOptions(workers=0))
    with pytest.warns(FutureWarning, match=r"test_model is now evaluate, .* until version 0\.3"):
        old = testing.test_model
    assert old(recogniser.model, clips, recogniser.preprocessing) == new
    with pytest.warns(FutureWarning, match="clip_outputs is now score_clips"):
        from emim.evaluation.outputs import clip_outputs
    found = clip_outputs(recogniser.model, clips, recogniser.preprocessing)
    assert torch.equal(found.score_SK, outputs_of(recogniser, clips).score_SK)
    with pytest.raises(AttributeError, match="no attribute 'test_modell'"):
        _ = testing.test_modell


def test_scores_are_those_of_the_kept_logits(recogniser: Recogniser, clips: ClipList) -> None:
    outputs = outputs_of(recogniser, clips)
    assert outputs.logits_SVK is not None
    assert torch.equal(mean_score(list(outputs.logits_SVK)), outputs.score_SK)
    labels = [entry.label for entry in clips.entries]
    assert outputs.label_S.tolist() == labels


def test_bfloat16_gives_float32_logits_that_differ_a_little(recogniser: Recogniser, clips: ClipList) -> None:
    in_bfloat16 = Recogniser(recogniser.model, recogniser.card, device="cpu", precision="bf16-mixed")
    exact, rounded = (outputs_of(one, clips) for one in (recogniser, in_bfloat16))
    assert exact.logits_SVK is not None
    assert rounded.logits_SVK is not None
    assert rounded.logits_SVK.dtype == torch.float32
    assert 1e-5 < (exact.logits_SVK - rounded.logits_SVK).abs().max() < 0.3


def test_logits_that_are_not_finite_are_an_error_and_no_guess(recogniser: Recogniser, clips: ClipList) -> None:
    torch.nn.init.constant_(recogniser.model.head.bias, torch.nan)
    with pytest.raises(CheckpointError, match="NaN or infinite in 32-true") as error:
        outputs_of(recogniser, clips)
    assert str(clips.entries[0].path) in str(error.value)


def test_an_unreadable_clip_is_missing_and_never_replaced(
    recogniser: Recogniser, generated: Path, tmp_path: Path
) -> None:
    shutil.copytree(generated / "test", tmp_path / "test")
    broken = sorted((tmp_path / "test" / "away").glob("*.mp4"))[0]
    broken.write_bytes(b"")
    clips = load_clips(tmp_path, split="test", classes=recogniser.classes)
    result = testing.evaluate(recogniser, clips, ScoringOptions(workers=1))
    assert result.clips == 21
    assert [path for path, _ in result.missing] == [broken]
    assert {row.name: row.clips for row in result.per_class}["away"] == 1
    for path in tmp_path.rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of its 22 clips could be read"):
        testing.evaluate(recogniser, clips, ScoringOptions(workers=0))


def test_prediction_agrees_with_the_test(recogniser: Recogniser, clips: ClipList) -> None:
    result = testing.evaluate(recogniser, clips, ScoringOptions(workers=0))
    hits = 0
    for entry in clips.entries:
        predictions = recogniser.predict(entry.path, topk=11)
        assert sum(item.score for item in predictions) == pytest.approx(1.0, abs=1e-5)
        assert [item.score for item in predictions] == sorted((item.score for item in predictions), reverse=True)
        hits += predictions[0].label == clips.classes[entry.label]
    assert hits / len(clips) == result.top1
