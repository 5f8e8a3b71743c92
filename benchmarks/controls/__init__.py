"""Controls and tables of published results, as a package beside epic_pl.

It uses what docs/extend.md offers any package; PYTHONPATH=benchmarks makes it importable.
"""

from controls.scenes import ScenesDataModule

__all__ = ["ScenesDataModule"]
