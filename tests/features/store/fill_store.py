"""A process that fills a store slowly, to be killed: FOLDER RAGGED COUNT RANK WORLD_SIZE PAUSE."""

import sys
import time
from pathlib import Path

from cache_items import Items, build_one


def main(root: str, ragged: str, count: str, rank: str, world_size: str, pause: str) -> None:
    items = Items(int(count), ragged == "ragged")

    def produce(positions):
        time.sleep(float(pause))
        return items.produce(positions)

    build_one(
        Path(root),
        items.spec(),
        items.hashes,
        produce,
        batch_size=4,
        shard_bytes=12 * 1024,
        rank=int(rank),
        world_size=int(world_size),
        progress=True,
    )
    print("produced", len(items.asked))


if __name__ == "__main__":
    main(*sys.argv[1:])
