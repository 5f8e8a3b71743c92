"""``benchmarks/folds.py``: options judged on folds, on a fabricated OpenMoji and tiny encoders."""

import json

import numpy as np
import pytest

import tiny_openmoji


@pytest.fixture
def folds():
    import folds

    return folds


@pytest.mark.slow
def test_each_fold_and_seed_is_trained_and_judged(
    folds, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir, tmp_path, capsys
):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tiny_openmoji.fill_cache(tmp_path)
    tiny = [f"--model.image_encoder={tiny_vit_dir}", f"--model.text_encoder={tiny_tokenizer_dir}"]
    tiny += ["--model.image_size=32", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    seen = []
    run = folds.run
    monkeypatch.setattr(folds, "run", lambda options: seen.append(run(options)) or seen[-1])
    monkeypatch.setattr("sys.argv", ["folds.py", "--folds", "0,2", "--seeds", "2", "--json", *tiny])
    folds.main()
    given = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert given["folds"] == [0, 2]
    assert np.shape(given["accuracy"]) == (2, 2)
    tested = [
        [row["sample_id"] for row in map(cli.datamodule.dataset("test").__getitem__, range(3))]
        for cli in seen
    ]
    assert tested[0] == tested[1]
    assert tested[0] != tested[2]
    # the interaction was weighed, though nothing is chosen by validation
    assert all(cli.trainer.checkpoint_callback.monitor is None for cli in seen)
    assert all(float(cli.model.model.interaction_weight) != 1 for cli in seen)
