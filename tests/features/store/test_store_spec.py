"""Keys of stores, and which stores serve which methods."""

from dataclasses import replace

import pytest

from epic_pl.features.store.spec import Field, StoreSpec

MEMORY = Field("memory", (2, 2, 1, 9, 3), 3)
POOLED = (Field("output", (6,)), Field("boundary", (6,)))


def spec(layers, *fields, dtype="float32", **identity):
    plain = {"fingerprint": "abc", "level": "layers", "layers": layers, **identity}
    ragged = any(field.token_axis is not None for field in fields)
    return StoreSpec("text", plain, fields, dtype, ragged)


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
        (spec([1], *POOLED, level="boundary"), False),
        (replace(spec([1], *POOLED), kind="image"), False),
    ],
)
def test_a_store_with_all_fields_and_more_serves(wanted, served):
    assert PROMPTS.serves(wanted) == served


def test_any_change_of_a_spec_but_the_encoders_name_is_another_key(items):
    specs = [items.spec(), items.spec("float16"), items.spec(level="boundary")]
    specs.append(items.spec(layers=[8]))
    assert len({spec.key for spec in specs}) == 4
    assert replace(specs[0], encoder="/moved/elsewhere").key == specs[0].key
    other_order = dict(reversed(specs[3].identity.items()))
    assert replace(specs[3], identity=other_order).key == specs[3].key
