"""`emim report` by the real command line: whole runs, and all that may be missing of one."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import CommandResult
from emim.datasets.synthetic import CLASSES
from emim.models.trained_model import load_model, save_model
from page_checks import PageReader, read_page

Command = Callable[..., CommandResult]

HERE = ["--workers", 0, "--device", "cpu"]
QUICKLY = [*HERE, "--no-diagnosis", "--show-clips", 0]
HOSTILE = (
    "<script>alert(1)</script>",
    "\"quoted\" & 'quoted'",
    "</style></table><!-- ",
    "بالعربية",
    "从左到右推某物",
    "a" * 300,
    "{{ 7 * 7 }}{% raw %}",
    "]]> &amp; &lt;",
    "many words " * 30,
    "\u202eright to left",
    "last",
)


def page_of(result: CommandResult, path: Path) -> PageReader:
    assert result.status == 0, result.err
    page = read_page(path.read_text(encoding="utf-8"))
    assert page.problems == []
    return page


def test_the_page_says_all_and_stands_alone(report_page: Path, generated: Path) -> None:
    html = report_page.read_text(encoding="utf-8")
    page = read_page(html)
    assert page.problems == []
    assert not re.findall(r"https?://", html)
    assert [text for level, text in page.headings if level == 2] == [
        "Results",
        "Training",
        "Confusion",
        "Classes",
        "Clips",
        "Does it use motion?",
        "Configuration",
        "Data",
        "Timing, machine and versions",
    ]
    assert f"22 clips of {generated}" in page.text
    assert "Finished after 1 epoch" in page.text
    assert "What is missing" not in page.text
    for words in (
        *CLASSES,
        "Top-1",
        "Top-5",
        "Mean over classes",
        "motion zeroed",
        "preprocessing.num_frames",
        "SHA-256",
    ):
        assert words in page.text
    assert page.tags.count("video") == html.count("data:video/mp4;base64,AAAA") >= 3
    assert report_page.stat().st_size < 2_000_000


def test_its_figures_are_those_of_the_test(
    emim_command: Command, report_page: Path, trained: Path, generated: Path, tmp_path: Path
) -> None:
    found = tmp_path / "found.json"
    model = trained / "model.safetensors"
    here = ["--workers", 0, "--device", "cpu"]
    assert emim_command("test", model, "--data", generated, "--output", found, *here).status == 0
    result = json.loads(found.read_text())
    text = read_page(report_page.read_text(encoding="utf-8")).text
    low, high = result["top1_95_wilson"]
    assert f"Top-1 {result['top1']:.1%} {low:.1%} to {high:.1%}" in text
    assert f"Top-5 {result['top5']:.1%}" in text
    assert f"Mean over classes {result['mean_class']:.1%}" in text
    assert result["fingerprint"]["sha256"] in text


def test_its_own_validation_clips_by_default(emim_command: Command, trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    result = emim_command("report", run, *QUICKLY)
    page = page_of(result, run / "report.html")
    assert result.out.startswith(f"{run / 'report.html'} (")
    assert re.search(r"\(\d+ kB\)$", result.out.strip())
    assert "11 clips of" in page.text
    assert "chosen by their accuracy on these clips" in page.text
    assert "Does it use motion?" not in page.text
    assert "No clips were requested" in page.text


def test_no_file_name_or_class_breaks_the_page(
    emim_command: Command, trained: Path, generated: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / 'a <b> & "run"'))
    model, card = load_model(run / "model.safetensors")
    save_model(run / "model.safetensors", model.state_dict(), dataclasses.replace(card, classes=HOSTILE))
    clips = tmp_path / "clips"
    clips.mkdir()
    rows = ["path,label"]
    for name, label in zip(CLASSES, HOSTILE, strict=True):
        clip = clips / f"<img src=x> & '{name}'.mp4"
        shutil.copy(next((generated / "test" / name).glob("*.mp4")), clip)
        quoted = label.strip().replace('"', '""')
        rows.append(f'"{clip.name}","{quoted}"')
    stripped = dataclasses.replace(card, classes=tuple(name.strip() for name in HOSTILE))
    save_model(run / "model.safetensors", model.state_dict(), stripped)
    (clips / "list.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    output = tmp_path / "page.html"
    result = emim_command("report", run, "--data", clips / "list.csv", "-o", output, "--show-clips", 2, *HERE)
    page = page_of(result, output)
    assert page.tags.count("script") == 1
    assert page.tags.count("img") == page.tags.count("video")
    for label in stripped.classes:
        assert " ".join(label.split()) in page.text
    assert "<img src=x> & '" in page.text


def test_clips_that_cannot_be_read_are_listed(
    emim_command: Command, trained: Path, generated: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(generated / "test", tmp_path / "test"))
    broken = sorted((data / "left").glob("*.mp4"))[0]
    broken.write_bytes(b"nothing")
    (tmp_path / "list.csv").write_text(
        "path,label\n"
        + "".join(f"{path},{path.parent.name}\n" for path in sorted(data.rglob("*.mp4")))
        + "gone.mp4,up\n"
    )
    output = tmp_path / "page.html"
    result = emim_command("report", trained, "--data", tmp_path / "list.csv", "-o", output, *QUICKLY)
    page = page_of(result, output)
    assert "2 clips could not be read and are excluded from all figures" in page.text
    assert str(broken) in page.text
    assert "gone.mp4" in page.text
    assert "21 clips of" in page.text
    assert f"missing: {broken}" in result.err


def test_clips_that_vanish_while_they_are_drawn_are_listed(
    emim_command: Command, trained: Path, generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emim.report import report as module

    data = Path(shutil.copytree(generated / "test", tmp_path / "test"))
    drawn = module.draw_overlay

    def after_they_are_gone(model: object, pre: object, entry: object) -> object:
        shutil.rmtree(data, ignore_errors=True)
        return drawn(model, pre, entry)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "draw_overlay", after_they_are_gone)
    output = tmp_path / "page.html"
    words = ["--data", data, "--split", "all", "-o", output, "--no-diagnosis", "--show-clips", 1, *HERE]
    page = page_of(emim_command("report", trained, *words), output)
    assert "Its motion could not be drawn:" in page.text
    assert "video" not in page.tags


@pytest.mark.parametrize("how", ["moved", "not held out", "all broken"])
def test_without_clips_it_says_what_to_give(
    emim_command: Command, trained: Path, generated: Path, tmp_path: Path, how: str
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    config = (run / "config.yaml").read_text()
    data = tmp_path / "data"
    if how == "not held out":
        data = generated / "train.csv"
        config = re.sub(r"val_share: .*", "val_share: 0.0", config)
    elif how == "all broken":
        for split in ("train", "val"):
            for name in CLASSES:
                (data / split / name).mkdir(parents=True)
                (data / split / name / "clip.mp4").write_bytes(b"")
    (run / "config.yaml").write_text(re.sub(r"(?m)^  path: .*", f"  path: {data}", config))
    result = emim_command("report", run, *QUICKLY)
    page = page_of(result, run / "report.html")
    assert "What is missing" in page.text
    expected = "could not be tested" if how == "all broken" else "give labelled clips with --data"
    assert expected in page.text
    assert expected in result.err
    assert "Best validation top-1" in page.text


def test_an_interrupted_run(emim_command: Command, trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "summary.json").unlink()
    (run / "model.safetensors").unlink()
    result = emim_command("report", run, *QUICKLY)
    page = page_of(result, run / "report.html")
    assert "Not finished: 1 of 1 epochs are done" in page.text
    assert "emim train --resume" in page.text
    assert "the run saved no network" in page.text
    assert "Training" in page.text
    assert "Trained on" in page.text or "Trained and reported on" in page.text
    assert "Classes" not in [text for _, text in page.headings]


def test_a_run_of_which_only_the_configuration_is_left(emim_command: Command, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(trained / "config.yaml", run)
    page = page_of(emim_command("report", run, *QUICKLY), run / "report.html")
    assert "Nothing was tested or validated" in page.text
    assert "there are no curves" in page.text


@pytest.mark.parametrize(
    ("weight", "why"), [(torch.nan, "head.weight holds NaN or Inf"), (3e38, "logits for this video")]
)
def test_a_run_that_diverged(emim_command: Command, trained: Path, tmp_path: Path, weight: float, why: str) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "summary.json").unlink()
    model, card = load_model(run / "model.safetensors")
    weights = model.state_dict()
    weights["head.weight"] = torch.full_like(weights["head.weight"], weight)
    save_model(run / "model.safetensors", weights, card)
    dump = run / "diverged-step-4"
    dump.mkdir()
    told = {
        "loss": "nan",
        "step": 4,
        "epoch": 0,
        "layer": "patch_embed1.norm",
        "clips": ["a.mp4", "b.mp4"],
        "process": 0,
    }
    (dump / "divergence.json").write_text(json.dumps(told))
    page = page_of(emim_command("report", run, *QUICKLY), run / "report.html")
    assert "Diverged: the loss was nan at step 4" in page.text
    assert "patch_embed1.norm" in page.text
    assert "a.mp4, b.mp4" in page.text
    assert why in page.text


def test_a_run_without_validation(emim_command: Command, trained: Path, generated: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    lines = (run / "metrics.csv").read_text().splitlines()
    keys = lines[0].split(",")
    kept = [keys.index(key) for key in keys if not key.startswith("val")]
    rows = [",".join(line.split(",")[at] for at in kept) for line in lines]
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    result = emim_command("report", run, "--data", generated / "test.csv", *QUICKLY)
    page = page_of(result, run / "report.html")
    assert "did not validate" in page.text
    assert "22 clips of" in page.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["empty"], "not a run folder"),
        (["nowhere"], "not a run folder"),
        (["run", "--data", "nowhere"], "no such folder"),
        (["run", "--data", "nowhere.csv"], "no such file"),
        (["run", "-o", "run/config.yaml/page.html"], "cannot be written"),
        (["run", "-o", "empty", "--show-clips", "0", "--no-diagnosis"], "cannot be written"),
        (["run", "--device", "cuda:99"], "PyTorch finds"),
    ],
)
def test_wrong_arguments(
    emim_command: Command,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    shutil.copytree(trained, "run")
    result = emim_command("report", *words)
    assert result.status == 1
    assert result.out == ""
    last = result.err.strip().splitlines()[-1]
    assert last.startswith("emim report: ")
    assert message in last
