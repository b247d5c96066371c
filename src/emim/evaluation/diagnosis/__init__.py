"""Does a network use motion? The same clips with the motion taken from them, or from the network."""

from __future__ import annotations

from emim.evaluation.diagnosis.diagnose import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose"]
