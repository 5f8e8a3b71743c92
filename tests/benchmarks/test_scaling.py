"""``benchmarks/scaling.py``: an axis on tiny encoders, and runs that are cut short."""

import json

import pytest

ROW = {
    "method": "epic_joint",
    "device": "some",
    "samples_per_s": 8.0,
    "peak_memory_mb": 5.0,
    "trainable": 1000,
    "cache_bytes_per_sample": 10,
}


@pytest.fixture
def main(monkeypatch):
    """Runs the script with arguments; gives the exit code or message."""
    import scaling

    def main(*arguments):
        monkeypatch.setattr("sys.argv", ["scaling.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            scaling.main()
        return stop.value.code

    return main


@pytest.mark.slow
def test_an_axis_is_measured(main, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir, tmp_path, capsys):
    monkeypatch.setattr("scaling.VARIED", {"prompts": [1, 3]})
    bert = str(tiny_tokenizer_dir)
    tiny = ["--image-encoder", str(tiny_vit_dir), "--text-encoder", bert, "--tokenizer", bert]
    tiny += ["--model", '{"epic": {"interaction_layers": 2}}', "--batch", "2", "--rows", "4"]
    plot = tmp_path / "images" / "scaling.png"
    assert main(*tiny, "--seconds", "0", "--steps", "1", "--json", "--plot", str(plot)) == 0
    one, three = json.loads(capsys.readouterr().out)
    assert (one["varied"], one["value"], three["value"]) == ("prompts", 1, 3)
    assert one["trainable"] < three["trainable"]
    assert one["cache_bytes_per_sample"] == three["cache_bytes_per_sample"] > 0
    assert plot.stat().st_size > 1000


def test_each_setting_is_measured_once(main, monkeypatch):
    settings = []
    monkeypatch.setattr("scaling.measure", lambda *given: settings.append(given[1]) or ROW)
    assert main() == 0
    assert len(settings) == len(set(settings)) == 15
    assert all(512 >= setting.rows >= setting.batch for setting in settings)


@pytest.mark.parametrize(
    ("trouble", "code"), [(KeyboardInterrupt(), 130), (SystemExit("no room"), "no room")]
)
def test_points_before_a_failure_are_printed_and_drawn(
    trouble, code, main, monkeypatch, capsys, tmp_path
):
    def measure(method, setting, model, more):
        if setting.batch == 64:
            raise trouble
        return ROW

    monkeypatch.setattr("scaling.measure", measure)
    plot = tmp_path / "scaling.png"
    assert main("--vary", "batch", "--json", "--plot", str(plot)) == code
    assert [row["value"] for row in json.loads(capsys.readouterr().out)] == [4, 16]
    assert plot.stat().st_size > 1000


def test_unknown_names_are_refused(main):
    assert main("--vary", "layers,depth").startswith("Cannot vary depth; choose from layers, ")
    assert main("--method", "epic").startswith("No method epic; there are: full, ")
