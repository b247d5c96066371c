"""The true displacement field of a drawn clip: what a motion field is compared with.

Shape suffixes: T frames, H and W pixels, 2 axes (x to the right, y down).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from emim.data.synthetic.render import RenderedClip

Floats = npt.NDArray[np.float64]


def true_displacement(clip: RenderedClip) -> Floats:
    """Where what is seen at each pixel of a frame is in the next frame, seen there or not.

    Objects are rigid but for their size: they move, grow and turn as `clip.tracks` says; the background moves with the
    camera.

    Returns:
        displacement_T2HW in pixels, one field fewer than there are frames.
    """
    tracks = clip.tracks
    T, H, W = clip.objects_THW.shape
    y_H1, x_1W = np.arange(H)[:, None] + 0.5, np.arange(W)[None, :] + 0.5
    displacement_T2HW = np.empty((T - 1, 2, H, W))
    displacement_T2HW[:] = np.diff(tracks.background_T2, axis=0)[:, :, None, None]
    for k in range(tracks.radius_TK.shape[1]):
        for t in range(T - 1):
            here_HW = clip.objects_THW[t] == k + 1
            (x, y), (next_x, next_y) = tracks.centres_TK2[t, k], tracks.centres_TK2[t + 1, k]
            growth = tracks.radius_TK[t + 1, k] / tracks.radius_TK[t, k]
            turn = tracks.angle_TK[t + 1, k] - tracks.angle_TK[t, k]
            cosine, sine = growth * np.cos(turn), growth * np.sin(turn)
            right_1W, down_H1 = x_1W - x, y_H1 - y
            moved_2HW = np.stack(
                np.broadcast_arrays(
                    next_x + cosine * right_1W - sine * down_H1 - x_1W,
                    next_y + sine * right_1W + cosine * down_H1 - y_H1,
                )
            )
            displacement_T2HW[t][:, here_HW] = moved_2HW[:, here_HW]
    return displacement_T2HW
