"""A process that fills a store slowly: FOLDER RAGGED COUNT RANK WORLD_SIZE PAUSE [together]."""

import sys
import time
from pathlib import Path

from cache_items import Items


def main(
    root: str, ragged: str, count: str, rank: str, world_size: str, pause: str, start: str = ""
) -> None:
    items = Items(int(count), ragged == "ragged")
    produce = items.produce

    def produce_slowly(positions):
        time.sleep(float(pause))
        return produce(positions)

    def wait_for_all():
        Path(f"{root}-rank-{rank}").touch()
        while not all(Path(f"{root}-rank-{number}").exists() for number in range(int(world_size))):
            time.sleep(0.01)

    items.produce = produce_slowly
    options = {"rank": int(rank), "world_size": int(world_size)}
    if start == "together":
        options["barrier"] = wait_for_all
    items.build(Path(root), batch_size=4, shard_bytes=12 * 1024, **options)
    print("produced", len(items.asked))


if __name__ == "__main__":
    main(*sys.argv[1:])
