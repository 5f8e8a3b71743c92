"""DataModules and what they use: tables, images, batches, loaders that resume, datasets."""

from epic_pl.data.datamodule import ImageTextDataModule
from epic_pl.data.datasets.food101 import Food101DataModule
from epic_pl.data.datasets.hateful_memes import HatefulMemesDataModule
from epic_pl.data.datasets.mm_imdb import MMIMDBDataModule
from epic_pl.data.datasets.openmoji import OpenMojiDataModule
from epic_pl.data.datasets.snli_ve import SNLIVEDataModule
from epic_pl.data.tables.datamodule import TableDataModule

__all__ = [
    "Food101DataModule",
    "HatefulMemesDataModule",
    "ImageTextDataModule",
    "MMIMDBDataModule",
    "OpenMojiDataModule",
    "SNLIVEDataModule",
    "TableDataModule",
]
