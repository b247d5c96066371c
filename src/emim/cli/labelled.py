"""What the commands share that run a network over labelled clips: options, the clips, views, what they ran on."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emim.cli.console import natural, positive

if TYPE_CHECKING:
    from emim.data.folder import Split
    from emim.data.manifest import ClipList
    from emim.data.preprocessing import Preprocessing
    from emim.datasets.prepare.output import LeftOut
    from emim.inference.recogniser import Recogniser
    from emim.inference.scoring import ScoringOptions
    from emim.precision import Precision


def add_clip_options(parser: argparse.ArgumentParser) -> None:
    """The network, the clips and their views."""
    parser.add_argument("checkpoint", help="model.safetensors of a run, or 'bundled'")
    parser.add_argument("--data", required=True, type=Path, help="folder of classes, or manifest CSV")
    parser.add_argument(
        "--split",
        choices=("train", "val", "test", "all"),
        help="which part (default: test of a folder, all of a manifest)",
    )
    views = parser.add_argument_group("views of a video")
    views.add_argument("--clips", type=positive, help="test clips per video (default: as trained)")
    views.add_argument("--crops", type=positive, choices=(1, 3), help="test crops per clip (default: as trained)")
    views.add_argument("--size", type=positive, help="side of the network input in pixels (default: as trained)")


def add_running_options(parser: argparse.ArgumentParser) -> None:
    """On what the network runs."""
    running = parser.add_argument_group("running")
    running.add_argument(
        "--devices",
        type=device_count,
        default="auto",
        help="processes per machine (default: one per GPU, 1 on the CPU)",
    )
    running.add_argument("--nodes", type=positive, default=1, help="machines (default 1; torchrun and srun know)")
    running.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto", help="default: GPUs if any")
    running.add_argument(
        "--precision",
        choices=("auto", "32-true", "bf16-mixed"),
        default="auto",
        help="default: 32-true on the CPU, bf16-mixed on GPUs that compute in it",
    )
    running.add_argument(
        "--batch-size", type=positive, help="views in one pass of the network (default: 8 on the CPU, 32 on a GPU)"
    )
    running.add_argument("--workers", type=natural, help="loader processes of each process (default: by cores)")


def find_clips(args: argparse.Namespace, recogniser: Recogniser) -> tuple[str, ClipList]:
    """The split and its clips, with the classes of the network.

    Raises:
        DataError: the folder or manifest is unusable, or does not fit the classes.
    """
    from emim.data.folder import load_clips

    is_manifest = args.data.suffix.lower() == ".csv"
    split: Split | Literal["all"] = args.split or ("all" if is_manifest else "test")
    card = recogniser.card
    trained_with = card.config.get("data", {}), card.config.get("trainer", {})
    return split, load_clips(
        args.data,
        split=None if split == "all" else split,
        classes=card.classes,
        val_share=trained_with[0].get("val_share", 0.2),
        seed=trained_with[1].get("seed", 0),
        max_missing=1.0,  # what is not there is reported as missing, with the rest
    )


def find_views(args: argparse.Namespace, recogniser: Recogniser) -> Preprocessing:
    """The views as trained, but for what was asked for."""
    import dataclasses

    asked = {key: value for key in ("clips", "crops", "size") if (value := getattr(args, key)) is not None}
    return dataclasses.replace(recogniser.preprocessing, **asked)


def find_scoring(args: argparse.Namespace, recogniser: Recogniser, processes: int = 1) -> ScoringOptions:
    """The options of --batch-size, --workers and the views; the batch size is resolved, for the record.

    Args:
        args: the command's arguments.
        recogniser: the network.
        processes: processes on this machine that share the cores.
    """
    from emim.data.loader import default_workers
    from emim.inference.scoring import ScoringOptions, auto_batch_size

    return ScoringOptions(
        batch_size=args.batch_size or auto_batch_size(recogniser.device),
        workers=default_workers(processes) if args.workers is None else args.workers,
        preprocessing=find_views(args, recogniser),
    )


def find_precision(wanted: Literal["auto"] | Precision, device_type: str) -> Precision:
    """On the CPU "auto" is float32, whatever it can: a test there is for exact figures."""
    from emim.precision import resolve_precision

    if wanted == "auto" and device_type == "cpu":
        return "32-true"
    resolved = resolve_precision(wanted, device_type)
    return "bf16-mixed" if resolved == "bf16-mixed" else "32-true"


def circumstances(
    clip_list: ClipList, processes: int, device: str, batch_size: int | None, seconds: float
) -> dict[str, Any]:
    """What the figures were measured on, for the JSON."""
    from emim.data.folder import fingerprint
    from emim.environment import describe_machine

    return {
        "fingerprint": fingerprint(clip_list),
        "processes": processes,
        "device": device,
        "batch_size": batch_size,
        "seconds": round(seconds, 2),
        "clips_per_second": round(len(clip_list) / seconds, 2),
        "machine": describe_machine().to_dict(),
    }


def device_count(text: str) -> int | Literal["auto"]:
    """An argument that is a number of processes, or "auto"."""
    return "auto" if text == "auto" else positive(text)


def views_text(pre: Preprocessing, precision: Precision) -> str:
    """The views and the precision, in lines no wider than a table."""
    clips = f"{pre.clips} clip{'s' * (pre.clips != 1)}"
    crops = f"{pre.crops_per_clip} crop{'s' * (pre.crops_per_clip != 1)}"
    sampling = f"dense, stride {pre.stride}" if pre.sampling == "dense" else pre.sampling
    return (
        f"{clips} x {crops} of each video,\n"
        f"{pre.num_frames} frames ({sampling}) of {pre.size} pixels, {pre.fit},\n"
        f"in {precision}"
    )


def tell_of_missing(missing: Sequence[tuple[Path, str]], lacking: LeftOut | None, tell: Callable[[str], None]) -> None:
    """The clips that could not be read, and those that `emim prepare` had left out.

    Args:
        missing: path and reason of each.
        lacking: see `emim.datasets.prepare.output.left_out`.
        tell: takes each line.
    """
    for path, reason in missing:
        tell(f"missing: {reason if str(path) in reason else f'{path}: {reason}'}")
    if lacking is not None:
        tell(
            f"left out by emim prepare: {lacking.clips} of {lacking.listed} clips that the data set lists, in no "
            f"figure; {lacking.report} names them"
        )


def silent(line: str) -> None:
    """What processes other than the first one say."""
    del line


def no_progress(done: int, total: int) -> None:
    """The bar of processes other than the first one."""
    del done, total
