"""``epic-pl app`` up to the point where it would wait for Ctrl+C."""

from types import SimpleNamespace

from epic_pl.inference.serving import page


def test_the_builtis_opened_on_this_machine_alone(trained, told, monkeypatch):
    opened, blocks = [], SimpleNamespace(block_thread=lambda: opened.append("waits"))

    def build(classifier, title):
        opened.append((classifier.class_names, title))
        return blocks

    monkeypatch.setattr(page, "build_page", build)
    monkeypatch.setattr(page, "open_page", lambda *given: opened.append(given) or "http://x/")
    code, printed, error = told("app", "runs")
    assert code == 0, error
    built = (["blue", "green", "red"], "runs")
    assert opened == [built, (blocks, "127.0.0.1", 7860), "waits"]
    assert "runs is on http://x/ until Ctrl+C." in printed
