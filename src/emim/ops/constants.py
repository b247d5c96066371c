"""Values that define the operator and that all backends share."""

from __future__ import annotations

from typing import Final

PAD_VALUE: Final = 1e-6
"""Every channel of a key or value outside the frame. It takes part in the softmax (emim-spec step 3)."""
