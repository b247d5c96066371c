from __future__ import annotations

import numpy as np
import pytest

from emim.motion.drawing import draw, draw_arrows, draw_colours, fitted_text, resized, text_font
from emim.motion.explanation import draw_sheet

GREY = np.full((120, 160, 3), 128, dtype=np.uint8)


def field(x: float, y: float, rows: int = 6, columns: int = 8) -> np.ndarray:
    return np.stack([np.full((rows, columns), x), np.full((rows, columns), y)])


SURE = np.ones((6, 8))


def test_arrows_point_where_things_go() -> None:
    moved = np.zeros((2, 6, 8))
    moved[:, 3, 4] = (30.0, 0.0)  # one cell, to the right
    changed_HW = (draw_arrows(GREY, moved, SURE, 30.0) != GREY).any(axis=2)
    columns = np.nonzero(changed_HW.any(axis=0))[0]
    centre = 4.5 * 160 / 8
    assert columns.max() - centre > 20
    assert centre - columns.min() < 20


def test_nothing_is_drawn_where_nothing_moves() -> None:
    assert np.array_equal(draw_arrows(GREY, field(0, 0), SURE, 5.0), GREY)
    assert np.array_equal(draw_arrows(GREY, field(0.3, 0), SURE, 5.0), GREY)


def test_unsure_places_are_fainter() -> None:
    sure, unsure = (draw_arrows(GREY, field(9, 0), SURE * c, 9.0).astype(int) for c in (1.0, 0.05))
    assert np.abs(sure - 128).sum() > 1.3 * np.abs(unsure - 128).sum()


def test_colours_have_the_hue_of_the_direction() -> None:
    red = draw_colours(GREY, field(5, 0), SURE, 5.0)[60, 80].astype(int)
    violet = draw_colours(GREY, field(0, -5), SURE, 5.0)[60, 80].astype(int)
    assert red[0] > red[1] + 100
    assert violet[2] > violet[1] + 100


@pytest.mark.parametrize(
    ("style", "height", "width"), [("both", 120, 320), ("arrows", 120, 160), ("colours", 120, 160)]
)
def test_the_picture_has_its_panels_legend_and_caption(style: str, height: int, width: int) -> None:
    plain = draw(GREY, field(3, 0), SURE, 5.0, style=style)
    named = draw(GREY, field(3, 0), SURE, 5.0, style=style, caption="left 97%")
    assert plain.shape == named.shape == (height, width, 3)
    corner = (slice(-30, None), slice(-30, None))
    assert len(np.unique(plain[corner].reshape(-1, 3), axis=0)) > 50  # the wheel
    assert not np.array_equal(plain[:20, :60], named[:20, :60])


def test_wide_frames_have_their_panels_beneath_each_other() -> None:
    wide = np.zeros((60, 200, 3), dtype=np.uint8)
    assert draw(wide, field(3, 0), SURE, 5.0).shape == (120, 200, 3)


def test_values_are_read_between_the_centres_of_cells() -> None:
    assert resized(np.array([[0.0, 1.0]]), 1, 4)[0].tolist() == [0.0, 0.25, 0.75, 1.0]


def test_long_text_is_cut() -> None:
    font = text_font(12)
    assert fitted_text("short", font, 100) == "short"
    cut = fitted_text("a very long name of a class " * 5, font, 100)
    assert cut.endswith("…")
    assert font.getlength(cut) <= 100


def test_the_sheet_shows_what_speaks_for_and_against() -> None:
    frames = np.full((4, 32, 48, 3), 200, dtype=np.uint8)
    relevance = np.zeros((4, 2, 2))
    relevance[1, 0, 0], relevance[2, 1, 1] = 1.0, -1.0
    page = draw_sheet(frames, relevance, None, None, label="left", title="left 97%", subtitle="clip.mp4")
    with_motion = draw_sheet(
        frames, relevance, np.ones((2, 2, 3, 3)), np.ones((2, 3, 3)), label="left", title="left 97%", subtitle="c.mp4"
    )
    assert with_motion.shape[0] > page.shape[0]
    assert with_motion.shape[1] == page.shape[1]
    orange = (page[..., 0].astype(int) - page[..., 2] > 100).sum()
    blue = (page[..., 2].astype(int) - page[..., 0] > 80).sum()
    assert orange > 100
    assert blue > 100


def test_a_long_clip_shows_eight_frames() -> None:
    frames = np.zeros((32, 8, 8, 3), dtype=np.uint8)
    eight, more = (
        draw_sheet(frames[:n], np.ones((n, 2, 2)), None, None, label="a", title="a", subtitle="b").shape[1]
        for n in (8, 32)
    )
    assert eight == more
