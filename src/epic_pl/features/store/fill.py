"""Filling of stores: any number of processes, also killed and restarted, write the same bytes."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.filesize import decimal
from rich.progress import Progress
from torch import Tensor

from epic_pl.features.store.reader import FeatureStore, Indices
from epic_pl.features.store.shard import digests_of, encode, open_shard, shard_name, write_shard
from epic_pl.features.store.spec import SPEC, StoreSpec
from epic_pl.nn.towers import TOKENS
from epic_pl.utils.assets import cache_dir
from epic_pl.utils.errors import CacheError
from epic_pl.utils.files import free_bytes, write_json
from epic_pl.utils.share import ALL, Share

SHARD_BYTES = 128_000_000
_SHARD_ITEMS = 8192  # maximum number of items, some minutes of encoding that a kill would lose
_SLACK = 64_000_000  # bytes of disk space that stay free

Produce = Callable[[Any], tuple[Mapping[str, Tensor], Tensor | None]]


def default_root() -> Path:
    """The default folder of all stores."""
    return cache_dir() / "features"


@dataclass(frozen=True)
class StoreRequest:
    """The items that a store must hold, and the functions that encode them.

    Attributes:
        spec: description of the store.
        hashes: a string for each item that depends on its content; repeated ones are stored once.
        produce: function that encodes the output of ``prepare``. It returns for each field a
            floating-point tensor ``(B, *shape)``, padded to the longest item of the batch in ragged
            stores, and then the B lengths, else None. It must depend on the items only.
        mean_tokens: mean length of a ragged store's items, to estimate its size; None assumes the
            maximum length.
        prepare: function that reads the items at B positions of ``hashes`` as encoder inputs.
        prefetch: whether a thread prepares the next batch while one is encoded.
        layer: layer at which the encoding begins, from stored tokens; None encodes the items.
    """

    spec: StoreSpec
    hashes: Sequence[str]
    produce: Produce
    mean_tokens: float | None = None
    prepare: Callable[[Sequence[int]], Any] = list
    prefetch: bool = True
    layer: int | None = None

    def missing(self, root: Path, shard_bytes: int) -> dict[int, Indices]:
        """Positions in ``hashes`` of the items that the store lacks, by the number of their shard.

        These numbers do not depend on shards that other processes have written meanwhile.
        """
        digests = digests_of(self.hashes)
        items = np.sort(np.unique(digests, return_index=True)[1])  # first position of each item
        new = np.arange(len(items))
        with suppress(CacheError):  # there is no store yet, or its description is rewritten
            stored = FeatureStore(self.spec.folder(root), wanted=self.hashes)
            new = new[~np.isin(digests[items], stored.digests)]
        size = min(max(1, shard_bytes // self.spec.nbytes(1)), _SHARD_ITEMS)
        shards = (new[start : start + size] for start in range(0, len(new), size))
        return {int(shard[0]) // size: items[shard] for shard in shards}

    def open(self, root: Path) -> FeatureStore | None:
        """A store with all items and fields: of this spec, or of one that :meth:`serves` it."""
        others = (path.parent for path in sorted(root.glob(f"{self.spec.modality}-*/{SPEC}")))
        for folder in dict.fromkeys([self.spec.folder(root), *others]):
            with suppress(CacheError):  # the store is missing, or of another version
                if StoreSpec.read(folder).serves(self.spec):
                    store = FeatureStore(folder, self.spec.fields, self.hashes)
                    if (store.find(self.hashes) >= 0).all():
                        return store
        return None


def earlier_tokens(root: Path, spec: StoreSpec, hashes: Sequence[str]) -> FeatureStore | None:
    """A store with the tokens of all items that lead to a spec's fields, of the latest layer."""
    sources = []
    for path in sorted(root.glob(f"{spec.modality}-*/{SPEC}")):
        with suppress(CacheError):  # of another version, or removed meanwhile
            other = StoreSpec.read(path.parent)
            if other.key != spec.key and other.leads_to(spec):
                tokens = [field for field in other.fields if field.name == TOKENS]
                store = FeatureStore(path.parent, tokens, hashes)
                if (store.find(hashes) >= 0).all():
                    sources.append(store)
    return max(sources, key=lambda store: store.spec.first_layer, default=None)


def fill_stores(
    root: Path,
    requests: Sequence[StoreRequest],
    *,
    batch_size: int = 64,
    shard_bytes: int = SHARD_BYTES,
    share: Share = ALL,
    complete: bool = True,
    progress: bool = True,
    barrier: Callable[[], None] = lambda: None,
) -> list[FeatureStore]:
    """Fill stores with the items that they lack, and open them.

    Stored items are kept; new items go to new files, in the order in which they are first given.
    The bytes depend only on the spec, the items, ``batch_size`` and ``shard_bytes``, not on the
    number of processes or on how often they were killed.

    Args:
        root: folder of all stores, which all ranks must share.
        requests: a request for each store. Their total size is compared with the free disk first.
        batch_size: number of items that are encoded at a time.
        shard_bytes: maximum size of a file, which has at most 8,192 items.
        share: share of the shards that this process writes.
        complete: whether ``barrier`` waits for all other shares.
        progress: whether to print the estimated size and a progress bar.
        barrier: called by each process before anything is written, and when all stores are
            complete.

    Raises:
        CacheError: if too little disk is free, a store cannot be written, or a number is not finite
            after conversion.
    """
    todo = [(each, each.missing(root, shard_bytes)) for each in requests if not each.open(root)]
    _require_disk(root, todo, progress)
    barrier()
    for request, missing in todo:
        folder = request.spec.folder(root)
        own = [missing[number] for number in missing if number % share.count == share.index]
        try:
            _write(folder, request, own, batch_size, progress)
        except OSError as error:
            failed = str(error.filename)
            if str(root) not in failed and failed not in map(str, root.parents):
                raise  # an error of `produce`, such as a missing image
            raise CacheError(
                f"The feature store {folder} could not be written ({error}). Free some space, or "
                "choose another cache.folder or EPIC_PL_CACHE, and go on: what is written is kept."
            ) from error
    barrier()
    if progress and not complete:
        for request in requests:
            lacking = sum(map(len, request.missing(root, shard_bytes).values()))
            print(f"{request.spec.modality} features: {lacking:,} still missing", flush=True)
    stores = [store for request in requests if (store := request.open(root))]
    if complete and len(stores) < len(requests):
        raise CacheError(f"The feature stores in {root} were changed meanwhile: start again.")
    return stores


def _write(
    folder: Path, request: StoreRequest, shards: list[Indices], batch_size: int, show: bool
) -> None:
    """Write the shards of this share that are not written yet."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        StoreSpec.read(folder)
    except CacheError:
        write_json(folder / SPEC, request.spec.to_json())
    digests = digests_of(request.hashes)
    with Progress(console=Console(file=sys.stderr), disable=not show) as bar:
        task = bar.add_task(f"{request.spec.modality} features", total=sum(map(len, shards)))
        for positions in shards:
            path = folder / shard_name(digests[positions])
            if open_shard(path, request.spec, request.spec.fields):
                bar.advance(task, len(positions))
                continue
            batches = []
            for chosen, prepared in _prepared(request, positions, batch_size):
                names = [request.hashes[position] for position in chosen]
                batches.append(encode(request.spec, *request.produce(prepared), names))
                bar.advance(task, len(chosen))
            write_shard(path, request.spec, digests[positions], batches)


def _prepared(
    request: StoreRequest, positions: Indices, batch_size: int
) -> Iterator[tuple[list[int], Any]]:
    """Yield batches of positions with their prepared inputs."""
    starts = range(0, len(positions), batch_size)
    batches = [positions[start : start + batch_size].tolist() for start in starts]
    if not request.prefetch:
        yield from ((batch, request.prepare(batch)) for batch in batches)
        return
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(request.prepare, batches[0])
        for batch, following in zip(batches, [*batches[1:], None], strict=True):
            prepared = ahead.result()
            if following is not None:
                ahead = thread.submit(request.prepare, following)
            yield batch, prepared


def _require_disk(
    root: Path, todo: Sequence[tuple[StoreRequest, dict[int, Indices]]], show: bool
) -> None:
    """Check that the free disk is large enough for all missing items."""
    if not todo:
        return
    parts, needed = [], 0
    for request, missing in todo:
        items = sum(map(len, missing.values()))
        size = request.spec.nbytes(items, request.mean_tokens)
        needed += size
        origin = "" if request.layer is None else f", from stored tokens of layer {request.layer}"
        what = f"{request.spec.modality} features of {items:,} items{origin}"
        parts.append(f"{what}, about {decimal(size)}")
    free, what = free_bytes(root), f"{' and '.join(parts)}, in {root}"
    if needed + _SLACK > free:
        raise CacheError(
            f"Caching {what} needs {decimal(needed)}, and {decimal(_SLACK)} must stay free, but "
            f"only {decimal(free)} are. Choose another level, cache.dtype (now "
            f"{todo[0][0].spec.dtype}), cache.folder or EPIC_PL_CACHE, or remove stores: `epic-pl "
            "cache info` lists them."
        )
    if show:
        print(f"Caching {what}; {decimal(free)} are free", flush=True)
