"""``epic-pl app`` up to the point where it would wait for Ctrl+C."""

import pytest

from epic_pl.inference.serving import page


def test_the_page_is_opened_on_this_machine_alone(trained, told, monkeypatch):
    pytest.importorskip("gradio")
    from gradio import Blocks

    opened = []
    monkeypatch.setattr(
        page,
        "open_page",
        lambda blocks, *place: opened.append((blocks.title, *place)) or "http://x/",
    )
    monkeypatch.setattr(Blocks, "block_thread", lambda self: None)
    code, printed, error = told("app", "runs")
    assert code == 0, error
    assert opened == [("runs", "127.0.0.1", 7860)]
    assert "runs is on http://x/ until Ctrl+C." in printed
