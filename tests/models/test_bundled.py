"""The model that comes with the package does what the README says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from emim.data.folder import load_clips
from emim.datasets.synthetic import CLASSES, ClipOptions, write_dataset
from emim.evaluation import testing
from emim.inference.recogniser import Recogniser
from emim.models.trained_model import BUNDLED_PATH

ROOT = Path(__file__).resolve().parents[2]


def test_it_is_small_and_knows_the_eleven_motions() -> None:
    assert BUNDLED_PATH.stat().st_size < 5e6
    recogniser = Recogniser.load()
    assert recogniser.classes == CLASSES
    assert recogniser.card.config["name"] == "motion"


@pytest.mark.slow
def test_it_names_generated_clips_it_has_not_seen(tmp_path: Path) -> None:
    options = ClipOptions(height=96, width=128, solo_share=1.0, clear_share=1.0)
    summary = write_dataset(tmp_path / "clips", splits={"test": 10}, seed=987, options=options)
    recogniser = Recogniser.load(device="cpu")
    clips = load_clips(summary.manifests["test"], split=None, classes=recogniser.classes)
    assert testing.evaluate(recogniser, clips).top1 >= 0.8


@pytest.mark.slow
def test_it_carries_over_to_photographs(real_clips: Path, tmp_path: Path) -> None:
    report = tmp_path / "photographs.json"
    script = ROOT / "benchmarks" / "photographs.py"
    subprocess.run([sys.executable, script, real_clips, "--per-class", "6", "--json", report], check=True)
    assert json.loads(report.read_text())["accuracy"] >= 0.8
