"""A process that fills a store slowly: FOLDER RANK WORLD_SIZE PAUSE [together]."""

import itertools
import sys
import time
from pathlib import Path

from cache_items import Items

root, rank, world_size, pause, *together = sys.argv[1:]
items = Items(60, ragged=True)
produce = items.produce


def produce_slowly(positions):
    time.sleep(float(pause))
    return produce(positions)


calls = itertools.count()


def wait_for_all():
    call = next(calls)
    Path(f"{root}-{call}-{rank}").touch()
    while not all(Path(f"{root}-{call}-{each}").exists() for each in range(int(world_size))):
        time.sleep(0.01)


items.produce = produce_slowly
options = {"barrier": wait_for_all} if together else {}
options |= {"rank": int(rank), "world_size": int(world_size)}
items.build(Path(root), batch_size=4, shard_bytes=12 * 1024, **options)
print("produced", len(items.asked))
