"""Charts as geometry, which the templates draw as inline SVG.

The page's colours are variables that follow light, dark and print; a picture of matplotlib's could not follow them.
"""

from __future__ import annotations
