"""``Batches`` without a server: what arrives while a batch is classified is the next batch."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry

from epic_pl.inference.serving.batches import Batches


@pytest.fixture
def ask(fake_model):
    """Answers to texts that are all queued while a first text is classified, and the batches."""

    def ask(texts, cancelled=()):
        free = threading.Event()

        def classify(batch):
            assert "hold" not in batch or free.wait(20)
            if "bad" in batch:
                raise RuntimeError("unforeseen")

        model = fake_model(classify)

        async def answers():
            batches = Batches(model, 4, CollectorRegistry(), thread)
            run = asyncio.create_task(batches.run())

            def asked(text):
                return asyncio.create_task(batches.labels({"text": text}, None))

            first = asked("hold")
            while not model.batches:
                await asyncio.sleep(0.001)
            queued = [asked(text) for text in texts]
            await asyncio.sleep(0)
            for text in cancelled:
                queued[texts.index(text)].cancel()
            await asyncio.sleep(0)
            free.set()
            found = await asyncio.gather(first, *queued, return_exceptions=True)
            run.cancel()
            return found[1:]

        with ThreadPoolExecutor(1) as thread:
            return asyncio.run(answers()), model.batches[1:]

    return ask


def test_a_sample_that_fails_spoils_no_other_of_its_batch(ask):
    answers, batches = ask(["a", "bad", "b"])
    assert batches == [["a", "bad", "b"], ["a"], ["bad"], ["b"]]
    assert [answers[0], answers[2]] == [[{"label": text, "score": 0.5}] for text in "ab"]
    assert str(answers[1]) == "unforeseen"


def test_a_batch_has_at_most_so_many_samples_and_none_that_is_given_up(ask):
    _, batches = ask([*"abcdefg"], cancelled=["b", "f"])
    assert batches == [["a", "c", "d"], ["e", "g"]]
