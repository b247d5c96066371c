"""Draw docs/assets/motion.gif: motion fields of the bundled model on three clips, side by side.

    python docs/draw_gif.py walk.mkv bird.mkv want.mkv

The clips are those of intel-iot-devkit/sample-videos (CC BY 4.0); README.md names them beside the picture.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import islice
from pathlib import Path

from PIL import Image

from emim import Recogniser
from emim.data.video import open_video
from emim.motion.animation import Look, animate

OUTPUT = Path(__file__).parent / "assets" / "motion.gif"
PANEL = (256, 192)
DRAWN_AT = 384
SECONDS = 2.0
EVERY = 2  # of 30 frames a second
COLOURS = 96


def main(videos: list[Path]) -> None:
    recogniser = Recogniser.load()
    columns = []
    with tempfile.TemporaryDirectory() as folder:
        for video in videos:
            file = Path(folder) / f"{video.stem}.mp4"
            look = Look(longest_side=DRAWN_AT)
            animate(recogniser.model, recogniser.preprocessing, video, file, look=look)
            with open_video(file) as reader:
                numbers = range(0, min(reader.num_frames, round(SECONDS * reader.fps)), EVERY)
                columns.append([Image.fromarray(frame) for frame in reader.read(numbers)])
    frames = []
    for pictures in islice(zip(*columns, strict=False), None):
        sheet = Image.new("RGB", (PANEL[0] * len(pictures), PANEL[1] * 2))
        for column, picture in enumerate(pictures):
            half = picture.width // 2
            for row, left in enumerate((0, half)):
                part = picture.crop((left, 0, left + half, picture.height)).resize(PANEL, Image.Resampling.LANCZOS)
                sheet.paste(part, (column * PANEL[0], row * PANEL[1]))
        frames.append(sheet)
    # One palette for all frames, so that nothing flickers and unchanged places cost nothing.
    samples = Image.new("RGB", (frames[0].width, frames[0].height * 4))
    for place, number in enumerate(range(0, len(frames), max(1, len(frames) // 4))):
        if place < 4:
            samples.paste(frames[number], (0, place * frames[0].height))
    palette = samples.quantize(COLOURS, method=Image.Quantize.MEDIANCUT)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    indexed[0].save(
        OUTPUT, save_all=True, append_images=indexed[1:], duration=round(1000 * EVERY / 30), loop=0, optimize=True
    )
    print(f"{OUTPUT}: {len(frames)} frames, {OUTPUT.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
