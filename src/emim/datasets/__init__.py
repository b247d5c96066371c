"""Work on whole data sets: manifests of published ones (`prepare`), generated clips (`synthetic`), examination of
every video (`doctor`), and smaller copies of them (`reencode`).
"""

from __future__ import annotations
