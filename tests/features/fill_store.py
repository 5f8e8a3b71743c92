"""A process that fills a store slowly, to be killed: FOLDER RAGGED COUNT RANK WORLD_SIZE PAUSE."""

import sys
import time
from pathlib import Path

from cache_items import Items

from epic_pl.features import build


def main(root: str, ragged: str, count: str, rank: str, world_size: str, pause: str) -> None:
    items = Items(int(count), ragged == "ragged")

    def produce(positions):
        time.sleep(float(pause))
        return items.produce(positions)

    build(
        Path(root),
        items.spec(),
        items.hashes,
        produce,
        batch_size=4,
        shard_bytes=12 * 1024,
        rank=int(rank),
        world_size=int(world_size),
    )
    print("produced", len(items.asked))


if __name__ == "__main__":
    main(*sys.argv[1:])
