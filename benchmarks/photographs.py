"""Does the bundled model carry over to photographs? Crops of real frames move over other real frames.

    python benchmarks/photographs.py <folder of real videos> [--per-class 20] [--checkpoint FILE] [--json FILE]

Frames of the given videos serve as backgrounds, crops of frames of other videos as objects: one for the
single-motion classes, two for `approaching` and `parting`. The clips are written as mp4 files of several sizes and
lengths and read back as any video would be. None of this was seen in training.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emim.data.video import VIDEO_SUFFIXES, open_video
from emim.datasets.synthetic import CLASSES, ClipOptions, composite_clip
from emim.datasets.synthetic.writer import write_clip
from emim.inference.recogniser import Recogniser

FRAMES_PER_VIDEO = 3
SIZES = ((112, 112), (128, 170), (180, 240), (224, 224), (240, 320), (256, 144))


def read_frames(folder: Path) -> list[list[NDArray[np.uint8]]]:
    """A few frames, spread over its length, of every video below the folder."""
    videos = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in VIDEO_SUFFIXES:
            with open_video(path) as reader:
                positions = np.linspace(0, reader.num_frames - 1, FRAMES_PER_VIDEO + 2)[1:-1].astype(int)
                videos.append(list(reader.read(positions.tolist())))
    return videos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="folder to keep the clips in")
    args = parser.parse_args()

    videos = read_frames(args.videos)
    recogniser = Recogniser.load(args.checkpoint)
    rng = np.random.default_rng(args.seed)
    right: Counter[str] = Counter()
    confusions: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        for label in CLASSES:
            for number in range(args.per_class):
                chosen = rng.choice(len(videos), 3, replace=False)
                background, *objects = (videos[i][rng.integers(FRAMES_PER_VIDEO)] for i in chosen)
                height, width = SIZES[rng.integers(len(SIZES))]
                options = ClipOptions(
                    num_frames=int(rng.integers(16, 49)), height=height, width=width, solo_share=1.0, upright_share=1.0
                )
                clip = composite_clip(label, objects, background, seed=int(rng.integers(2**31)), options=options)
                path = folder / f"{label}_{number:03d}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_clip(path, clip, crf=23)
                named = recogniser.predict(path, topk=1)[0].label
                right[label] += named == label
                if named != label:
                    confusions[label, named] += 1

    accuracy = sum(right.values()) / (args.per_class * len(CLASSES))
    for label in CLASSES:
        print(f"{label:18} {right[label] / args.per_class:6.1%}")
    print(f"{'all':18} {accuracy:6.1%}  of {args.per_class * len(CLASSES)} clips")
    print("most frequent errors:", ", ".join(f"{a} as {b} ({n})" for (a, b), n in confusions.most_common(6)))
    if args.json:
        args.json.write_text(json.dumps({"accuracy": accuracy, "clips": args.per_class * len(CLASSES)}))


if __name__ == "__main__":
    main()
