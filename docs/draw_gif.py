"""Draw docs/assets/motion.gif: motion fields of the bundled model on three clips, side by side.

    python docs/draw_gif.py walk.mkv bird.mkv want.mkv

The clips are those of intel-iot-devkit/sample-videos (CC BY 4.0); README.md names them beside the picture.
"""

from __future__ import annotations

import sys
import tempfile
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
    for pictures in zip(*columns, strict=False):  # as long as the shortest clip
        sheet = Image.new("RGB", (PANEL[0] * len(pictures), PANEL[1] * 2))
        for column, picture in enumerate(pictures):
            half = picture.width // 2
            for row, left in enumerate((0, half)):
                part = picture.crop((left, 0, left + half, picture.height)).resize(PANEL, Image.Resampling.LANCZOS)
                sheet.paste(part, (column * PANEL[0], row * PANEL[1]))
        frames.append(sheet)
    # One palette for all frames, so that nothing flickers: half of it for the videos, half for the bright fields.
    palette = Image.new("P", (1, 1))
    palette.putpalette(_palette(frames, 0) + _palette(frames, PANEL[1]))
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    indexed[0].save(
        OUTPUT, save_all=True, append_images=indexed[1:], duration=round(1000 * EVERY / 30), loop=0, optimize=True
    )
    print(f"{OUTPUT}: {len(frames)} frames, {OUTPUT.stat().st_size / 1e6:.2f} MB")


def _palette(frames: list[Image.Image], top: int) -> list[int]:
    """The most useful colours of the upper or lower row of panels, over all frames."""
    shown = frames[:: max(1, len(frames) // 8)]
    samples = Image.new("RGB", (frames[0].width, PANEL[1] * len(shown)))
    for place, frame in enumerate(shown):
        samples.paste(frame.crop((0, top, frame.width, top + PANEL[1])), (0, place * PANEL[1]))
    # An octree keeps rare bright colours, which a median cut gives to the many greys.
    colours = samples.quantize(128, method=Image.Quantize.FASTOCTREE).getpalette() or []
    return (colours + [0] * 384)[:384]


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
