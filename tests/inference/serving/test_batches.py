"""``Batches`` without a server: what arrives while a batch is classified is the next batch."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from prometheus_client import CollectorRegistry

from epic_pl.inference.serving.batches import Batches


def test_a_batch_has_at_most_so_many_samples_and_none_that_is_given_up(fake_model):
    free = threading.Event()
    model = fake_model(lambda texts: "hold" not in texts or free.wait(20))

    async def ask(thread):
        batches = Batches(model, 4, CollectorRegistry(), thread)
        run = asyncio.create_task(batches.run())
        asked = [asyncio.create_task(batches.labels({"text": "hold"}, None))]
        while not model.batches:
            await asyncio.sleep(0.001)
        asked += [asyncio.create_task(batches.labels({"text": text}, None)) for text in "abcdefg"]
        await asyncio.sleep(0)
        for number in (2, 6):
            asked[number].cancel()
        await asyncio.sleep(0)
        free.set()
        await asyncio.gather(*asked, return_exceptions=True)
        run.cancel()

    with ThreadPoolExecutor(1) as thread:
        asyncio.run(ask(thread))
    assert model.batches == [["hold"], ["a", "c", "d"], ["e", "g"]]
