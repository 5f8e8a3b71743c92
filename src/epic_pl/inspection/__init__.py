"""A look at data before it is trained on: ``epic-pl data check`` and ``epic-pl data init``."""

from epic_pl.inspection.check import check_data
from epic_pl.inspection.findings import Findings, Problem

__all__ = ["Findings", "Problem", "check_data"]
