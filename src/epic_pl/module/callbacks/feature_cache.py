"""Encode each image and text once, store the frozen features, and train from them."""

import signal
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from epic_pl.data import ImageTextDataModule
from epic_pl.data.datamodule import STAGES
from epic_pl.features.dataset import CachedDataset, StoredItems
from epic_pl.features.items import Images, Texts
from epic_pl.features.store.fill import SHARD_BYTES, default_root, fill_stores
from epic_pl.features.store.spec import StoredDtype
from epic_pl.module.epic_module import EPICModule, require_data
from epic_pl.nn.towers import CELLS, MEMORY, TOKENS, FeatureLevel
from epic_pl.utils.errors import CacheError, ConfigError, DataError, raised_as
from epic_pl.utils.share import ALL, Share
from epic_pl.utils.validate import check_at_least

Level = Literal["off", "auto", "tokens", "layers"]


class FeatureCache(Callback):
    """Fills feature stores before a run, and has the DataModule's loaders read them.

    Runs with the same encoders, layers and preprocessing share stored features. Ranks share the
    work.

    Args:
        level: "off"; "tokens": those that enter the first interaction layer, for any prompts;
            "layers": keys and values of every interaction layer, for read-only prompts; "auto": the
            most that the method can use, and nothing for augmented images.
        dtype: data type of the stored numbers: float32, bfloat16 or float16.
        folder: folder of the stores; None is ``features`` in the cache folder.
        batch_size: number of images or texts that are encoded at a time; None is 16 on a CPU, where
            larger batches are slower, else 64.
        threads: number of threads that decode images while the stores are filled.

    Raises:
        ConfigError: if the cache is incompatible with other options.
    """

    def __init__(
        self,
        level: Level = "off",
        dtype: StoredDtype = "float16",
        folder: str | None = None,
        batch_size: int | None = None,
        threads: int = 2,
    ) -> None:
        self.level: Level = level
        self.dtype = dtype
        self.root = default_root() if folder is None else Path(folder)
        self.batch_size = batch_size
        self.threads = threads
        check_at_least(1, **{"cache.batch_size": batch_size, "cache.threads": threads})

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Fill the stores of this stage's splits and have the DataModule read them."""
        if self.level == "off":
            return
        data = require_data(trainer, pl_module, "cache.level")
        assert isinstance(pl_module, EPICModule)
        level = self.level_for(pl_module, data)
        if self.level == "auto":
            run = f"{pl_module.method_name} with data.augment {data.augment}"
            rank_zero_info(f"cache.level auto is {level}, the most that {run} can read.")
        if level != "off":
            self._fill_on_ranks(trainer, pl_module, data, [stage])

    def level_for(
        self, module: EPICModule, data: ImageTextDataModule
    ) -> FeatureLevel | Literal["off"]:
        """The level at which features of a module and its data are stored."""
        if self.level != "auto":
            return self.level
        levels = module.model.cache_levels if data.augment == "none" else ()
        return levels[-1] if levels else "off"

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let the DataModule read images again, since another run may need other splits."""
        if self.level != "off" and (data := ImageTextDataModule.of(trainer)):
            data.use_features(None)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Let the DataModule read images again, since Lightning calls no teardown."""
        self.teardown(trainer, pl_module, "")

    def fill(
        self,
        module: EPICModule,
        data: ImageTextDataModule,
        *stages: str,
        share: Share = ALL,
        complete: bool = True,
        **options: Any,
    ) -> None:
        """Store the features that stages of ``data`` need, and let its loaders read them.

        Args:
            module: module whose encoders are run.
            data: data that is set up; its loaders will read the stores.
            *stages: ``fit``, ``validate``, ``test`` or ``predict``.
            share: share of the work that this process does.
            complete: whether ``barrier`` waits for all other shares; else no loader is changed.
            **options: ``progress`` and ``barrier`` of ``fill_stores``.

        Raises:
            ConfigError: augmentation is on, or the method cannot be trained from features of this
                level.
            DataError: an image cannot be read.
            CacheError: the stores cannot be written, or the disk has no room for all of them.
        """
        level = self.level_for(module, data)
        assert level != "off"
        splits = dict.fromkeys(split for stage in stages for split in STAGES[stage])
        if "train" in splits and data.augment != "none":
            raise ConfigError(
                f"data.augment is {data.augment!r}, but must be none unless cache.level is off."
            )
        datasets = [data.dataset(split) for split in splits]
        given = module.device, data, datasets, level, self.dtype
        images = Images(module.model.image_tower, *given, self.threads)
        texts = Texts(module.model.text_tower, *given)
        requests = [images.request(self.root), texts.request(self.root)]
        stores = fill_stores(
            self.root,
            requests,
            batch_size=self.batch_size or (16 if module.device.type == "cpu" else 64),
            shard_bytes=SHARD_BYTES,
            share=share,
            complete=complete,
            **options,
        )
        if not complete:
            return
        image_store, text_store = stores
        in_place = (MEMORY, TOKENS, CELLS) if _reads_in_place(module) else ()
        both = (
            StoredItems(image_store, images.keys, requests[0].hashes, in_place),
            # texts have different numbers of tokens, which the model reads as one tensor
            StoredItems(text_store, texts.keys, requests[1].hashes, in_place[:1]),
        )
        data.use_features(lambda dataset, processor: CachedDataset(dataset, *both, processor))

    def build_stores(
        self,
        trainer: L.Trainer,
        module: EPICModule,
        data: ImageTextDataModule,
        shard: str | None = None,
    ) -> None:
        """Store the features that all stages of ``data`` need, with the trainer's processes.

        Args:
            trainer: trainer whose devices, nodes and strategy, or launcher, determine the
                processes that share the work.
            module: module whose encoders are run.
            data: data that is not set up yet.
            shard: part of the work as ``i/n``, for jobs that do not wait for each other.

        Raises:
            ConfigError: the cache is off or incompatible with other options.
            DataError: a split cannot be read.
            CacheError: the stores cannot be written.
        """
        if self.level_for(module, data) == "off":
            raise ConfigError("There is nothing to store: set cache.level to tokens or layers.")
        launcher: Any = trainer.strategy.launcher
        if launcher is None:
            self._build(trainer, module, data, shard)
            return
        try:
            launcher.launch(self._build, trainer, module, data, shard)
        except BaseException:
            if hasattr(launcher, "kill"):  # else the processes that this one started wait forever
                launcher.kill(signal.SIGTERM)
            raise

    def _build(
        self, trainer: L.Trainer, module: EPICModule, data: ImageTextDataModule, shard: str | None
    ) -> None:
        """Do one process's share; `test` and `predict` are left out if they cannot be read."""
        trainer.strategy.setup_environment()
        if trainer.local_rank == 0:
            data.prepare_data()
        trainer.strategy.barrier("data is prepared")
        stages, reasons = [], []
        for stage in ("fit", "validate", "test", "predict"):
            try:
                data.setup(stage)
                for split in STAGES[stage]:
                    data.dataset(split)
                stages.append(stage)
            except DataError as error:
                if stage in ("fit", "validate"):
                    raise
                reasons.append(str(error))
        if reasons and trainer.is_global_zero:
            print(f"Not stored, since it cannot be read: {' '.join(dict.fromkeys(reasons))}")
        self._fill_on_ranks(trainer, module, data, stages, shard)

    def _fill_on_ranks(
        self,
        trainer: L.Trainer,
        module: EPICModule,
        data: ImageTextDataModule,
        stages: list[str],
        shard: str | None = None,
    ) -> None:
        def barrier() -> None:
            problem = "Another process ended while the features were stored"
            way_out = "See its own message, and run the command again to continue."
            with raised_as(CacheError, problem, way_out, RuntimeError):
                trainer.strategy.barrier("feature cache")

        # a trainer moves the module only after its setup hooks
        device = trainer.strategy.root_device
        module.check_device(device)
        module.to(device)
        self.fill(
            module,
            data,
            *stages,
            share=Share.of(shard, trainer.global_rank, trainer.world_size),
            complete=shard is None,
            progress=trainer.is_global_zero,
            barrier=barrier,
        )


def _reads_in_place(module: EPICModule) -> bool:
    """Whether the model can read lists of memory-mapped tensors."""
    return module.device.type == "cpu" and not module.hparams["compile"]
