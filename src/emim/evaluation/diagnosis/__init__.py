"""Does a network use motion? Its accuracy on the same clips with the motion removed from clips or network."""

from __future__ import annotations

from emim.evaluation.diagnosis.diagnose import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose"]
