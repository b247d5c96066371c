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
    from emim.precision import Precision


def add_clip_options(parser: argparse.ArgumentParser) -> None:
    """The network, the clips and their views."""
    parser.add_argument("checkpoint", help="model.safetensors of a run, or 'bundled'")
    parser.add_argument("--data", required=True, type=Path, help="folder of classes, or manifest (.csv, .tsv, .txt)")
    add_columns_option(parser)
    parser.add_argument(
        "--split",
        choices=("train", "val", "test", "all"),
        help="which part (default: test of a folder or of a manifest with a column split, else all of the manifest)",
    )
    views = parser.add_argument_group("views of a video")
    views.add_argument("--clips", type=positive, help="test clips per video (default: as trained)")
    views.add_argument("--crops", type=positive, choices=(1, 3), help="test crops per clip (default: as trained)")
    views.add_argument("--size", type=positive, help="side of the network input in pixels (default: as trained)")


def add_columns_option(parser: argparse.ArgumentParser) -> None:
    """The columns of a manifest."""
    parser.add_argument(
        "--columns",
        metavar="ROLE=COLUMN,...",
        help="which column of a manifest holds what, such as path=video_path,label=class (default: by their names)",
    )


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
    running.add_argument("--batch-size", type=positive, default=8, help="videos per batch of a process (default 8)")
    running.add_argument("--workers", type=natural, help="loader processes of each process (default: by cores)")


def find_clips(args: argparse.Namespace, recogniser: Recogniser) -> tuple[str, ClipList]:
    """The split and its clips, with the classes of the network.

    Raises:
        DataError: the folder or manifest is unusable, or does not fit the classes.
    """
    from emim.data.folder import has_splits, load_clips
    from emim.data.manifest import is_manifest

    card = recogniser.card
    trained = card.config.get("data", {})
    group_by = trained.get("group_by")
    if not is_manifest(args.data) and str(group_by).startswith("column:"):
        group_by = None

    columns = args.columns
    if columns is None and trained.get("path") and Path(trained["path"]).absolute() == args.data.absolute():
        columns = trained.get("columns")

    def load(split: Split | None) -> ClipList:
        return load_clips(
            args.data,
            split=split,
            classes=card.classes,
            val_share=trained.get("val_share", 0.2),
            seed=card.config.get("trainer", {}).get("seed", 0),
            max_missing=1.0,  # missing files are reported with the other clips that cannot be read
            columns=columns,
            group_by=group_by,
        )

    if args.split is not None:
        return args.split, load(None if args.split == "all" else args.split)
    if not is_manifest(args.data):
        return "test", load("test")
    clip_list = load(None)
    return ("test", load("test")) if has_splits(clip_list) else ("all", clip_list)


def find_views(args: argparse.Namespace, recogniser: Recogniser) -> Preprocessing:
    """The views as trained, but for what was asked for."""
    import dataclasses

    asked = {key: value for key in ("clips", "crops", "size") if (value := getattr(args, key)) is not None}
    return dataclasses.replace(recogniser.preprocessing, **asked)


def find_precision(wanted: Literal["auto"] | Precision, device_type: str) -> Precision:
    """On the CPU "auto" is float32, whatever it can: a test there is for exact figures."""
    from emim.precision import resolve_precision

    if wanted == "auto" and device_type == "cpu":
        return "32-true"
    resolved = resolve_precision(wanted, device_type)
    return "bf16-mixed" if resolved == "bf16-mixed" else "32-true"


def circumstances(clip_list: ClipList, processes: int, device: str, batch_size: int, seconds: float) -> dict[str, Any]:
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
