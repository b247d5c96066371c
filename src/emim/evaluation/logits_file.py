"""The logits of a test as one safetensors file, for whatever is to be worked out from them later.

    with safe_open("logits.safetensors", "pt") as file:
        logits_NVK, label_N = file.get_tensor("logits"), file.get_tensor("labels")
        about = json.loads(file.metadata()["emim"])  # classes, clips, views, checkpoint, precision

Shape suffixes: N clips that could be read, V views of a video, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from emim.data.manifest import ClipList, format_moment
from emim.errors import ConfigError
from emim.evaluation.outputs import ClipOutputs
from emim.files import whole_file

_METADATA_KEY = "emim"


def write_logits(path: Path, outputs: ClipOutputs, clip_list: ClipList, about: Mapping[str, Any]) -> None:
    """Write the logits of the clips that could be read, before the softmax; whole or not at all.

    Tensors: `logits` [N, V, K] float32 and `labels` [N] int64. The metadata holds JSON under the key "emim": `about`,
    `classes` (names by index) and `clips` (path, start and end of each of the N).

    Args:
        path: the file to write.
        outputs: with logits kept.
        clip_list: the list that they are the outputs of.
        about: JSON-ready facts of the test: views, checkpoint, precision.

    Raises:
        ConfigError: the file cannot be written.
    """
    if outputs.logits_NVK is None:
        raise ValueError("the outputs hold no logits; run with keep_logits=True")
    entries = [clip_list.entries[at] for at in outputs.index]
    clips = [
        {
            "path": str(entry.path),
            "start": format_moment(entry.start, entry.unit),
            "end": format_moment(entry.end, entry.unit),
        }
        for entry in entries
    ]
    metadata = json.dumps({**about, "classes": list(clip_list.classes), "clips": clips})
    tensors = {"logits": outputs.logits_NVK.contiguous(), "labels": outputs.label_N}
    try:
        with whole_file(path) as temporary:
            save_file(tensors, temporary, metadata={_METADATA_KEY: metadata})
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
