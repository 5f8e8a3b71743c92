"""Store what the frozen encoders give, once for each picture and text, and train from that."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Callback

from epic_pl.cache import StoredDtype, default_root
from epic_pl.callbacks.feature_filler import Filler
from epic_pl.callbacks.feature_items import CacheOptions
from epic_pl.data import ImageTextDataModule
from epic_pl.data.features import by_name
from epic_pl.errors import ConfigError
from epic_pl.module import EPICModule

_SPLITS: dict[str, tuple[Literal["train", "val", "test", "predict"], ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class FeatureCache(Callback):
    """Fills feature stores before a run, and has the DataModule's loaders read from them.

    What is already stored is used again, by any run whose encoders, layers and preprocessing are
    the same; nothing else ever matches. Ranks share the work.

    Args:
        level: "off"; "boundary": tokens that enter the first interaction layer, for any prompts;
            "layers": keys and values of every interaction layer, for prompts that only read.
        dtype: of the stored numbers: float32, bfloat16, float16 or int8.
        folder: of the stores; None is ``features`` in the cache folder.
        views: augmented views of each training picture; 0 stores it as evaluation sees it.
        batch_size: pictures or texts that are encoded at a time.
        threads: that decode pictures while the stores are filled.

    Raises:
        ConfigError: if the cache does not go with the other options.
    """

    def __init__(
        self,
        level: Literal["off", "boundary", "layers"] = "off",
        dtype: StoredDtype = "float16",
        folder: str | None = None,
        views: int = 0,
        batch_size: int = 32,
        threads: int = 2,
    ) -> None:
        if views < 0:
            raise ConfigError(f"cache.views is {views}: it counts stored views, from 0.")
        self.level = level
        self.dtype = dtype
        self.root = default_root() if folder is None else Path(folder)
        self.views = views
        self.batch_size = batch_size
        self.threads = threads

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Fill the stores of this stage's splits and hand them to the DataModule."""
        if self.level == "off":
            return
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageTextDataModule) or not isinstance(pl_module, EPICModule):
            raise ConfigError(
                "The feature cache reads rows by name, which it can ask of an ImageTextDataModule "
                "with EPICModule only: set cache.level to off for loaders of your own."
            )
        # the module is on its device only after this hook; the stores are filled there too
        pl_module.to(trainer.strategy.root_device)
        self.fill(
            pl_module,
            data,
            stage,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            barrier=lambda: trainer.strategy.barrier("feature cache"),
        )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let the DataModule read pictures again: another run may ask for other splits."""
        data: Any = getattr(trainer, "datamodule", None)
        if self.level != "off" and isinstance(data, ImageTextDataModule):
            data.use_features(None)

    def fill_all(self, module: EPICModule, data: ImageTextDataModule) -> None:
        """Store what every stage of ``data`` needs, ahead of any run.

        Raises:
            ConfigError: if the cache is off.
        """
        if self.level == "off":
            raise ConfigError(
                "There is nothing to store while cache.level is off: set it to boundary or layers, "
                "in the config or by --cache.level."
            )
        data.prepare_data()
        for stage in _SPLITS:
            data.setup(stage)
            self.fill(module, data, stage)

    def fill(
        self,
        module: EPICModule,
        data: ImageTextDataModule,
        stage: str,
        rank: int = 0,
        world_size: int = 1,
        barrier: Callable[[], None] | None = None,
    ) -> None:
        """Store what a stage of ``data``, already set up, needs; its loaders then read it.

        Raises:
            ConfigError: if live augmentation is asked for, or a dataset does not tell its rows.
            CacheError: if the stores cannot be written.
        """
        assert self.level != "off"
        if data.augment != "none" and self.views == 0:
            raise ConfigError(
                f"data.augment is {data.augment!r}, but stored features cannot be augmented any "
                "more. Set cache.views to the number of augmented views to store of each training "
                "picture, or data.augment to none, or cache.level to off."
            )
        options = CacheOptions(
            self.level, self.dtype, self.root, self.views, self.batch_size, self.threads
        )
        filler = Filler(options, module, data, rank, world_size, barrier)
        for split in _SPLITS[stage]:
            dataset = by_name(data.dataset(split))
            filler.add(dataset, self.views if split == "train" else 0)
        data.use_features(filler.stores())
