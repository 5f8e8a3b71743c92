"""``benchmarks/absent.py``: what is trained with, and the report it reads, on tiny encoders."""

import json

import pytest

import tiny_runs

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


@pytest.mark.slow
def test_four_trainings_are_judged_by_what_is_absent(
    absent, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    tiny_runs.table(tmp_path)
    config = tiny_runs.table_config(tmp_path, tiny_vit_dir, tiny_tokenizer_dir)
    fits = []
    run = absent.run

    def noted(options):
        cli = run(options)
        if options[0] == "fit":
            fits.append(cli)
        return cli

    monkeypatch.setattr(absent, "run", noted)
    arguments = ["--config", str(config), "--seeds", "1", "--dropout", "0.6", "--json"]
    monkeypatch.setattr("sys.argv", ["absent.py", *arguments])
    absent.main()
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["condition"] for row in rows] == 4 * CONDITIONS
    assert all(0 <= row["accuracy"] <= 100 for row in rows)
    trained = [
        (
            cli.model.hparams["modality_dropout"],
            cli.model.hparams["missing_aware_head"],
            cli.trainer.max_epochs,
        )
        for cli in fits
    ]
    assert trained == [(0.0, False, 2), (0.6, False, 2), (0.6, True, 2), (0.6, True, 4)]
