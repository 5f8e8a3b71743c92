"""Items encoded and packed, a batch at a time, as a store keeps them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from epic_pl.errors import CacheError
from epic_pl.features.layout import Layout
from epic_pl.features.store.codec import encode
from epic_pl.features.store.shard import Lengths, Packed

Produce = Callable[[Sequence[int]], tuple[Mapping[str, Tensor], Sequence[int] | Tensor | None]]
Pack = Callable[[Sequence[int]], Packed]


class Packer:
    """Packs what ``produce`` gives for positions in ``hashes``.

    Args:
        layout: of the store.
        hashes: names of the items, for messages.
        produce: see :func:`~epic_pl.features.builder.build`.
    """

    def __init__(self, layout: Layout, hashes: Sequence[str], produce: Produce) -> None:
        self._layout, self._hashes, self._produce = layout, hashes, produce

    def __call__(self, positions: Sequence[int]) -> Packed:
        """Records of these items.

        Raises:
            CacheError: what came does not fit the spec, or is not finite.
        """
        tensors, lengths = self._produce(positions)
        checked = self._checked(lengths, len(positions))
        names = [self._hashes[position] for position in positions]
        return *encode(self._layout, tensors, checked, names), checked

    def _checked(self, lengths: Sequence[int] | Tensor | None, batch: int) -> Lengths | None:
        if not self._layout.spec.ragged:
            return None
        if lengths is None or len(lengths) != batch:
            raise CacheError(f"A ragged store needs the lengths of all {batch} items of a batch.")
        numbers = np.asarray(lengths.cpu() if isinstance(lengths, Tensor) else lengths, np.int32)
        if numbers.min() < 1 or numbers.max() > self._layout.spec.max_tokens:
            raise CacheError(
                f"An item has from 1 to {self._layout.spec.max_tokens} tokens in this store, but "
                f"lengths from {numbers.min()} to {numbers.max()} came. Truncate the text, or "
                "give the fields a larger token axis."
            )
        return numbers
