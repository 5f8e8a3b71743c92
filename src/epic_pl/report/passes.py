"""Further passes over the batches of a finished test."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, cast

import lightning as L
from torch import Tensor

from epic_pl.module import EPICModule
from epic_pl.nn.heads import Output


def tested_batches(
    trainer: L.Trainer, module: EPICModule
) -> Iterator[tuple[Any, Callable[..., Tensor]]]:
    """Each batch of the finished test, and a function from changed entries of it to its logits.

    Device, precision, number of batches and the use of stored features are those of the test.
    """
    plugin, loader = trainer.precision_plugin, cast(Any, trainer.test_dataloaders)

    def logits(batch: Any, **changed: Any) -> Tensor:
        with plugin.forward_context():
            output: Output = module({**batch, **changed})
        return output.logits.float().cpu()

    for batch in islice(loader, int(trainer.num_test_batches[0])):
        given: Any = trainer.strategy.batch_to_device(plugin.convert_input(batch))
        yield given, partial(logits, given)
