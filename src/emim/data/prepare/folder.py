"""A folder of classes (see `emim.data.folder`), for one's own clips.

Splits are those of `discover`: the folders there are, and a seeded share of the training clips as "val" where there
is no val folder. A test split is written where there is a test folder.
"""

from __future__ import annotations

from emim.data.folder import Split, discover
from emim.data.prepare.listed import Annotations, ListedClip, ListedSplit, Provider, Request

_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def _read(request: Request) -> Annotations:
    root = request.root
    classes: tuple[str, ...] | None = None
    splits = []
    notes = []
    for split in request.splits:
        if split == "test" and not (root / "test").is_dir():
            continue
        clip_list = discover(root, split=split, classes=classes)
        classes = clip_list.classes
        notes.append(clip_list.note)
        clips = tuple(ListedClip(entry.label, (entry.path.parent,), (entry.path.name,)) for entry in clip_list)
        splits.append(ListedSplit(split, root, clips, str(root)))
    return Annotations(classes or (), tuple(splits), tuple(notes))


FOLDER = Provider(name="folder", title="a folder of classes", splits=_SPLITS, read=_read)
