"""``benchmarks/serve.py`` on a tiny model."""

import asyncio

import pytest

import serve


@pytest.mark.slow
def test_good_and_bad_requests_are_told_apart(trained):
    with serve.served("runs") as (address, process):
        times, counts = asyncio.run(serve.load(address, 2, 2, bad_share=0.5))
        assert serve.memory_mb(process) > 0
    assert process.returncode == 0
    assert len(times) == counts["good 200"] > 0
    bad = counts.total() - counts["good 200"]
    assert bad == sum(counts[f"bad {status} with a reason"] for status in (413, 422)) > 0
