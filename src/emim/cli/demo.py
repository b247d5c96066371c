"""`emim demo`: every step on generated clips, from files to a prediction and a report."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from emim.cli.console import SubParsers, percent, print_json, print_table, progress_bar, say
from emim.cli.options import add_option, examples

if TYPE_CHECKING:
    from emim.data.manifest import ClipList
    from emim.evaluation.testing import TestResult
    from emim.inference.recogniser import Recogniser
    from emim.report import Measurement

__all__ = ["add_parser", "run"]

_CLIPS_PER_CLASS = {"train": 80, "test": 20}
_SIZE = 80
_CLIPS_SHOWN = 4
_RECIPE = "demo"


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the parser of this command."""
    parser = subparsers.add_parser(
        "demo",
        parents=[common],
        help="try everything in a few minutes: train, test, predict, report",
        description=(
            "Write generated motion clips as mp4 files, train a small EMIM network on them (the bundled model further, "
            "or with model.checkpoint=null from random weights), test it on held-out clips, predict one and write a "
            "report. Takes a few minutes on two CPU cores."
        ),
        epilog=examples(
            "emim demo",
            "emim demo -o /tmp/demo trainer.epochs=5",
            note="Keys of the recipe can be set as in `emim train`.",
        ),
    )
    add_option(parser, "--json")
    add_option(parser, "--output", "default: demo", default=Path("demo"))
    add_option(parser, "--seed", "default: 0", default=0)
    parser.set_defaults(run=run, takes_overrides=True, overrides=[])


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from emim.cli.predict import show
    from emim.cli.report import PAGE_FILE, write_report
    from emim.cli.test import print_result
    from emim.cli.train import split_overrides
    from emim.data.folder import load_clips
    from emim.data.loader import default_workers
    from emim.datasets.synthetic import ClipOptions, write_dataset
    from emim.inference.recogniser import Recogniser
    from emim.inference.scoring import ScoringOptions
    from emim.models.trained_model import BUNDLED
    from emim.report import measure
    from emim.training.recipe import find_recipe, load_recipe
    from emim.training.run import train
    from emim.training.run_folder import read_run

    started = time.monotonic()
    _, overrides = split_overrides(None, args.overrides)
    data = args.output / "data"
    say("1/5  writing clips")
    with progress_bar("writing clips") as progress:
        summary = write_dataset(
            data,
            splits=_CLIPS_PER_CLASS,
            seed=args.seed,
            # Clear clips, most of them of one object where the motion needs no second: a few minutes are enough.
            options=ClipOptions(num_frames=8, height=_SIZE, width=_SIZE, clear_share=1.0, solo_share=0.8),
            workers=default_workers(),
            progress=progress,
        )
    written = time.monotonic()
    test_clips = load_clips(summary.manifests["test"], split=None)

    say("2/5  training")
    chosen = [f"data.path={summary.manifests['train']}", f"output={args.output / 'runs'}", f"trainer.seed={args.seed}"]
    config = load_recipe(find_recipe(_RECIPE), [*chosen, *overrides])
    starts_bundled = config.model.checkpoint == BUNDLED
    before = accuracy_on(Recogniser.load(), test_clips).top1 if starts_bundled else None
    result = train(config)

    say("3/5  testing on held-out clips")
    recogniser = Recogniser.load(result.model)
    with progress_bar("testing", len(test_clips)) as progress:
        measurement = measure(recogniser, test_clips, ScoringOptions(workers=0), diagnosis=False, progress=progress)
    tested = measurement.test
    if not args.json:
        print_result(tested)

    say("4/5  predicting one of them")
    clip = test_clips.entries[0].path
    predictions = recogniser.predict(clip, topk=3)
    if not args.json:
        show(predictions)

    say("5/5  writing the report")
    page = result.folder / PAGE_FILE
    measurement = _diagnosed(recogniser, measurement)
    write_report(read_run(result.folder), recogniser, measurement, page, clips=_CLIPS_SHOWN)
    if args.json:
        print_json(
            {
                "clips": str(data),
                "run": str(result.folder),
                "model": str(result.model),
                "report": str(page),
                "top1_before": before,
                "test": tested.to_dict(),
                "prediction": predictions.to_dict(),
                "training_seconds": round(result.seconds, 1),
                "seconds": round(time.monotonic() - started, 1),
            }
        )
        return 0

    rows = [
        ("clips written", f"{sum(summary.clips.values())}, in {written - started:.0f} s"),
        ("trained from", "the bundled weights" if starts_bundled else config.model.checkpoint or "random weights"),
        ("trained for", f"{result.seconds:.0f} s"),
        ("held-out top-1 before", percent(before)),
        ("held-out top-1", f"{percent(tested.top1)} of {tested.clips} clips"),
        ("in all", f"{time.monotonic() - started:.0f} s"),
        ("clips", str(data)),
        ("run", str(result.folder)),
        ("model", str(result.model)),
        ("report", f"{page}: open it in a browser"),
        ("predict with it", f"emim predict <video> --checkpoint {result.model}"),
    ]
    print_table("Demo", ("", ""), rows)
    return 0


def _diagnosed(recogniser: Recogniser, measurement: Measurement) -> Measurement:
    """The measurement with a diagnosis on one view of each video: on all of them it would take as long as training."""
    from emim.evaluation.diagnosis import diagnose
    from emim.inference.scoring import ScoringOptions

    started = time.monotonic()
    one_view = ScoringOptions(workers=0, preprocessing=replace(recogniser.preprocessing, clips=1, crops=1))
    with progress_bar("testing without motion", len(measurement.clips)) as progress:
        diagnosis = diagnose(recogniser, measurement.clips, one_view, progress=progress)
    return replace(measurement, diagnosis=diagnosis, seconds=measurement.seconds + time.monotonic() - started)


def accuracy_on(recogniser: Recogniser, clips: ClipList) -> TestResult:
    """Test with a progress bar."""
    from emim.evaluation.testing import evaluate
    from emim.inference.scoring import ScoringOptions

    with progress_bar("testing", len(clips)) as progress:
        return evaluate(recogniser, clips, ScoringOptions(workers=0), progress=progress)
