"""The runs of a comparison: names, variants, options and folders."""

import os
from pathlib import Path

import pytest
from tiny_models import METHODS

from epic_pl.experiments.compare.plan import add_alone, choose, plan, read_variants
from epic_pl.experiments.options import parse_fit
from epic_pl.utils.errors import ConfigError


@pytest.fixture
def one(config, tmp_path):
    """The single run of a comparison with these options."""

    def one(*options, out="out"):
        return plan(choose("EPIC", []), 1, ["--config", config, *options], tmp_path / out)[0]

    return one


def _variants(tmp_path, text):
    path = tmp_path / "variants.yaml"
    path.write_text(text)
    return read_variants(str(path))


def test_all_methods_and_variants_unless_some_are_named(tmp_path):
    variants = _variants(tmp_path, "wide: {method: EPIC, model.method.hub_width: 32}")
    *names, wide = [each.name for each in choose(None, variants)]
    assert {*METHODS} <= {*names}  # and those of other packages that are imported
    assert wide == "wide"
    chosen = choose("wide, LoRA,LoRA", variants)
    assert [(each.name, each.method) for each in chosen] == [("wide", "EPIC"), ("LoRA", "LoRA")]
    assert choose("EPIC,variants", variants)[1:] == variants
    said = r"no Method 'lorra'; there are EPIC, .*Did you mean 'LoRA'\?"
    with pytest.raises(ConfigError, match=said):
        choose("lorra", variants)


def test_a_method_is_followed_by_itself_on_each_modality_alone(tmp_path):
    chosen = choose("wide,EPIC", _variants(tmp_path, "wide: {method: EPIC, cache.level: layers}"))
    assert [each.name for each in add_alone(chosen, "EPIC")][1:] == [
        *("EPIC", "EPIC-text", "EPIC-image")
    ]
    _, text, image, _ = add_alone(chosen, "wide")
    assert (text.method, text.options) == ("EPIC", ("--cache.level=layers", "--data.alone=text"))
    assert image.options[-1] == "--data.alone=image"
    with pytest.raises(ConfigError, match="--alone names 'LoRA', but compared are wide, EPIC"):
        add_alone(chosen, "EPIC, LoRA")


def test_variants_are_options_of_fit(tmp_path):
    values = "cache.level: off, model.head.boundary: true, model.preprocessing: {a: 3}"
    layers = "model.method.interaction_layers: [[1, 1], [2, 2]]"
    (variant,) = _variants(tmp_path, f"joint.8: {{method: EPIC, {values}, {layers}}}")
    assert variant.options == (
        "--cache.level=off",
        "--model.head.boundary=true",
        '--model.preprocessing={"a": 3}',
        "--model.method.interaction_layers=[[1, 1], [2, 2]]",
    )
    assert _variants(tmp_path, '{"a": {"method": "LoRA"}}')[0].method == "LoRA"  # JSON


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {model.lr: 1}", "has the method"),
        ("a: epic", "has the method"),
        ("a: {method: [epic]}", "has the method"),
        ("[a, b]", "must map"),
        ("a: {b: [", "cannot be read"),
        ("EPIC: {method: EPIC}", "needs another name"),
        ("a/b: {method: EPIC}", "needs another name"),
        ("a: {method: EPIC, seed_everything: 3}", "sets seed_everything itself"),
        ("a: {method: lorra}", "no Method 'lorra'"),
    ],
)
def test_bad_variants_are_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        _variants(tmp_path, text)


@pytest.mark.parametrize("splits", [False, True])
def test_every_variant_has_the_first_seed_before_any_has_the_second(config, tmp_path, splits):
    variants = choose("PMF,LinearProbe", [])
    runs = plan(variants, 2, ["--config", config], tmp_path / "out", splits)
    names = [(run.name, run.seed) for run in runs]
    assert names == [("PMF", 0), ("LinearProbe", 0), ("PMF", 1), ("LinearProbe", 1)]
    assert {run.folder.parent for run in runs} == {tmp_path / "out" / "runs"}
    parsed = [parse_fit(run.options) for run in runs]
    methods = [options["model"]["init_args"]["method"]["class_path"] for options in parsed]
    assert [name.split(".")[-1] for name in methods] == ["PMF", "LinearProbe"] * 2
    assert [options["seed_everything"] for options in parsed] == [0, 0, 1, 1]
    split_seeds = [options["data"]["init_args"]["split_seed"] for options in parsed]
    assert split_seeds == ([0, 0, 1, 1] if splits else [0, 0, 0, 0])


def test_a_folder_is_of_the_parsed_options_and_the_data(config, one, tmp_path):
    table, path = tmp_path / "data" / "table.csv", Path(config)
    before = one().folder.name
    path.write_text("# a comment\n" + path.read_text())
    table.touch()
    assert one("--trainer.max_epochs", "2", out="elsewhere").folder.name == before  # as configured
    assert one("--trainer.max_epochs=3").folder.name != before
    table.write_text(table.read_text().replace("red", "green"))
    assert one().folder.name != before
    image = table.parent / "images" / "test0.png"
    weights = Path(parse_fit(["--config", config])["data"]["init_args"]["text_encoder"])
    names = {one().folder.name}
    for file in (image, weights / "model.safetensors"):
        os.utime(file)  # as if it had another content of equal length
        names.add(one().folder.name)
    assert len(names) == 3
    assert len({one(*split).folder.name for split in ([], ["--data.split_seed=1"])}) == 2


def test_method_options_of_a_config_are_not_given_to_all_methods(config, tmp_path):
    shared = ["--config", config, "--model.method.num_prompts=3"]
    variant = _variants(tmp_path, "low: {method: LoRA, model.method.rank: 2}")
    lora, low = plan([*choose("LoRA", []), *variant], 1, shared, tmp_path)
    for run, rank in ((lora, 8), (low, 2)):
        assert parse_fit(run.options)["model"]["init_args"]["method"]["init_args"]["rank"] == rank


def test_options_that_the_comparison_sets_are_refused(one):
    own = ("--model.method=pmf", "--ckpt_path", "--seed_everything", "--trainer.default_root_dir")
    for option in own:
        with pytest.raises(ConfigError, match="itself in every run"):
            one(option, "x")
