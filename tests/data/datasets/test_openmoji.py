from collections import Counter

import fabricate
import pytest

import tiny_openmoji
from epic_pl.data.datasets.openmoji import OpenMojiDataModule
from epic_pl.utils.errors import ConfigError

SPLITS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path))
    tiny_openmoji.fill_cache(tmp_path)


def _data(**options):
    data = OpenMojiDataModule(**fabricate.ENCODERS, **options)
    data.setup()
    return data


def _samples(data, split):
    dataset = data.dataset(split)
    return [dataset[index] for index in range(len(dataset))]


def _images(samples):
    return {sample["sample_id"].split("#")[0] for sample in samples}


def test_classes_are_known_before_setup_and_rare_ones_and_flags_left_out():
    data = OpenMojiDataModule(**fabricate.ENCODERS)
    # "rare" has 15 with the emoji that bears another's name
    assert data.class_names == ["animal", "face", "rare", "tool"]
    assert (data.num_classes, data.task) == (4, "multiclass")


def test_subcategory_splits_are_stratified_and_cover_every_row_once():
    data = _data()
    parts = [_samples(data, split) for split in SPLITS]
    assert [len(part) for part in parts] == [44, 5, 17]
    assert len({sample["sample_id"] for part in parts for sample in part}) == 66
    per_class = Counter(sample["label"] for sample in parts[2])
    assert len(per_class) == 4
    assert all(3 <= count <= 6 for count in per_class.values()), per_class


def test_split_seed_moves_rows_and_seed_does_not():
    ids = [
        {sample["sample_id"] for sample in _samples(_data(**options), "test")}
        for options in ({}, {"seed": 5}, {"split_seed": 5})
    ]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("variant", ["subcategory", "entailment"])
def test_folds_share_out_all_rows_but_those_of_the_test_split(variant):
    def images(split, **options):
        return _images(_samples(_data(variant=variant, **options), split))

    held_out = images("test")
    folds = [images("test", fold=fold) for fold in range(6)]
    for cut in (folds[:3], folds[3:]):
        everything = held_out.union(*cut)
        assert len(everything) == len(held_out) + sum(map(len, cut)) == 66
    assert folds[:3] != folds[3:]
    for fold, tested in enumerate(folds):
        train, val = images("train", fold=fold), images("val", fold=fold)
        assert train | val | tested == everything - held_out
        assert not train & val
        assert 0 < len(val) < len(tested) < len(train)
    with pytest.raises(ConfigError, match="fold must be at least 0"):
        _data(fold=-1)


def test_entailment_names_and_images_stay_in_their_split():
    data = _data(variant="entailment")
    assert data.class_names == ["not_entailment", "entailment"]
    assert [data.dataset(split).draws_labels for split in SPLITS] == [True, False, False]
    parts = [_samples(data, split) for split in SPLITS]
    images = [_images(part) for part in parts]
    names = [{sample["text"] for sample in part} for part in parts]
    for groups in (images, names):
        assert len(set().union(*groups)) == sum(map(len, groups))
    assert len(set().union(*images)) == 66  # no flag
    # two images named "face 0" are in one split
    assert any({"1F000", "1F999-FE0F"} <= part for part in images)
    assert not any("nation" in name for part in names for name in part)


def test_entailment_evaluation_is_fixed_and_balanced():
    data, again = _data(variant="entailment"), _data(variant="entailment", seed=9)
    own = {row["unified"]: str(row["name"]).lower() for row in tiny_openmoji.rows()}
    for split, number in (("val", 8), ("test", 5)):
        samples = _samples(data, split)
        assert sum(sample["label"] for sample in samples) * 2 == len(samples)
        count = Counter(sample["sample_id"].split("#")[0] for sample in samples)
        assert set(count.values()) <= {number, number - len(samples) % number % 2}
        for sample in samples:
            name = own[sample["sample_id"].split("#")[0]]
            assert (sample["text"] == name) == bool(sample["label"])
        assert [s["text"] for s in samples] == [s["text"] for s in _samples(again, split)]
