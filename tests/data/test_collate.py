import pytest
import torch

from epic_pl.data.collate import Collator
from epic_pl.data.preprocessing import load_tokenizer
from epic_pl.errors import ConfigError, DataError


def sample(name="a", image=True, text="a red cat", label=1):
    image = torch.ones(3, 8, 8) if image else None
    return {"sample_id": name, "image": image, "text": text, "label": label}


@pytest.fixture
def tokenizer(tiny_tokenizer_dir):
    return load_tokenizer(str(tiny_tokenizer_dir))


@pytest.fixture
def collate(tokenizer):
    return Collator(tokenizer, 3, "multiclass", image_size=8, max_text_tokens=6)


def test_shapes_types_and_padding_to_the_longest(collate, tokenizer):
    batch = collate([sample("a"), sample("b", text="cat", label=2)])
    for name, shape, dtype in (
        ("pixel_values", (2, 3, 8, 8), torch.float32),
        ("input_ids", (2, 5), torch.int64),
        ("labels", (2,), torch.int64),
    ):
        assert (batch[name].shape, batch[name].dtype) == (shape, dtype)
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batch["input_ids"][1, 3:].tolist() == [tokenizer.pad_token_id] * 2
    assert batch["labels"].tolist() == [1, 2]
    assert batch["sample_id"] == ["a", "b"]
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask", "labels", "sample_id"}


def test_truncation(collate, tokenizer):
    batch = collate([sample(text="a cat " * 30)])
    assert batch["input_ids"].shape == (1, 6)
    assert batch["input_ids"][0, -1] == tokenizer.sep_token_id
    wide = Collator(tokenizer, 3, "multiclass", 8, max_text_tokens=10_000)
    assert wide([sample(text="a cat " * 90)])["input_ids"].shape[1] == tokenizer.model_max_length


def test_no_more_of_a_huge_text_is_tokenized_than_its_tokens_can_use(collate, monkeypatch):
    tokenize, given = type(collate.tokenizer).__call__, []

    def counted(self, texts, **options):
        given.extend(map(len, texts))
        return tokenize(self, texts, **options)

    monkeypatch.setattr(type(collate.tokenizer), "__call__", counted)
    huge, short = collate.tokenize(["a red cat on " * 10**5, "a red cat on"])["input_ids"]
    assert given[0] <= 1000 * collate.max_text_tokens
    assert given[1] == 12
    assert huge.tolist() == short.tolist()


def test_absent_modalities(collate):
    batch = collate([sample("a", image=False), sample("b", text=None), sample("c", text="")])
    assert batch["image_present"].tolist() == [False, True, True]
    assert batch["text_present"].tolist() == [True, False, True]
    assert batch["image_present"].dtype == torch.bool
    assert batch["pixel_values"][0].abs().sum() == 0
    assert batch["pixel_values"][1].min() == 1
    # an absent text has the tokens of an empty one, only its presence differs
    assert batch["input_ids"][1].tolist() == batch["input_ids"][2].tolist()
    assert batch["attention_mask"][1].sum() == 2


def test_labels_of_several_classes_or_with_one_unknown(tokenizer, collate):
    assert "labels" not in collate([sample("a"), sample("b", label=None)])
    collate = Collator(tokenizer, 3, "multilabel", 8, 6)
    batch = collate([sample(label=[0, 2]), sample(label=[])])
    assert batch["labels"].tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert batch["labels"].dtype == torch.float32


@pytest.mark.parametrize("label", [3, -1, [1]])
def test_bad_labels_name_the_sample(collate, label):
    with pytest.raises(DataError, match="'bad'"):
        collate([sample("bad", label=label)])


def test_bad_image_size_and_task(collate, tokenizer):
    with pytest.raises(DataError, match=r"'odd'.*\(3, 8, 9\)"):
        collate([{**sample("odd"), "image": torch.ones(3, 8, 9)}])
    with pytest.raises(ConfigError, match="'regression'"):
        Collator(tokenizer, 3, "regression", 8, 6)
