"""Raw files to batches: tables, pictures, collation, loaders that resume, one file a dataset."""

from epic_pl.data.datamodule import ImageTextDataModule
from epic_pl.data.openmoji import OpenMojiDataModule

__all__ = ["ImageTextDataModule", "OpenMojiDataModule"]
