"""Fills the stores of every split ahead of any run, in the processes that a trainer asks for."""

import signal
from typing import Any

import lightning as L

from epic_pl.callbacks.feature_cache import FeatureCache, to_device
from epic_pl.data import ImageTextDataModule
from epic_pl.errors import ConfigError, DataError
from epic_pl.module import EPICModule


def build_stores(trainer: L.Trainer, module: EPICModule, data: ImageTextDataModule) -> None:
    """Store what every stage of ``data`` needs; processes are started and placed as for ``fit``.

    Args:
        trainer: has the :class:`~epic_pl.callbacks.feature_cache.FeatureCache` among its callbacks.
            Its devices, nodes and strategy, or a launcher that it was started by, say how many
            processes share the work.
        module: whose encoders are run.
        data: not set up yet.

    Raises:
        ConfigError: if the cache is off or does not go with other options.
        DataError: if a split cannot be read.
        CacheError: if the stores cannot be written.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning
    cache = next(each for each in callbacks if isinstance(each, FeatureCache))
    if cache.level == "off":
        raise ConfigError(
            "There is nothing to store while cache.level is off: set it to boundary or layers, in "
            "the config or by --cache.level."
        )
    launcher = trainer.strategy.launcher
    if launcher is None:
        _fill(trainer, cache, module, data)
        return
    try:
        launcher.launch(_fill, trainer, cache, module, data)
    except BaseException:
        # processes that this one has started would wait for it
        kill = getattr(launcher, "kill", None)
        if kill is not None:
            kill(signal.SIGTERM)
        raise


def _fill(
    trainer: L.Trainer, cache: FeatureCache, module: EPICModule, data: ImageTextDataModule
) -> None:
    """One process's part."""
    strategy = trainer.strategy
    strategy.setup_environment()
    to_device(module, trainer)
    if trainer.local_rank == 0:
        data.prepare_data()
    strategy.barrier("data is prepared")
    cache.fill(
        module,
        data,
        *_stages(data, show=trainer.is_global_zero),
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        barrier=lambda: strategy.barrier("feature cache"),
    )


def _stages(data: ImageTextDataModule, show: bool) -> list[str]:
    """Set up all stages and name them; `test` and `predict` may be left out, with their reason.

    Raises:
        DataError: training or validation cannot be set up.
    """
    stages, reasons = ["fit", "validate"], []
    for stage in stages:
        data.setup(stage)
    for stage in ("test", "predict"):
        try:
            data.setup(stage)
            stages.append(stage)
        except DataError as error:
            reasons.append(str(error))
    if show and reasons:
        print(f"Not stored, since it cannot be read: {' '.join(dict.fromkeys(reasons))}")
    return stages
