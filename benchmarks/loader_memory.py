"""Does memory stay flat while clips are loaded? Loads many training clips and prints resident memory on the way.

    python benchmarks/loader_memory.py <videos or folders> --clips 2000 --workers 2

Goes round the videos found, through the same loader as training, and prints the memory of all its processes every
`--every` clips: PSS, in which pages that processes share count once, and RSS. At the end stands by how much a line
through the PSS readings rises over the run. The exit status is 1 where that is more than `--allowed`: the allocator
keeps up to 64 MiB of freed memory in each process, so readings go up and down by some tens of MiB, while one frame of
340x256 kept per clip would give 500. Needs Linux (/proc).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from emim.data.augment.transforms import AugmentOptions
from emim.data.dataset import TrainClips
from emim.data.loader import ClipLoader, EpochBatches
from emim.data.manifest import ClipEntry, ClipList
from emim.data.preprocessing import Preprocessing
from emim.data.video import VIDEO_SUFFIXES
from emim.environment import describe_machine
from predict import tree_memory


def find_videos(places: list[Path]) -> list[Path]:
    files = [file for place in places for file in (sorted(place.rglob("*")) if place.is_dir() else [place])]
    return [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("videos", nargs="+", type=Path, help="video files, or folders of them")
    parser.add_argument("--clips", type=int, default=2000, help="clips to load")
    parser.add_argument("--workers", type=int, default=2, help="loader processes")
    parser.add_argument("--batch-size", type=int, default=8, help="clips per batch")
    parser.add_argument("--every", type=int, default=200, help="clips between readings")
    parser.add_argument("--size", type=int, default=112, help="side of a training clip in pixels")
    parser.add_argument("--frames", type=int, default=16, help="frames of a training clip")
    parser.add_argument("--allowed", type=float, default=100.0, help="MiB of growth that pass")
    options = parser.parse_args()

    videos = find_videos(options.videos)
    if not videos:
        parser.error("no video found")
    entries = tuple(ClipEntry(video, index % 2) for index, video in enumerate(videos))
    clip_list = ClipList(entries, ("even", "odd"), options.videos[0])
    clips = TrainClips(clip_list, Preprocessing(num_frames=options.frames, size=options.size), AugmentOptions(flip=0.5))
    batches = EpochBatches(len(clips), min(options.batch_size, len(clips)))
    loader = ClipLoader(
        clips, batch_sampler=batches, num_workers=options.workers, persistent_workers=options.workers > 0
    )
    print(describe_machine().line())
    print(f"{options.clips} clips of {len(videos)} videos, {options.workers} workers, batches of {batches.batch_size}")
    return watch(loader, batches, options)


def watch(loader: ClipLoader, batches: EpochBatches, options: argparse.Namespace) -> int:
    loaded = epoch = 0
    readings: list[float] = []
    started = time.perf_counter()
    while loaded < options.clips:
        batches.set_epoch(epoch)
        for batch in loader:
            before, loaded = loaded, loaded + len(batch["label"])
            if loaded // options.every > before // options.every:
                memory = tree_memory()
                if memory is None:
                    sys.exit("this needs Linux (/proc)")
                readings.append(memory.pss)
                seconds = time.perf_counter() - started
                print(
                    f"{loaded:6d} clips   PSS {memory.pss:7.1f} MiB   RSS {memory.rss:7.1f} MiB   {seconds:5.0f} s",
                    flush=True,
                )
            if loaded >= options.clips:
                break
        epoch += 1
    if len(readings) < 3:
        sys.exit("too few readings: raise --clips or lower --every")
    growth = statistics.linear_regression(range(len(readings)), readings).slope * (len(readings) - 1)
    print(f"growth: {growth:+.1f} MiB in {loaded} clips (allowed: {options.allowed:g})")
    return int(growth > options.allowed)


if __name__ == "__main__":
    sys.exit(main())
