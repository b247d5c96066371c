r"""Divide a list of clips into training, validation and test clips, so that no group is on two sides.

The rules are those of `emim.data.folder`: a manifest's column `split` decides, else a seeded share is held out, clip by
clip or by groups. Groups are those of a manifest's column `group`, or of a rule `group_by`:

- `column:person`, a column of the manifest, or
- a regular expression with one group in parentheses, such as `s(\d+)_`, which is searched in the name of each file,
  or in its path relative to the data set where the expression holds a slash.

The groups of a held-out share are those that bring it, and its part of each class, closest to the share asked for.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from emim.data.class_list import shortened
from emim.data.clip_list import ClipEntry, ClipList, Split, relative_path
from emim.errors import ConfigError, DataError

__all__ = [
    "check_apart",
    "check_split_options",
    "group_column",
    "has_splits",
    "join_notes",
    "list_size",
    "split_clips",
]

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_MAX_LISTED = 3
# How much the size of a held-out share counts against its balance over the classes.
_SIZE_WEIGHT = 3.0
# The same for a class without a held-out clip.
_EMPTY_WEIGHT = 3.0
# What is gained must be this share of the clips for two groups to be exchanged; else the seed decides between them.
_WORTH_EXCHANGING = 0.005
# Exchanging two groups is tried up to this number of them; with more, single ones reach the share well enough.
_MAX_EXCHANGED = 64
_MAX_ROUNDS = 5


def has_splits(clip_list: ClipList) -> bool:
    """True for a list from a manifest with a column `split`."""
    return any(entry.split is not None for entry in clip_list)


def split_clips(
    clip_list: ClipList,
    split: Split | None,
    *,
    val_share: float = 0.2,
    seed: int = 0,
    group_by: str | None = None,
) -> ClipList:
    """The clips of one split of a list of all clips, by the splits of its entries or else by a seeded share.

    Args:
        clip_list: all clips.
        split: "train", "val" or "test"; None for the list itself.
        val_share: share that is held out where no entry is of split val, in [0, 1).
        seed: seed of the held-out share.
        group_by: regular expression by which clips are kept together; None takes the entries' groups, if any.

    Raises:
        DataError: no clip is of the split, or the groups leave nothing to hold out.
        ConfigError: `val_share`, `split` or `group_by` is malformed.
    """
    check_split_options(split, val_share)
    if split is None:
        return clip_list
    pattern = _group_pattern(group_by)
    if not has_splits(clip_list):
        return _seeded_side(clip_list, split, val_share, seed, pattern)
    of_split: dict[Split, ClipList] = {
        name: replace(clip_list, entries=tuple(e for e in clip_list if e.split == name)) for name in _SPLITS
    }
    own = of_split[split] if len(of_split[split]) or split != "test" else of_split["val"]
    if split != "train" and not len(own):
        own = of_split["train"]
    if not len(own):
        present = ", ".join(name for name, part in of_split.items() if len(part))
        raise DataError(f"{clip_list.source}: no row is of split {split!r} (found {present})")
    if (own is of_split["train"]) and not len(of_split["val"]):
        return _seeded_side(own, split, val_share, seed, pattern)
    stand_in = " (no test rows, so those of val; model selection has seen these clips)"
    note = f"{split}: {list_size(own)} by the column split{stand_in if own is not of_split[split] else ''}"
    return replace(own, note=join_notes(note, clip_list.note))


def check_split_options(split: str | None, val_share: float) -> None:
    """Raise ConfigError for an unknown split or a share outside [0, 1)."""
    if split is not None and split not in _SPLITS:
        raise ConfigError(f"unknown split {split!r}; known are {', '.join(_SPLITS)}")
    if not 0 <= val_share < 1:
        raise ConfigError(f"val_share must be at least 0 and under 1, got {val_share}")


def _seeded_side(
    clip_list: ClipList, split: Split, val_share: float, seed: int, pattern: re.Pattern[str] | None
) -> ClipList:
    """The training side ("train") or the held-out side ("val", "test") of the seeded split."""
    groups = _groups(clip_list, pattern) if val_share else None
    if groups is None:
        held = _held_out_rows(clip_list, val_share, seed)
        how = f"{val_share:.0%} of each class held out by seed {seed} from {len(clip_list)} clips, clip by clip"
        how += " (clips of one person or scene may be on both sides)"
    else:
        held, how = _held_out_groups(clip_list, groups, val_share, seed)
    wanted = [i for i in range(len(clip_list)) if (i in held) != (split == "train")]
    side = replace(clip_list, entries=tuple(clip_list.entries[i] for i in wanted))
    if val_share == 0 and split == "train":
        return replace(side, note=join_notes(f"{split}: {list_size(side)}; nothing held out", clip_list.note))
    if split == "test":
        how += "; no test set of its own, so this is the val share, which model selection has seen"
    return replace(side, note=join_notes(f"{split}: {list_size(side)}; {how}", clip_list.note))


def _held_out_rows(clip_list: ClipList, val_share: float, seed: int) -> set[int]:
    """Positions of the held-out clips.

    Videos come in the order of a hash of seed and path, and each goes to the held-out side while one of its
    classes still wants clips there. All segments of one video stay on one side, so that no frame is on both.
    """
    if val_share == 0:
        return set()
    sizes = Counter(entry.label for entry in clip_list)
    wanted = {
        label: min(max(1, int(val_share * size + 0.5)), size - 1) if size > 1 else 0 for label, size in sizes.items()
    }
    videos: dict[str, list[int]] = {}
    for position, entry in enumerate(clip_list):
        videos.setdefault(relative_path(entry.path, clip_list.root), []).append(position)

    held: set[int] = set()
    taken: Counter[int] = Counter()
    for name in sorted(videos, key=lambda name: _rank(seed, name)):
        labels = Counter(clip_list.entries[position].label for position in videos[name])
        useful = any(taken[label] < wanted[label] for label in labels)
        leaves_some = all(taken[label] + count < sizes[label] for label, count in labels.items())
        if useful and leaves_some:
            held.update(videos[name])
            taken.update(labels)
    return held


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest()


def list_size(clip_list: ClipList) -> str:
    """Describe the number of clips and classes."""
    return f"{len(clip_list)} clips of {len(clip_list.classes)} classes"


def join_notes(*notes: str) -> str:
    """Join the notes that are not empty."""
    return "; ".join(note for note in notes if note)


# --- groups ----------------------------------------------------------------------------------------


def group_column(group_by: str | None) -> str | None:
    """The column of a rule `column:NAME`; None for other rules."""
    if group_by is None or not group_by.startswith("column:"):
        return None
    column = group_by.removeprefix("column:").strip()
    if not column:
        raise ConfigError(f"group_by {group_by!r}: name the column, such as column:person")
    return column


def _group_pattern(group_by: str | None) -> re.Pattern[str] | None:
    """The regular expression of a rule; None for `column:NAME` and without one.

    Raises:
        ConfigError: it is none, or has not one group in parentheses.
    """
    if not group_by or group_column(group_by) is not None:
        return None
    example = "give column:NAME, or a regular expression with one group in parentheses, such as s(\\d+)_"
    try:
        pattern = re.compile(group_by)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"group_by {shortened(group_by)}: no regular expression ({error}); {example}") from error
    if pattern.groups != 1:
        raise ConfigError(f"group_by {shortened(group_by)}: has {pattern.groups} groups in parentheses; {example}")
    return pattern


def _groups(clip_list: ClipList, pattern: re.Pattern[str] | None) -> list[str] | None:
    """The group of every clip; None where nothing names groups.

    Raises:
        DataError: the expression does not fit the names of some clips.
    """
    if pattern is None:
        own = [entry.group for entry in clip_list if entry.group is not None]
        return own if own and len(own) == len(clip_list) else None
    found = [_group_in_name(entry, clip_list.root, pattern) for entry in clip_list]
    without = [entry.path for entry, group in zip(clip_list, found, strict=True) if group is None]
    if without:
        listed = ", ".join(relative_path(path, clip_list.root) for path in without[:_MAX_LISTED])
        more = f" and {len(without) - _MAX_LISTED} more" if len(without) > _MAX_LISTED else ""
        where = "paths" if "/" in pattern.pattern else "file names"
        raise DataError(
            f"{clip_list.source}: group_by {pattern.pattern!r} does not fit the {where} of {len(without)} of "
            f"{len(clip_list)} clips: {listed}{more}"
        )
    return [group for group in found if group is not None]


def _group_in_name(entry: ClipEntry, root: Path, pattern: re.Pattern[str]) -> str | None:
    found = pattern.search(relative_path(entry.path, root) if "/" in pattern.pattern else entry.path.name)
    return None if found is None else found[1]


def check_apart(training: ClipList, validation: ClipList, group_by: str | None) -> None:
    """Require that no group is on both sides.

    Raises:
        DataError: names the first such group and a clip of it on each side.
    """
    pattern = _group_pattern(group_by)

    def named(clip_list: ClipList) -> dict[str, ClipEntry]:
        if pattern is None:
            return {entry.group: entry for entry in clip_list if entry.group is not None}
        pairs = ((_group_in_name(entry, clip_list.root, pattern), entry) for entry in clip_list)
        return {group: entry for group, entry in pairs if group is not None}

    ours, theirs = named(training), named(validation)
    both = sorted(ours.keys() & theirs.keys())
    if both:
        raise DataError(
            f"groups with clips in training and in validation: {len(both)}, such as {both[0]!r}, with "
            f"{ours[both[0]].path} and {theirs[both[0]].path}; put each group on one side, or leave group_by out"
        )


def _held_out_groups(clip_list: ClipList, groups: list[str], val_share: float, seed: int) -> tuple[set[int], str]:
    """Positions of the held-out clips, whole groups of them, and how they were chosen, for the note.

    Raises:
        DataError: there is one group only, or each holds all clips of some class.
    """
    groups = _joined_by_videos(clip_list, groups)
    labels = [entry.label for entry in clip_list]
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for group, label in zip(groups, labels, strict=True):
        counts[group][label] += 1
    order = sorted(counts, key=lambda group: _rank(seed, group))
    held = _choose_groups(counts, order, val_share)
    if not held:
        reason = "all clips are of one group" if len(order) == 1 else "each group holds all clips of some class"
        raise DataError(
            f"{clip_list.source}: {reason}, so no group can be held out; give validation clips "
            "with data.val, or hold nothing out with data.val_share=0"
        )
    positions = {position for position, group in enumerate(groups) if group in held}
    names = ", ".join(sorted(held)[:_MAX_LISTED]) + (" ..." if len(held) > _MAX_LISTED else "")
    how = (
        f"{len(held)} of {len(order)} groups ({names}) held out by seed {seed}, {len(positions)} of {len(clip_list)} "
        f"clips ({len(positions) / len(clip_list):.0%}, {val_share:.0%} asked for)"
    )
    without = sorted(set(labels) - {labels[position] for position in positions})
    if without:
        first = ", ".join(clip_list.classes[label] for label in without[:_MAX_LISTED])
        how += f"; none of {first}{f' and {len(without) - _MAX_LISTED} more classes' * (len(without) > _MAX_LISTED)}"
    return positions, how


def _joined_by_videos(clip_list: ClipList, groups: list[str]) -> list[str]:
    """The groups, those joined that have segments of one video: no frame may be on both sides."""
    parent: dict[str, str] = {}

    def top(group: str) -> str:
        while (above := parent.get(group, group)) != group:
            group = above
        return group

    first_of: dict[Path, str] = {}
    for entry, group in zip(clip_list, groups, strict=True):
        one, other = sorted((top(first_of.setdefault(entry.path, group)), top(group)))
        parent[other] = one
    return [top(group) for group in groups]


def _choose_groups(counts: Mapping[str, Counter[int]], order: Sequence[str], share: float) -> set[str]:
    """The groups to hold out; empty where that would take all clips of a class in any case.

    Groups are added and removed one by one, in the given order, and exchanged, as long as that brings the held-out
    clips in all and of each class closer to the share.

    Args:
        counts: clips of each class in each group.
        order: the groups.
        share: of the clips, in (0, 1).
    """
    side = _HeldOut(counts, share)
    for _ in range(_MAX_ROUNDS):
        improved = [side.improve([(group, -1 if group in side.held else 1)]) for group in order if side.held != {group}]
        if not side.held:
            possible = {group: found for group in order if (found := side.change([(group, 1)])) is not None}
            if not possible:
                return set()
            side.move(min(possible, key=lambda group: possible[group]), 1)
        if len(order) <= _MAX_EXCHANGED:
            pairs = [(one, other) for one in order for other in order]
            improved += [
                side.improve([(one, -1), (other, 1)], side.worth_exchanging)
                for one, other in pairs
                if one in side.held and other not in side.held
            ]
        if not any(improved):
            break
    return side.held


class _HeldOut:
    """Groups that are held out, and how far their clips are from a share of all, and of each class.

    A move is a group and +1 (to hold it out) or -1 (to give it back).
    """

    def __init__(self, counts: Mapping[str, Counter[int]], share: float) -> None:
        self.held: set[str] = set()
        self._counts = counts
        self._share = share
        self._sizes: Counter[int] = Counter()
        for count in counts.values():
            self._sizes.update(count)
        self._all = self._sizes.total()
        self._taken: Counter[int] = Counter()
        self._total = 0
        self.worth_exchanging = _WORTH_EXCHANGING * self._all * (1 + _SIZE_WEIGHT)

    def move(self, group: str, sign: int) -> None:
        """Make a move."""
        for label, count in self._counts[group].items():
            self._taken[label] += sign * count
            self._total += sign * count
        (self.held.add if sign > 0 else self.held.remove)(group)

    def change(self, moves: Sequence[tuple[str, int]]) -> float | None:
        """Return the growth of the distance by these moves; None if a class would lose its last training clip."""
        labels = {label for group, _ in moves for label in self._counts[group]}
        before = self._distance(labels)
        for group, sign in moves:
            self.move(group, sign)
        possible = all(self._taken[label] < self._sizes[label] for label in labels)
        difference = self._distance(labels) - before
        for group, sign in reversed(moves):
            self.move(group, -sign)
        return difference if possible else None

    def improve(self, moves: Sequence[tuple[str, int]], least: float = 1e-9) -> bool:
        """Make these moves if they bring the clips closer to the share, by at least `least` clips."""
        difference = self.change(moves)
        if difference is None or difference > -least:
            return False
        for group, sign in moves:
            self.move(group, sign)
        return True

    def _distance(self, labels: Iterable[int]) -> float:
        of_classes = sum(
            abs(self._taken[label] - self._share * self._sizes[label]) * (1 if self._taken[label] else _EMPTY_WEIGHT)
            for label in labels
        )
        return of_classes + _SIZE_WEIGHT * abs(self._total - self._share * self._all)
