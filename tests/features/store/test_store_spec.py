"""Keys of stores, which stores serve which methods, and what is no spec."""

import json
from dataclasses import replace

import pytest
import torch
from cache_items import build_one

from epic_pl.features.store.fill import StoreRequest, earlier_tokens
from epic_pl.features.store.reader import FeatureStore
from epic_pl.features.store.spec import Field, StoreSpec
from epic_pl.utils.errors import CacheError

MEMORY = Field("memory", (2, 2, 1, 9, 3), 3)
POOLED = (Field("output", (6,)), Field("boundary", (6,)))


def spec(layers, *fields, dtype="float32", **identity):
    plain = {"fingerprint": "abc", "level": "layers", "layers": layers, **identity}
    return StoreSpec("text", plain, fields, dtype)


PROMPTS = spec([1, 2], MEMORY, *POOLED)


@pytest.mark.parametrize(
    ("wanted", "served"),
    [
        (spec([1], *POOLED), True),
        (spec([1, 3], *POOLED), True),
        (spec([2], *POOLED), False),  # of another layer
        (spec([0, 2], *POOLED), False),
        (replace(PROMPTS, encoder="moved"), True),
        (spec([1], MEMORY, *POOLED), False),  # tokens cannot be read in part
        (spec([1], Field("output", (7,))), False),
        (spec([1], Field("summary", (6,))), False),
        (spec([1], *POOLED, dtype="float16"), False),
        (spec([1], *POOLED, pooling="mean"), False),
        (spec([1], *POOLED, level="tokens"), False),
        (replace(spec([1], *POOLED), modality="image"), False),
    ],
)
def test_a_store_with_all_fields_and_more_serves(wanted, served):
    assert PROMPTS.serves(wanted) == served


TOKENS = spec([1, 2], Field("tokens", (9, 6), 0), *POOLED)


@pytest.mark.parametrize(
    ("store", "wanted", "leads"),
    [
        (TOKENS, PROMPTS, True),
        (TOKENS, spec([2], *POOLED, level="tokens"), True),
        (TOKENS, spec([0, 2], *POOLED), False),  # of an earlier layer
        (PROMPTS, spec([2], *POOLED), False),  # without tokens
        (TOKENS, replace(PROMPTS, dtype="float16"), True),
        (replace(TOKENS, dtype="float16"), replace(PROMPTS, dtype="bfloat16"), True),
        (replace(TOKENS, dtype="float16"), PROMPTS, False),  # less precise
        (replace(TOKENS, dtype="bfloat16"), replace(PROMPTS, dtype="bfloat16"), False),
        (TOKENS, spec([1, 2], *POOLED, pooling="mean"), False),
        (replace(TOKENS, modality="image"), PROMPTS, False),
    ],
)
def test_later_layers_follow_from_tokens(store, wanted, leads):
    assert store.leads_to(wanted) == leads


def test_encoding_continues_from_the_tokens_of_the_latest_layer(tmp_path):
    def produce(positions):
        return {"tokens": torch.zeros(len(positions), 9, 6)}, torch.tensor([9] * len(positions))

    # the folder's names, which are hashes, have no order of layers
    for layers in ([0], [1], [2], [3], [5]):
        build_one(tmp_path, spec(layers, TOKENS.fields[0], level="tokens"), ["a"], produce)
    assert earlier_tokens(tmp_path, spec([4, 5], *POOLED), ["a"]).spec.first_layer == 3
    assert earlier_tokens(tmp_path, spec([4, 5], *POOLED), ["a", "b"]) is None


def test_tokens_depend_on_the_first_layer_alone():
    assert TOKENS.serves(spec([1, 3], *TOKENS.fields))
    assert not TOKENS.serves(spec([2], *TOKENS.fields))


def test_any_change_of_a_spec_but_the_encoders_name_is_another_key(items):
    specs = [items.spec(), items.spec("float16"), items.spec(level="tokens")]
    specs.append(items.spec(layers=[8]))
    specs.append(replace(specs[0], fields=specs[0].fields[1:]))
    specs += [replace(specs[0], modality=side) for side in ("image", "text")]
    assert len({spec.key for spec in specs}) == 6
    assert replace(specs[0], encoder="/moved/elsewhere").key == specs[0].key
    other_order = dict(reversed(specs[3].provenance.items()))
    assert replace(specs[3], provenance=other_order).key == specs[3].key


def pooled(size):
    return {"fields": [{"name": "pooled", "shape": [size], "token_axis": None}]}


@pytest.mark.parametrize(
    "damage",
    [
        b"{",
        b"null",
        b"[]",
        b'{"version": 1}',
        b"\xff\xfe",
        b"[" * 100_000,
        {"dtype": ["float32"]},
        {"encoder": {"a": 1}},
        {"fields": [1]},
        {"fields": []},
        pooled(-9),
        pooled(10**15),
        {"files": ["../../notes.txt"]},
        {"provenance": None},
        {"provenance": {"level": float("nan")}},
        {"modality": 5},
    ],
    ids=lambda damage: str(damage)[:20],
)
def test_a_malformed_spec_is_written_again_and_shards_stay(tmp_path, items, damage):
    folder = items.build(tmp_path).folder
    if isinstance(damage, dict):
        damage = json.dumps(json.loads((folder / "spec.json").read_text()) | damage).encode()
    (folder / "spec.json").write_bytes(damage)
    with pytest.raises(CacheError, match="does not describe"):
        FeatureStore(folder)
    assert StoreRequest(items.spec(), items.hashes, items.produce).open(tmp_path) is None
    items.assert_in(items.build(tmp_path), items.hashes)
    assert not items.asked


@pytest.mark.parametrize(
    "change",
    [{"dtype": "../../x"}, {"provenance": []}, {"modality": "sound"}, {"encoder": 1}],
    ids=str,
)
def test_a_spec_of_other_types_is_refused_whatever_its_folder_is_called(tmp_path, items, change):
    spec = replace(items.spec(), **change)
    folder = spec.folder(tmp_path)
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps(spec.to_json()))
    with pytest.raises(CacheError, match="does not describe"):
        FeatureStore(folder)
