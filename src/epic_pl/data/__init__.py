"""Raw files to batches: tables, pictures, collation, loaders that resume, one file a dataset."""

from epic_pl.data.datamodule import ImageTextDataModule

__all__ = ["ImageTextDataModule"]
