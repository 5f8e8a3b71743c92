"""An estimate of how long training will take, from a short trial on some of its rows."""

import time
from itertools import pairwise
from typing import Any, cast

import lightning as L
import torch

from epic_pl.data import ImageTextDataModule
from epic_pl.module.callbacks import FeatureCache
from epic_pl.module.epic_module import EPICModule
from epic_pl.utils.errors import counted
from epic_pl.utils.types import Batch

_ROWS = 16  # maximum number of rows of the trial
_UNITS = ((3600, "hours"), (60, "minutes"), (1, "seconds"))


def estimate(
    module: EPICModule, data: ImageTextDataModule, trainer: L.Trainer, runs: int = 1
) -> str:
    """How long all epochs of all runs will take on the trainer's device, and how to shorten it.

    Up to 16 training rows are read, encoded and trained on; the module's weights and statistics
    stay as they are. If the trainer's feature cache is on, an image is encoded once in all
    ``runs``, else in every epoch.

    Args:
        module: the module that will be trained; it is moved to the device.
        data: its data, which is set up for ``fit``.
        trainer: the trainer, whose device, number of epochs and feature cache count.
        runs: number of runs, such as those of a comparison.

    Raises:
        DataError: if the data cannot be read.
        ConfigError: if the method cannot be trained from features of the cache's level.
    """
    data.prepare_data()
    data.setup("fit")
    module.check_device(device := trainer.strategy.root_device)
    module.to(device)
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning's
    caches = (part for part in callbacks if isinstance(part, FeatureCache))
    level = next((part.level_for(module, data) for part in caches), "off")
    train, val, mode = data.dataset("train"), data.dataset("val"), module.training
    module.eval()  # else the statistics of training would begin with rows of the trial
    for rows in (1, min(_ROWS, data.batch_size_per_device, len(train))):  # the first call is slow
        image_s, text_s, step_s = _trial(module, data, level, rows)
    module.train(mode)
    module.zero_grad()
    images, texts = (len({*a, *b}) for a, b in zip(train.distinct(), val.distinct(), strict=True))
    encoding_s = (images * image_s + texts * text_s) / trainer.world_size
    # validation has no backward pass, a third of a step
    epoch_s = step_s * (len(train) + len(val) / 3) / trainer.world_size
    epochs = max(trainer.max_epochs or 1, 1)
    (run_s, run), (encoding_s, encoding) = map(_rounded, (epochs * epoch_s, encoding_s))
    work = f"{run} for {counted(epochs, 'epochs')}{f' in each of {runs} runs' * (runs > 1)}"
    way = f"smaller images (--model.encoders.image_size, here {data.image_preprocessing.size})"
    if level != "off":
        items = f"{counted(images, 'images')} ({1 / image_s:,.1f}/s) and {counted(texts, 'texts')}"
        work = f"{encoding} to encode {items} once, then {work}"
    elif module.model.cache_levels:
        way = f"stored features (--cache.level {module.model.cache_levels[-1]})"
    _, total = _rounded(encoding_s + runs * run_s)  # of what is shown, so that it adds up
    total += f" in all ({device.type}), without starting{' and testing the runs' * (runs > 1)}"
    return f"about {total}: {work}. Shorter with {way} or fewer epochs (--trainer.max_epochs)."


def _trial(module: EPICModule, data: ImageTextDataModule, level: Any, rows: int) -> list[float]:
    """Seconds of a row: its image read and encoded, its text encoded, and a training step.

    If features are not stored, the step does it all.
    """
    train, towers, ticks = data.dataset("train"), module.model.towers, [_now()]
    samples = [train[len(train) * part // rows] for part in range(rows)]
    given = module.transfer_batch_to_device(data.processor.collate(samples), module.device, 0)
    batch = cast(dict[str, Any], given)
    if level != "off":
        batch["image_features"] = towers.image.features(batch["pixel_values"], None, level)
        ticks.append(_now())
        mask = batch["attention_mask"].bool()
        batch["text_features"] = towers.text.features(batch["input_ids"], mask, level)
        ticks.append(_now())
    module.model(cast(Batch, batch)).logits.sum().backward()
    ticks = [ticks[0]] * (3 - len(ticks)) + [*ticks, _now()]
    return [(end - start) / rows for start, end in pairwise(ticks)]


def _now() -> float:
    """The time in seconds when the device has done all its work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def _rounded(seconds: float) -> tuple[int, str]:
    """A duration in whole seconds, or from two on in minutes or hours, as seconds and in words."""
    size, unit = next(pair for pair in _UNITS if seconds >= 2 * pair[0] or pair[0] == 1)
    count = max(round(seconds / size), int(seconds > 0))
    return count * size, counted(count, unit)
