"""What is run: names, variants, options and hashes."""

import json

import pytest
from jsonargparse import ArgumentError

import tiny_runs
from epic_pl.errors import ConfigError
from epic_pl.experiments.compare.plan import (
    choose,
    digest,
    parsed_options,
    plan,
    read_variants,
)
from epic_pl.nn.methods import METHODS


@pytest.fixture
def config(tmp_path, tiny_vit_dir, tiny_tokenizer_dir):
    return tiny_runs.table_config(tmp_path, tiny_vit_dir, tiny_tokenizer_dir)


def _variants(tmp_path, text):
    path = tmp_path / "variants.yaml"
    path.write_text(text)
    return read_variants(str(path))


def test_all_methods_and_variants_unless_some_are_named(tmp_path):
    variants = _variants(tmp_path, "wide: {method: epic, model.hub_width: 32}")
    assert [entry.name for entry in choose(None, variants)] == [*METHODS, "wide"]
    chosen = choose("wide, lora,lora", variants)
    assert [(entry.name, entry.method) for entry in chosen] == [("wide", "epic"), ("lora", "lora")]
    with pytest.raises(ConfigError, match=r"no method 'lorra'.*epic.*wide"):
        choose("lorra", variants)


def test_variants_are_options_of_fit(tmp_path):
    (entry,) = _variants(
        tmp_path,
        """
joint.8:
  method: epic
  cache.level: off
  model.share_hub: true
  model.interaction_layers: [[1, 1], [2, 2]]
  model.method_options: {hub_width: 3}
""",
    )
    assert entry.options == (
        "--cache.level=off",
        "--model.share_hub=true",
        "--model.interaction_layers=[[1, 1], [2, 2]]",
        '--model.method_options={"hub_width": 3}',
    )
    path = tmp_path / "variants.json"
    path.write_text(json.dumps({"a": {"method": "lora"}}))
    assert read_variants(str(path))[0].method == "lora"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {model.lr: 1}", "names no method"),
        ("a: epic", "names no method"),
        ("[a, b]", "no mapping"),
        ("a: {b: [", "cannot be read"),
        ("epic: {method: epic}", "needs another name"),
        ("a/b: {method: epic}", "needs another name"),
        ("a: {method: epic, seed_everything: 3}", "sets seed_everything itself"),
    ],
)
def test_bad_variants_are_refused(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        _variants(tmp_path, text)
    with pytest.raises(ConfigError, match=r"no method 'lorra'"):
        choose("epic", _variants(tmp_path, "a: {method: lorra}"))


def test_every_method_comes_with_the_first_seed_before_any_with_the_second(config, tmp_path):
    entries = choose("pmf,linear_probe", [])
    runs = plan(entries, 2, ["--config", str(config)], tmp_path / "out")
    names = [run.folder.name for run in runs]
    assert names == ["pmf-0", "linear_probe-0", "pmf-1", "linear_probe-1"]
    assert runs[0].folder.parent == tmp_path / "out" / "runs"
    parsed = parsed_options(runs[2].options)
    assert (parsed["model"]["method"], parsed["seed_everything"]) == ("pmf", 1)
    assert len({run.key for run in runs}) == 4


def test_with_splits_each_seed_cuts_the_data_anew_for_all_methods(config, tmp_path):
    shared = ["--config", str(config)]
    entries = choose("pmf,linear_probe", [])
    for splits, expected in ((True, [0, 0, 1, 1]), (False, [0, 0, 0, 0])):
        runs = plan(entries, 2, shared, tmp_path / "out", splits)
        parsed = [parsed_options(run.options) for run in runs]
        assert [each["data"]["init_args"]["split_seed"] for each in parsed] == expected
        assert [each["seed_everything"] for each in parsed] == [0, 0, 1, 1]
        assert len({run.key for run in runs}) == 4
        # a run's key is that of its own options as fit understands them
        assert [digest(each) for each in parsed] == [run.key for run in runs]


def test_keys_change_with_what_is_trained_and_with_nothing_else(config, tmp_path):
    def key(*options, out="out"):
        shared = ["--config", str(config), *options]
        return plan(choose("epic", []), 1, shared, tmp_path / out)[0].key

    before = key()
    assert key("--trainer.max_epochs", "2", out="elsewhere") == before  # the config's own value
    assert key("--trainer.max_epochs=3") != before
    config.write_text("# said otherwise\n" + config.read_text())
    assert key() == before
    config.write_text(config.read_text().replace("hub_width: 8", "hub_width: 9"))
    assert key() != before


def test_a_mended_table_makes_other_runs(config, tmp_path):
    def key():
        return plan(choose("epic", []), 1, ["--config", str(config)], tmp_path / "out")[0].key

    table = tmp_path / "table.csv"
    table.write_text("image,text,label\na.png,a,red\n")
    before = key()
    table.touch()
    assert key() == before  # its content counts, not when it was written
    table.write_text(table.read_text().replace("red", "green"))
    assert key() != before


def test_options_of_one_method_are_not_handed_to_all(config, tmp_path):
    shared = ["--config", str(config), "--model.method_options", '{"rank": 3}']
    variant = _variants(tmp_path, "low: {method: lora, model.method_options: {rank: 2}}")
    lora, low = plan([*choose("lora", []), *variant], 1, shared, tmp_path)
    assert parsed_options(lora.options)["model"]["method_options"] is None
    assert parsed_options(low.options)["model"]["method_options"] == {"rank": 2}


@pytest.mark.parametrize(
    "option",
    ["--model.method=pmf", "--ckpt_path", "--seed_everything", "--trainer.default_root_dir"],
)
def test_what_a_comparison_sets_itself_is_refused(option, tmp_path):
    with pytest.raises(ConfigError, match="itself in every run"):
        plan(choose("epic", []), 1, [option, "x"], tmp_path)


def test_an_unknown_option_is_refused_before_anything_runs(config, tmp_path):
    with pytest.raises(ArgumentError, match="hub_widht"):
        plan(choose("epic", []), 1, ["--config", str(config), "--model.hub_widht=3"], tmp_path)
