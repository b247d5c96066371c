"""Shared by the commands that run a network over labelled clips: options, clips, views, and a record of the run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emim.cli.options import (
    PRECISION_FOR_TESTS,
    add_checkpoint,
    add_device_options,
    add_option,
    add_renamed,
    add_view_options,
)
from emim.errors import ConfigError

if TYPE_CHECKING:
    from emim.data.folder import Split
    from emim.data.manifest import ClipList
    from emim.data.preprocessing import Preprocessing
    from emim.datasets.prepare.output import LeftOut
    from emim.distributed import Processes
    from emim.inference.recogniser import Recogniser
    from emim.inference.scoring import ScoringOptions
    from emim.precision import Precision

__all__ = [
    "add_clip_options",
    "add_columns_option",
    "add_running_options",
    "circumstances",
    "find_clips",
    "find_precision",
    "find_processes",
    "find_scoring",
    "no_progress",
    "silent",
    "tell_of_missing",
    "views_text",
]


def add_clip_options(parser: argparse.ArgumentParser) -> None:
    """The network, the clips and their views."""
    add_checkpoint(parser, positional=True)
    add_option(parser, "--data", required=True)
    add_columns_option(parser)
    add_option(parser, "--split", "default: test of a folder or of a manifest with a column split, otherwise all")
    add_view_options(parser)


def add_columns_option(parser: argparse.ArgumentParser) -> None:
    """The columns of a manifest."""
    add_option(parser, "--columns", "default: by their names")


def add_running_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of processes, device and precision."""
    running = parser.add_argument_group("running")
    add_device_options(running, PRECISION_FOR_TESTS)
    add_option(running, "--devices", "default: one per GPU, 1 on the CPU", default="auto")
    add_option(running, "--nodes", "default: 1, or as started by torchrun or srun", default=1)
    add_option(running, "--batch-size", "default: 8 on the CPU, 32 on a GPU")
    add_option(running, "--workers", "for each process; default: by cores")
    add_renamed(
        running,
        "--accelerator",
        "--device",
        choices=("auto", "cpu", "gpu"),
        convert=lambda value: "cuda" if value == "gpu" else value,
    )


def find_processes(args: argparse.Namespace) -> Processes:
    """The processes of --device, --devices and --nodes, or those that a launcher started.

    Raises:
        ConfigError: there is no such device, or the launcher started another number of processes.
    """
    from emim.distributed import Processes, plan_processes
    from emim.environment import resolve_device

    device = resolve_device(args.device, option="--device")
    kind, _, index = args.device.partition(":")
    if not index:
        return plan_processes(args.devices, args.nodes, "gpu" if kind == "cuda" else kind)
    found = plan_processes(1 if args.devices == "auto" else args.devices, args.nodes, "gpu")
    if found.world > 1:
        raise ConfigError(
            f"--device {args.device} names one GPU, but {found.world} processes run; give --device cuda, so that "
            "each takes a GPU of its own"
        )
    return Processes(1, 1, device)


def find_clips(args: argparse.Namespace, recogniser: Recogniser) -> tuple[str, ClipList]:
    """The split and its clips, with the classes of the network.

    Raises:
        DataError: the folder or manifest is unusable, or does not fit the classes.
    """
    from emim.data.folder import has_splits, load_clips
    from emim.data.manifest import is_manifest

    card = recogniser.card
    trained = card.config.get("data", {})
    same = bool(trained.get("path")) and Path(trained["path"]).absolute() == args.data.absolute()
    columns = trained.get("columns") if args.columns is None and same else args.columns
    group_by = trained.get("group_by")
    held_out = same or args.split in ("train", "val")
    if str(group_by).startswith("column:") and not (is_manifest(args.data) and held_out):
        group_by = None  # other data need not have this column

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
    """The views as trained, changed by --clips, --crops and --size."""
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
    """The number format of --precision; on the CPU "auto" is float32, so that figures can be reproduced."""
    from emim.precision import resolve_precision

    return resolve_precision(wanted, device_type, exact_on_cpu=True)


def circumstances(
    clip_list: ClipList, processes: int, device: str, batch_size: int | None, seconds: float
) -> dict[str, Any]:
    """The data, the processes and the machine of a measurement, for the JSON."""
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
    """Name the clips that could not be read, and those that `emim prepare` left out.

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
    """Used in place of `say` by all processes but the first."""
    del line


def no_progress(done: int, total: int) -> None:
    """Used in place of a progress bar by all processes but the first."""
    del done, total
