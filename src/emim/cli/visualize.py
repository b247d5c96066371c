"""`emim visualize`: draw the motion that a network compares on a video."""

from __future__ import annotations

import argparse
from dataclasses import replace

from emim.cli.console import SubParsers, check_folder, print_json, progress_bar, say
from emim.cli.options import (
    NATURAL,
    POSITIVE,
    SECONDS,
    Real,
    Whole,
    add_checkpoint,
    add_option,
    add_renamed,
    complete,
    examples,
    file_path,
)
from emim.cli.predict import find_device
from emim.environment import let_waiting_threads_sleep

__all__ = ["add_parser", "run"]


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the parser of this command."""
    parser = subparsers.add_parser(
        "visualize",
        parents=[common],
        help="draw the motion that a network sees in a video",
        description=(
            "Write a video with the displacement field of an EMIM block: arrows on the frame, and beside it the field "
            "in colours, whose hue is the direction and whose saturation is the length (the wheel in the corner). "
            "These are the classifier's own features, not the output of an optical-flow network; see "
            "docs/guides/motion.md."
        ),
        epilog=examples(
            "emim visualize clip.mp4 -o motion.mp4",
            "emim visualize clip.mp4 -o motion.gif --style arrows --picture-size 480 --seconds 3",
        ),
    )
    complete(parser.add_argument("video", type=file_path, help="video file or folder of frames"), "file")
    add_option(parser, "--output", ".mp4 or .gif", required=True)
    add_option(parser, "--json", "the file, its frames and the scale of its colours")
    add_checkpoint(parser)
    parser.add_argument("--style", choices=("both", "arrows", "colours"), default="both", help="default: both")
    side, picture = Whole(1, 8192), Whole(32, 8192)
    parser.add_argument(
        "--picture-size",
        type=picture,
        metavar="PIXELS",
        default=640,
        help="longest side of the drawn frames (default: 640)",
    )
    add_renamed(parser, "--size", "--picture-size", type=picture)
    parser.add_argument("--seconds", type=SECONDS, metavar="S", help="draw only this much of the video, from its start")
    parser.add_argument(
        "--largest",
        type=Real(0, 1e6, above=True),
        metavar="PIXELS",
        help="displacement that is drawn in full colour (default: by the video)",
    )
    parser.add_argument("--no-caption", action="store_true", help="do not write the predicted class on the picture")
    fields = parser.add_argument_group("displacement field")
    fields.add_argument(
        "--step", type=POSITIVE, metavar="N", help="frames between the two compared (default: by the model)"
    )
    fields.add_argument("--block", help="name of an EMIM block (default: the first, which has the finest tokens)")
    fields.add_argument("--head", type=NATURAL, metavar="N", help="number of one head (default: the mean of all)")
    fields.add_argument(
        "--raw", action="store_true", help="the unfiltered field, also where the picture does not change"
    )
    fields.add_argument(
        "--input-size",
        type=side,
        metavar="PIXELS",
        help="short side of the frames given to the network (default: as trained, at least 192)",
    )
    add_option(parser, "--device", "default: auto", default="auto")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    let_waiting_threads_sleep()
    from emim.data.video.write import check_format
    from emim.inference.recogniser import Recogniser
    from emim.motion.animation import Look, animate
    from emim.motion.video import FieldOptions

    check_format(args.output)
    check_folder(args.output)
    options = FieldOptions(step=args.step, short_side=args.input_size, block=args.block, head=args.head, raw=args.raw)
    look = Look(style=args.style, longest_side=args.picture_size, largest=args.largest, seconds=args.seconds)
    recogniser = Recogniser.load(args.checkpoint, device=find_device(args.device))
    best = None
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
    if args.json:
        print_json(
            {
                "path": str(args.output),
                "frames": animation.frames,
                "fps": animation.fps,
                "step": animation.step,
                "largest_displacement": animation.largest,
                "prediction": None if best is None else {"label": best.label, "score": round(best.score, 6)},
            }
        )
    say(
        f"{args.output}: {animation.frames} frames at {animation.fps:.4g} per second; full colour is a displacement of "
        f"{animation.largest:.2g} pixels of the picture in {animation.step} frames"
    )
    return 0
