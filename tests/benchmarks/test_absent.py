"""``benchmarks/absent.py``: what is trained with, and the report it reads, on tiny encoders."""

import json

import pytest

import tiny_runs
from epic_pl.experiments.compare.plan import parsed_options

CONDITIONS = [
    "as it is",
    "picture only",
    "text only",
    "30% lack one",
    "50% lack one",
    "70% lack one",
]


@pytest.fixture
def absent():
    import absent

    return absent


@pytest.fixture
def config(tiny_vit_dir, tiny_tokenizer_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_runs.table(tmp_path)
    return ["--config", str(tiny_runs.table_config(tmp_path, tiny_vit_dir, tiny_tokenizer_dir))]


def test_what_is_trained(absent, config):
    trained = []
    for entry in absent.trainings_of("0.6", "[[0,0],[1,1]]", 64, config):
        options = parsed_options([*config, *entry.options])
        model = options["model"]
        trained.append(
            (
                model["modality_dropout"],
                model["missing_aware_head"],
                options["trainer"]["max_epochs"],
                model["interaction_layers"],
                model["image_size"] == 64,
            )
        )
    more = [[0, 0], [1, 1]]
    assert trained == [
        (0.0, False, 2, 2, False),
        (0.6, False, 2, 2, False),
        (0.6, True, 2, 2, False),
        (0.6, True, 4, 2, False),
        (0.6, True, 4, more, False),
        (0.0, True, 4, more, False),
        (0.6, True, 4, more, True),
        (0.0, True, 4, more, True),
    ]


@pytest.mark.slow
def test_a_training_is_judged_by_what_is_absent(absent, config, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    all_of_them = absent.trainings_of

    def a_pair(*arguments):
        return dict(list(all_of_them(*arguments).items())[4:6])

    monkeypatch.setattr(absent, "trainings_of", a_pair)
    arguments = [*config, "--seeds", "1", "--layers", "[[0,0],[1,1]]", "--json"]
    monkeypatch.setattr("sys.argv", ["absent.py", *arguments])
    absent.main()
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["condition"] for row in rows] == 2 * CONDITIONS
    assert all(0 <= row["accuracy"] <= 100 for row in rows)
    reports = list(tmp_path.glob("runs/absent/runs/*/report/report.json"))
    assert [len(json.loads(each.read_text())["absence"]) for each in reports] == 2 * [6]


def test_what_is_lost_is_of_the_own_complete_samples(absent):
    rows = [
        {"training": training, "condition": condition, "accuracy": accuracy}
        for training, accuracies in {"a": (80.0, 50.0, 72.0), "b": (70.0, 60.0, 54.0)}.items()
        for condition, accuracy in zip(
            ("as it is", "picture only", "70% lack one"), accuracies, strict=True
        )
    ]
    assert absent.points_lost(rows) == {"a": 8.0, "b": 16.0}
