import pytest
import torch
from PIL import Image

from epic_pl.data.datasets.openmoji import EntailmentPairs, fixed_pairs
from epic_pl.data.rows import sample_table
from epic_pl.utils.errors import DataError

NAMES = [f"name {row % 49}" for row in range(50)]  # the first and the last share theirs


def _pairs(tmp_path, seed=0):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    ids = [f"image {row}" for row in range(50)]
    table = sample_table(ids, ["x.png"] * 50, NAMES, [1] * 50)
    return EntailmentPairs(table, tmp_path, lambda _: torch.zeros(3, 4, 4), seed=seed)


def _pair(dataset, index):
    row = dataset.row(index)
    return row["text"], row["label"]


def _drawn(dataset):
    return [_pair(dataset, index) for index in range(len(dataset))]


def test_label_tells_whether_the_statement_is_the_own_name(tmp_path):
    dataset = _pairs(tmp_path)
    for epoch in range(5):
        dataset.set_epoch(epoch)
        for index, (statement, label) in enumerate(_drawn(dataset)):
            assert (statement == NAMES[index]) == bool(label)


def test_draw_depends_on_seed_epoch_and_index_alone(tmp_path):
    first, second = _pairs(tmp_path), _pairs(tmp_path)
    epochs = []
    for epoch in range(3):
        first.set_epoch(epoch)
        epochs.append(_drawn(first))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    second.set_epoch(1)
    backwards = [_pair(second, index) for index in reversed(range(len(second)))]
    assert backwards[::-1] == epochs[1]
    assert _drawn(_pairs(tmp_path, seed=1)) != epochs[0]


def test_sample_carries_the_pair_and_the_images_id(tmp_path):
    dataset = _pairs(tmp_path)
    dataset.set_epoch(3)
    samples = [dataset[index] for index in range(len(dataset))]
    assert [(sample["text"], sample["label"]) for sample in samples] == _drawn(dataset)
    assert [sample["sample_id"] for sample in samples] == [f"image {row}" for row in range(50)]


def test_statements_are_drawn_from_changed_names(tmp_path):
    dataset = _pairs(tmp_path)
    dataset.map_texts(str.upper)
    assert {text for text, _ in _drawn(dataset)} <= {name.upper() for name in NAMES}
    assert dataset.distinct() == (["x.png"], [f"NAME {row}" for row in range(49)])


def test_fixed_pairs_depend_on_the_seed_and_need_two_names():
    assert fixed_pairs(NAMES, 2, (7,)) != fixed_pairs(NAMES, 2, (8,))
    with pytest.raises(DataError, match="1 different names"):
        fixed_pairs(["same", "same"], 2, (0,))
