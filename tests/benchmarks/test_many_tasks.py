"""``benchmarks/many_tasks.py`` on tiny encoders."""

import json

import many_tasks


def test_a_row_for_each_number_of_tasks(monkeypatch, capsys, tiny_vit_dir, tiny_tokenizer_dir):
    tiny = ["--image-encoder", str(tiny_vit_dir), "--text-encoder", str(tiny_tokenizer_dir)]
    tiny += ["--size", "32", "--tokens", "9", "--batch", "2", "--rounds", "1", "--threads", "1"]
    options = ["--tasks", "1,3", "--methods", "EPIC,Parts", "--json"]
    monkeypatch.setattr("sys.argv", ["many_tasks.py", *tiny, *options])
    many_tasks.main()
    one, three = json.loads(capsys.readouterr().out)
    assert (one["tasks"], three["tasks"]) == (1, 3)
    assert one["share_of_further_task"] == ""
    assert one["seconds"] > 0


def test_the_share_of_a_further_task_is_taken_within_rounds():
    one, five = [1.0, 2.0, 4.0], [1.4, 2.4, 8.0]
    assert many_tasks.share(five, one, 4) == "10.0% (5.0% to 25.0%)"
