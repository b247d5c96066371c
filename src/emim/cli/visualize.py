"""`emim visualize`: a video with the motion that a network compares drawn on it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from emim.cli.console import SubParsers, natural, positive, progress_bar, say
from emim.cli.predict import find_device
from emim.environment import let_waiting_threads_sleep


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "visualize",
        parents=[common],
        help="draw the motion in a video, as a network compares it",
        description=(
            "Write a video with the displacement field of an EMIM block: arrows on the frame, and beside it the field "
            "in colours, whose hue is the direction and whose saturation is the length (the wheel in the corner). "
            "This is what the classifier compares, and no optical-flow network; see docs/motion.md."
        ),
    )
    parser.add_argument("video", type=Path, help="video file or folder of frames")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write, .mp4 or .gif")
    parser.add_argument("--checkpoint", help="model.safetensors of a run (default: the bundled model)")
    parser.add_argument("--style", choices=("both", "arrows", "colours"), default="both", help="(default both)")
    parser.add_argument(
        "--size", type=positive, default=640, help="longest side of the frames drawn, in pixels (default 640)"
    )
    parser.add_argument("--seconds", type=float, help="only so much of the video, from its start")
    parser.add_argument("--largest", type=float, help="pixels of a displacement of full colour (default: by the video)")
    parser.add_argument("--no-caption", action="store_true", help="do not write the predicted class on the picture")
    fields = parser.add_argument_group("the field")
    fields.add_argument("--step", type=positive, help="frames between the two compared (default: by the model)")
    fields.add_argument("--block", help="name of an EMIM block (default: the first, which has the finest tokens)")
    fields.add_argument("--head", type=natural, help="number of one head (default: the mean of all)")
    fields.add_argument("--raw", action="store_true", help="the field as it is, also where the picture does not change")
    fields.add_argument(
        "--input-size",
        type=positive,
        help="short side of what the network is given (default: as trained, at least 192)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (default: a GPU if there is one)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    let_waiting_threads_sleep()
    from emim.data.video.write import check_format
    from emim.inference.recogniser import Recogniser
    from emim.motion.animation import Look, animate
    from emim.motion.video import FieldOptions

    check_format(args.output)
    options = FieldOptions(step=args.step, short_side=args.input_size, block=args.block, head=args.head, raw=args.raw)
    look = Look(style=args.style, longest_side=args.size, largest=args.largest, seconds=args.seconds)
    recogniser = Recogniser.load(args.checkpoint, device=find_device(args.device))
    if not args.no_caption:
        best = recogniser.predict(args.video, topk=1)[0]
        look = replace(look, caption=f"{best.label} {best.score:.0%}")
    with progress_bar("drawing") as progress:
        animation = animate(
            recogniser.model,
            recogniser.preprocessing,
            args.video,
            args.output,
            look=look,
            options=options,
            progress=progress,
        )
    say(
        f"{args.output}: {animation.frames} frames at {animation.fps:.4g} per second; full colour is a displacement of "
        f"{animation.largest:.2g} pixels of the picture in {animation.step} frames"
    )
    return 0
