"""Report on a tested model: metrics, calibration, weak spots and worst mistakes."""

from epic_pl.evaluation.report.writer import ReportWriter

__all__ = ["ReportWriter"]
