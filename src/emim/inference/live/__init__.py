"""Recognising actions in what is happening now: cameras, network streams, and files played in real time."""
