"""From a data set's own files on disk to manifests: `prepare("ssv2", root, out)`.

A module for each provider reads its annotations into `Annotations`; the steps that all share (finding the videos,
counting, re-encoding, writing) are here and in `locating` and `output`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emim.data.folder import Split
from emim.data.manifest import ClipList, relative_path
from emim.datasets.prepare.diving48 import DIVING48
from emim.datasets.prepare.hmdb51 import HMDB51
from emim.datasets.prepare.kinetics import KINETICS
from emim.datasets.prepare.locating import FolderListings, Located, Progress, locate
from emim.datasets.prepare.output import check_target, write_outputs
from emim.datasets.prepare.provider import FOLDER, Annotations, ListedSplit, Provider, Request
from emim.datasets.prepare.something import SSV1, SSV2
from emim.datasets.prepare.ucf101 import UCF101
from emim.errors import ConfigError, DataError, UnknownNameError
from emim.utils import nearest

__all__ = ["PROVIDERS", "Prepared", "Provider", "SplitResult", "prepare"]

PROVIDERS: dict[str, Provider] = {p.name: p for p in (SSV1, SSV2, KINETICS, DIVING48, UCF101, HMDB51, FOLDER)}

_VIDEOS = "videos"
_MAX_NAMED = 3

Bar = Callable[[str, int], AbstractContextManager[Progress | None]]


@dataclass(frozen=True)
class SplitResult:
    """Result of preparing one split.

    Attributes:
        manifest: the file written.
        listed: clips in the annotations.
        found: clips in the manifest.
        published: published number of clips; None where there is no such figure.
        missing: listed files that are not on disk.
        repeated: files that the annotations list more than once.
        failed: file and reason, for videos that could not be re-encoded.
        where: the places that were searched, in words.
    """

    manifest: Path
    listed: int
    found: int
    published: int | None
    missing: tuple[str, ...]
    repeated: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    where: str


@dataclass(frozen=True)
class Prepared:
    """A prepared data set.

    Attributes:
        provider: the data set.
        out: the folder written.
        classes: class names in the provider's order.
        splits: the splits, by name.
        notes: remarks for the user, besides missing files.
        changed: True if any file is new or different.
    """

    provider: Provider
    out: Path
    classes: tuple[str, ...]
    splits: dict[Split, SplitResult]
    notes: tuple[str, ...]
    changed: bool


def prepare(
    dataset: str,
    root: Path | str,
    out: Path | str,
    *,
    splits: Sequence[Split] | None = None,
    fold: int | None = None,
    resize: int | None = None,
    strict: bool = False,
    workers: int = 1,
    bar: Bar = lambda title, total: nullcontext(),
) -> Prepared:
    """Read a data set's own layout and write `<split>.csv`, `classes.txt` and `prepare.json` to `out`.

    A listed file that is not on disk is left out and named in `prepare.json`. A second run over unchanged files
    changes no byte. With `resize` the calling script needs the usual `if __name__ == "__main__"` guard.

    Args:
        dataset: a name of `PROVIDERS`.
        root: the data set's folder.
        out: folder to write; new, or of an earlier run.
        splits: splits to prepare, of those with labels; all by default.
        fold: number of the official split of UCF101 and HMDB51, 1 to 3; 1 by default.
        resize: short side in pixels to re-encode videos to, below `out/videos`; the manifests name those.
        strict: a missing file, or one that cannot be re-encoded, is an error.
        workers: processes for re-encoding.
        bar: makes a progress bar from a title and a total.

    Raises:
        UnknownNameError: no such data set.
        ConfigError: an option that this data set does not have, or `resize` is odd or below 16.
        DataError: annotations are missing or wrong, no video of a split is there, or `out` holds other things.
    """
    root, out = Path(root), Path(out)
    if resize is not None:
        from emim.datasets.reencode import check_short_side

        check_short_side(resize)
    provider = _provider(dataset)
    request = _request(provider, root, splits, fold)
    if out.resolve() == root.resolve():
        raise DataError(f"{out}: is the data set's own folder; name another one with -o")
    check_target(out, provider.name, request.splits)
    annotations = provider.read(request)
    listings = FolderListings()
    located: dict[Split, Located] = {}
    for listed in annotations.splits:
        with bar(f"looking for {listed.split} videos", len(listed.clips)) as progress:
            located[listed.split] = locate(listed, listings, progress)
        _check_located(listed, located[listed.split], strict)

    lists: dict[Split, ClipList] = {}
    results: dict[Split, SplitResult] = {}
    for listed in annotations.splits:
        found = located[listed.split]
        clip_list = ClipList(found.entries, annotations.classes, root)
        failed: tuple[tuple[str, str], ...] = ()
        if resize is not None:
            clip_list, failed = _reencode(listed.split, clip_list, out, resize, workers, strict, bar)
        lists[listed.split] = clip_list
        results[listed.split] = SplitResult(
            manifest=out / f"{listed.split}.csv",
            listed=len(listed.clips),
            found=len(clip_list),
            published=provider.published(request.fold, listed.split),
            missing=found.missing,
            repeated=found.repeated,
            failed=failed,
            where=listed.where,
        )
    notes = (*annotations.notes, *_count_notes(provider, annotations, results))
    report = _report(provider, request, resize, annotations, results, notes)
    changed = write_outputs(out, lists, annotations.classes, report)
    return Prepared(provider, out, annotations.classes, results, notes, changed)


def _provider(dataset: str) -> Provider:
    if dataset not in PROVIDERS:
        raise UnknownNameError(f"unknown data set {dataset!r}; {nearest(dataset, PROVIDERS)}")
    return PROVIDERS[dataset]


def _request(provider: Provider, root: Path, splits: Sequence[Split] | None, fold: int | None) -> Request:
    if fold is not None and fold not in provider.counts:
        folds = ", ".join(map(str, provider.counts)) or "no folds"
        raise ConfigError(f"fold {fold}: {provider.title} has {folds}; leave --fold out or correct it")
    wanted = provider.splits if splits is None else tuple(split for split in provider.splits if split in splits)
    unknown = [split for split in splits or () if split not in provider.splits]
    if unknown or not wanted:
        raise ConfigError(
            f"split {', '.join(unknown) or 'none'}: {provider.title} has labels for {', '.join(provider.splits)}"
        )
    return Request(root, wanted, fold or 1)


def _check_located(listed: ListedSplit, found: Located, strict: bool) -> None:
    if not listed.clips:
        raise DataError(f"{listed.source}: lists no clip of the {listed.split} split")
    if not found.entries:
        raise DataError(
            f"none of the {len(listed.clips)} videos of the {listed.split} split in {listed.source} is there; "
            f"looked in {listed.where} for files such as {listed.clips[0].names[0]}"
        )
    if strict and found.missing:
        raise DataError(f"strict: {describe_missing(listed.split, len(listed.clips), found.missing, listed.where)}")


def describe_missing(split: str, listed: int, missing: Sequence[str], where: str) -> str:
    """One line on missing files: their number, the first few, and the places searched."""
    first = ", ".join(Path(name).name for name in missing[:_MAX_NAMED])
    more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
    return f"{split}: {len(missing)} of {listed} listed videos are not on disk: {first}{more}; looked in {where}"


def _reencode(
    split: Split, clip_list: ClipList, out: Path, short_side: int, workers: int, strict: bool, bar: Bar
) -> tuple[ClipList, tuple[tuple[str, str], ...]]:
    from emim.datasets.reencode import reencode

    with bar(f"re-encoding {split} videos", len(clip_list)) as progress:
        result = reencode(clip_list, out / _VIDEOS, short_side, workers=workers, progress=progress)
    if result.failed and (strict or not result.clip_list.entries):
        path, reason = result.failed[0]
        raise DataError(f"{split}: {len(result.failed)} videos cannot be re-encoded, the first is {path}: {reason}")
    return result.clip_list, tuple((str(path), reason) for path, reason in result.failed)


def _count_notes(provider: Provider, annotations: Annotations, results: dict[Split, SplitResult]) -> list[str]:
    notes = []
    expected = provider.num_classes
    if expected is not None and len(annotations.classes) != expected:
        notes.append(f"{len(annotations.classes)} classes, but {provider.title} has {expected}")
    if any(result.published not in (None, result.listed) for result in results.values()):
        listed = " and ".join(
            f"{result.listed:,} of {result.published:,} {split}"
            for split, result in results.items()
            if result.published
        )
        notes.append(f"the annotations list {listed} clips; published numbers are those of {provider.counts_from}")
    for split, result in results.items():
        if result.repeated:
            first = Path(result.repeated[0]).name
            notes.append(
                f"{split}: {len(result.repeated)} clips are listed more than once, such as {first}; one counts"
            )
    return notes


def _report(
    provider: Provider,
    request: Request,
    resize: int | None,
    annotations: Annotations,
    results: dict[Split, SplitResult],
    notes: Sequence[str],
) -> dict[str, Any]:
    def inside(path: Path | str) -> str:
        return relative_path(Path(path), request.root)

    sources = {listed.split: inside(listed.source) for listed in annotations.splits}
    return {
        "dataset": provider.name,
        "root": str(request.root.resolve()),
        "options": {"splits": list(request.splits), "fold": request.fold, "resize": resize},
        "classes": {"found": len(annotations.classes), "published": provider.num_classes},
        "notes": list(notes),
        "splits": {
            split: {
                "annotations": sources[split],
                "published": result.published,
                "listed": result.listed,
                "found": result.found,
                "missing": [inside(path) for path in result.missing],
                "failed": [{"path": inside(path), "reason": reason} for path, reason in result.failed],
                "repeated": [inside(path) for path in result.repeated],
            }
            for split, result in results.items()
        },
    }
