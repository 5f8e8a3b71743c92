"""``benchmarks/serve.py`` on a tiny model."""

import asyncio

import pytest

import serve


@pytest.mark.slow
def test_requests_of_all_clients_are_timed_and_counted(trained):
    with serve.served("runs") as (address, process):
        times, counts = asyncio.run(serve.load(address, 2, 2))
        assert serve.memory_mb(process) > 0
    assert process.returncode == 0
    assert len(times) == counts["200"] == counts.total() > 2
