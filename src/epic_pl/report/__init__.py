"""The report on a tested model: metrics, calibration, weak spots and worst mistakes."""
