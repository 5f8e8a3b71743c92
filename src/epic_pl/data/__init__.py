"""Raw files to batches: tables, pictures, collation, loaders that resume, one file a dataset."""

from epic_pl.data.datamodule import ImageTextDataModule
from epic_pl.data.food101 import Food101DataModule
from epic_pl.data.hateful_memes import HatefulMemesDataModule
from epic_pl.data.mm_imdb import MMIMDBDataModule
from epic_pl.data.openmoji import OpenMojiDataModule
from epic_pl.data.snli_ve import SNLIVEDataModule
from epic_pl.data.table_module import TableDataModule

__all__ = [
    "Food101DataModule",
    "HatefulMemesDataModule",
    "ImageTextDataModule",
    "MMIMDBDataModule",
    "OpenMojiDataModule",
    "SNLIVEDataModule",
    "TableDataModule",
]
