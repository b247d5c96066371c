"""Recognise actions live: from cameras, network streams, and files played in real time.

Four files, in the order in which a frame passes them: `connection` opens a source, `capture` reads its frames in a
thread and reopens a lost source, `clip` keeps the newest frames and makes clips of them, `predictor` scores the clips.
"""

from __future__ import annotations

from emim.inference.live.connection import Source, parse_source
from emim.inference.live.predictor import LiveOptions, LivePrediction, LivePredictor, Summary

__all__ = ["LiveOptions", "LivePrediction", "LivePredictor", "Source", "Summary", "parse_source"]
