"""``benchmarks/scaling.py``: an axis on tiny encoders, and what a run that is cut short tells."""

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
def scaling():
    import scaling

    return scaling


@pytest.fixture
def main(scaling, monkeypatch):
    """Runs it with arguments; the exit code, or what is said instead."""

    def main(*arguments):
        monkeypatch.setattr("sys.argv", ["scaling.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            scaling.main()
        return stop.value.code

    return main


@pytest.fixture
def measured(scaling, monkeypatch):
    """Settings that were measured; none is, until a test says what its row is."""
    settings = []

    def measure(method, setting, model, more):
        settings.append(setting)
        return ROW

    monkeypatch.setattr(scaling, "measure", measure)
    return settings


@pytest.mark.slow
def test_an_axis_is_measured(
    main, scaling, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir, tmp_path, capsys
):
    monkeypatch.setattr(scaling, "VARIED", {"prompts": [1, 3]})
    bert = str(tiny_tokenizer_dir)
    tiny = ["--image-encoder", str(tiny_vit_dir), "--text-encoder", bert, "--tokenizer", bert]
    tiny += ["--model", '{"epic": {"interaction_layers": 2}}', "--batch", "2", "--rows", "4"]
    plot = tmp_path / "images" / "scaling.png"
    assert main(*tiny, "--seconds", "0", "--steps", "1", "--json", "--plot", str(plot)) == 0
    said = capsys.readouterr()
    one, three = json.loads(said.out)
    assert (one["varied"], one["value"], three["value"]) == ("prompts", 1, 3)
    assert one["trainable"] < three["trainable"]
    assert one["cache_bytes_per_sample"] == three["cache_bytes_per_sample"] > 0
    assert one["ms_per_step"] == pytest.approx(2000 / one["samples_per_s"])
    assert [text.split(":")[0] for text in said.err.splitlines()] == ["prompts n 1", "prompts n 3"]
    assert plot.stat().st_size > 1000


def test_the_point_in_common_is_measured_once_and_stores_stay_small(main, measured, capsys):
    assert main() == 0
    assert len(measured) == len(set(measured)) == 15
    assert max(setting.rows for setting in measured) == 512
    assert {s.rows for s in measured if s.batch < 256} == {64, 256, 512}
    assert all(setting.rows >= setting.batch for setting in measured)
    assert len(capsys.readouterr().err.splitlines()) == 19


@pytest.mark.parametrize(
    ("trouble", "code"), [(KeyboardInterrupt(), 130), (SystemExit("no room"), "no room")]
)
def test_what_was_measured_before_trouble_is_told_and_drawn(
    trouble, code, main, scaling, monkeypatch, capsys, tmp_path
):
    def measure(method, setting, model, more):
        if setting.batch == 64:
            raise trouble
        return ROW

    monkeypatch.setattr(scaling, "measure", measure)
    plot = tmp_path / "scaling.png"
    assert main("--vary", "batch", "--json", "--plot", str(plot)) == code
    assert [row["value"] for row in json.loads(capsys.readouterr().out)] == [4, 16]
    assert plot.stat().st_size > 1000


def test_names_that_are_not_there_are_refused(main, measured):
    assert main("--vary", "layers,depth").startswith("Cannot vary depth; choose from layers, ")
    assert main("--method", "epic").startswith("No method epic; there are: full, ")
    assert not measured
