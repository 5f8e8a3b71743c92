"""``benchmarks/many_tasks.py`` on tiny encoders."""

import json

import pytest

import many_tasks


def test_a_row_for_each_number_of_tasks(monkeypatch, capsys, tiny_vit_dir, tiny_tokenizer_dir):
    tiny = ["--image-encoder", str(tiny_vit_dir), "--text-encoder", str(tiny_tokenizer_dir)]
    tiny += ["--size", "32", "--tokens", "9", "--batch", "2", "--rounds", "1", "--threads", "1"]
    options = ["--tasks", "1,3", "--methods", "epic,parts", "--json"]
    monkeypatch.setattr("sys.argv", ["many_tasks.py", *tiny, *options])
    many_tasks.main()
    one, three = json.loads(capsys.readouterr().out)
    assert (one["tasks"], three["tasks"]) == (1, 3)
    assert one["share_of_further_task"] is None
    assert one["seconds"] > 0


def test_the_share_of_a_further_task_is_taken_within_rounds():
    one, five = [1.0, 2.0, 4.0], [1.4, 2.4, 8.0]
    assert many_tasks.share(five, one, 4) == pytest.approx([0.1, 0.05, 0.25])
