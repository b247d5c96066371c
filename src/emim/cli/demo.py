"""`emim demo`: the whole job on generated clips, from files to a prediction."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from emim.cli.console import SubParsers, percent, print_table, progress_bar, say

_CLIPS_PER_CLASS = {"train": 80, "test": 20}
_SIZE = 96
_RECIPE = "demo"


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "demo",
        parents=[common],
        help="write clips, train, test and predict in a few minutes",
        description=(
            "Write generated motion clips as mp4 files, train a small EMIM network on them from random weights, "
            "test it on held-out clips and predict one. Takes a few minutes on two CPU cores."
        ),
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("demo"), help="folder to write (default demo)")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run, takes_overrides=True, overrides=[])


def run(args: argparse.Namespace) -> int:
    from emim.cli.predict import show
    from emim.cli.test import print_result
    from emim.cli.train import split_overrides
    from emim.data.folder import load_clips
    from emim.data.loader import default_workers
    from emim.data.synthetic import ClipOptions, write_dataset
    from emim.evaluation.recogniser import Recogniser
    from emim.evaluation.testing import test_model
    from emim.training.recipe import find_recipe, load_recipe
    from emim.training.run import train

    started = time.monotonic()
    _, overrides = split_overrides(None, args.overrides)
    data = args.output / "data"
    say("1/4  writing clips")
    with progress_bar("writing clips") as progress:
        summary = write_dataset(
            data,
            splits=_CLIPS_PER_CLASS,
            seed=args.seed,
            options=ClipOptions(height=_SIZE, width=_SIZE),
            workers=default_workers(),
            progress=progress,
        )
    written = time.monotonic()

    say("2/4  training")
    recipe = load_recipe(
        find_recipe(_RECIPE),
        [f"data.path={data}", f"output={args.output / 'runs'}", f"trainer.seed={args.seed}", *overrides],
    )
    result = train(recipe, say=say)
    trained = time.monotonic()

    say("3/4  testing on held-out clips")
    recogniser = Recogniser.load(result.model)
    test_clips = load_clips(data, split="test", classes=recogniser.classes)
    with progress_bar("testing", len(test_clips)) as progress:
        tested = test_model(
            recogniser.model,
            test_clips,
            recogniser.preprocessing,
            device=recogniser.device,
            progress=progress,
        )
    print_result(tested)

    say("4/4  predicting one of them")
    clip = test_clips.entries[0].path
    show(clip, recogniser.predict(clip, topk=3), as_json=False)

    finished = time.monotonic()
    rows = [
        ("clips written", f"{sum(summary.clips.values())} in {written - started:.0f} s"),
        ("trained", f"{percent_of_epochs(result.metrics)}in {trained - written:.0f} s"),
        ("held-out top-1", f"{percent(tested.top1)} of {tested.clips} clips"),
        ("in all", f"{finished - started:.0f} s"),
        ("clips", str(data)),
        ("run", str(result.folder)),
        ("model", str(result.model)),
        ("predict with it", f"emim predict <video> --checkpoint {result.model}"),
    ]
    print_table("Demo", ("", ""), rows)
    return 0


def percent_of_epochs(metrics: dict[str, object]) -> str:
    return f"to epoch {metrics['epoch']} " if "epoch" in metrics else ""
