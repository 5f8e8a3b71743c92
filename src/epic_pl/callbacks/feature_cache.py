"""Store what the frozen encoders give, once for each picture and text, and train from that."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Callback

from epic_pl.data import ImageTextDataModule
from epic_pl.errors import CacheError, ConfigError
from epic_pl.features import StoredDtype, default_root
from epic_pl.features.dataset import FeatureDataset, by_name, feature_provider
from epic_pl.features.filler import Filler
from epic_pl.features.growing_features import GrowingFeatures
from epic_pl.features.items import CacheOptions
from epic_pl.module import EPICModule

_SPLITS: dict[str, tuple[Literal["train", "val", "test", "predict"], ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class FeatureCache(Callback):
    """Fills feature stores before or during a run, and has the DataModule's loaders read them.

    What is already stored is used again, by any run whose encoders, layers and preprocessing are
    the same; nothing else ever matches. Ranks share the work.

    Args:
        level: "off"; "boundary": tokens that enter the first interaction layer, for any prompts;
            "layers": keys and values of every interaction layer, for prompts that only read.
        dtype: of the stored numbers: float32, bfloat16, float16 or int8.
        folder: of the stores; None is ``features`` in the cache folder.
        views: augmented views of each training picture; 0 stores it as evaluation sees it, as
            does data that augments nothing.
        batch_size: pictures or texts that are encoded at a time.
        threads: that decode pictures while the stores are filled.
        fill: "ahead" of the first step, or in the "first_epoch" as batches are asked for.

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
        fill: Literal["ahead", "first_epoch"] = "ahead",
    ) -> None:
        if views < 0:
            raise ConfigError(f"cache.views is {views}: it counts stored views, from 0.")
        for name, count in (("batch_size", batch_size), ("threads", threads)):
            if count < 1:
                raise ConfigError(f"cache.{name} is {count}: it counts from 1.")
        self.level = level
        self.dtype = dtype
        self.root = default_root() if folder is None else Path(folder)
        self.views = views
        self.batch_size = batch_size
        self.threads = threads
        self.fill_when = fill
        self._growing: GrowingFeatures | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Hand the stores of this stage's splits to the DataModule, filled now or as it goes."""
        if self.level == "off":
            return
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageTextDataModule) or not isinstance(pl_module, EPICModule):
            raise ConfigError(
                "The feature cache reads rows by name, which it can ask of an ImageTextDataModule "
                "with EPICModule only: set cache.level to off for loaders of your own."
            )
        to_device(pl_module, trainer)
        if self.fill_when == "first_epoch":
            self.grow(pl_module, data, stage, trainer.world_size)
            return
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
        self._flush()
        self._release(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what the epoch encoded; the next one reads it."""
        self._flush()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write what was encoded so far: a resumed run then reads the very same numbers."""
        self._flush()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Keep what was encoded, unless it is the stores that failed; no teardown follows."""
        if not isinstance(exception, CacheError):
            self._flush()
        self._release(trainer)

    def _release(self, trainer: L.Trainer) -> None:
        """Let the DataModule read pictures again: another run may be of another model."""
        self._growing = None
        data: Any = getattr(trainer, "datamodule", None)
        if self.level != "off" and isinstance(data, ImageTextDataModule):
            data.use_features(None)

    def _flush(self) -> None:
        if self._growing is not None:
            self._growing.flush()

    def fill(
        self,
        module: EPICModule,
        data: ImageTextDataModule,
        *stages: str,
        rank: int = 0,
        world_size: int = 1,
        barrier: Callable[[], None] | None = None,
    ) -> None:
        """Store what stages of ``data``, already set up, need; their loaders then read it.

        Raises:
            ConfigError: if live augmentation is asked for, or a dataset does not tell its rows.
            CacheError: if the stores cannot be written, or the disk has no room for all of them.
        """
        filler = Filler(self._options(data), module, data, rank, world_size, barrier)
        for dataset, views in self._splits(data, *stages):
            filler.add(dataset, views)
        data.use_features(feature_provider(filler.fill()))

    def grow(
        self, module: EPICModule, data: ImageTextDataModule, stage: str, world_size: int = 1
    ) -> None:
        """Have the loaders of a stage of ``data``, already set up, store what they lack.

        Raises:
            ConfigError: as for :meth:`fill`, or there are loader workers or other processes, or
                views are to be loaded ahead.
            CacheError: if a store on the disk is damaged, or the disk has no room for what the
                first epoch needs.
        """
        for count, name, most in (
            (data.num_workers, "data.num_workers", 0),
            (world_size, "the number of processes", 1),
        ):
            if count > most:
                raise ConfigError(
                    f"cache.fill is first_epoch, which encodes in the one process that trains, but "
                    f"{name} is {count} instead of {most}. Set it to {most}, or store the features "
                    "with `epic-pl cache build` first and set cache.fill to ahead."
                )
        if stage == "fit" and self._views(data) and data.prefetch:
            raise ConfigError(
                f"cache.views is {self.views}, and augmenting draws from the random generators of "
                "training, beside which data.prefetch would run it. Set data.prefetch to 0, or "
                "cache.fill to ahead."
            )
        growing = GrowingFeatures(self._options(data), module, data)
        for dataset, views in self._splits(data, stage):
            growing.add(dataset, views)
        growing.require_disk()
        data.use_features(feature_provider(growing))
        self._growing = growing

    def _splits(
        self, data: ImageTextDataModule, *stages: str
    ) -> Iterator[tuple[FeatureDataset, int]]:
        """Datasets of stages, and how many views of each picture they draw from."""
        for split in dict.fromkeys(split for stage in stages for split in _SPLITS[stage]):
            views = self._views(data) if split == "train" else 0
            if split == "train" and data.augment != "none" and views == 0:
                raise ConfigError(
                    f"data.augment is {data.augment!r}, but stored features cannot be augmented "
                    "any more. Set cache.views to the number of augmented views to store of each "
                    "training picture, or data.augment to none, or cache.level to off."
                )
            yield by_name(data.dataset(split)), views

    def _views(self, data: ImageTextDataModule) -> int:
        """Of a picture that nothing augments all views would be one."""
        return 0 if data.augment == "none" else self.views

    def _options(self, data: ImageTextDataModule) -> CacheOptions:
        assert self.level != "off"
        return CacheOptions(
            self.level, self.dtype, self.root, self._views(data), self.batch_size, self.threads
        )


def to_device(module: EPICModule, trainer: L.Trainer) -> None:
    """Move a module to where its encoders are run: a trainer does so only after its setup hooks.

    Raises:
        ConfigError: if the encoders cannot be run there in the precision that is asked for.
    """
    device = trainer.strategy.root_device
    module.check_device(device)
    module.to(device)
