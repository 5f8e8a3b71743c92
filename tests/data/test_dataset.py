import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from epic_pl.data.dataset import Collator, ImageTextDataset
from epic_pl.data.preprocessing import ImagePreprocessing, load_tokenizer
from epic_pl.data.rows import sample_table
from epic_pl.data.transforms import build_image_transform
from epic_pl.utils.errors import ConfigError, DataError

P = ImagePreprocessing(size=16, mean=(0.5,) * 3, std=(0.5,) * 3)


EVAL = build_image_transform(P, train=False)


def folder_of_noise(root):
    names = [f"{index}.png" for index in range(4)]
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(root / name)
    return sample_table([f"s{n}" for n in names], names, ["text"] * 4, range(4))


def test_rows(tmp_path):
    folder_of_noise(tmp_path)
    table = sample_table(["a", "b"], ["0.png", None], [None, ""], [[1, 2], None], multilabel=True)
    data = ImageTextDataset(table, tmp_path, EVAL)
    assert len(data) == 2
    first, second = data[0], data[1]
    assert first.pop("image").shape == (3, 16, 16)
    assert first == {"sample_id": "a", "text": None, "label": [1, 2], "image_path": "0.png"}
    assert second.pop("image") is None
    assert second == {"sample_id": "b", "text": "", "label": None, "image_path": None}


def test_augmentation_depends_on_seed_epoch_and_row_only(tmp_path):
    table = folder_of_noise(tmp_path)

    def make(seed, epoch):
        transform = build_image_transform(P, train=True, augment="randaugment")
        data = ImageTextDataset(table, tmp_path, transform, seed=seed)
        data.set_epoch(epoch)
        return data

    def pixels(samples):
        return torch.stack([sample["image"] for sample in samples])

    data = make(3, 2)
    first = pixels(data[i] for i in range(4))
    torch.rand(17)
    assert torch.equal(pixels(data[i] for i in reversed(range(4))).flip(0), first)
    loader = DataLoader(data, batch_size=4, num_workers=2, collate_fn=pixels)
    assert torch.equal(next(iter(loader)), first)
    for other in (make(3, 3), make(4, 2)):
        assert not torch.equal(pixels(other[i] for i in range(4)), first)


def test_random_states_outside_are_left_alone(tmp_path):
    def draws():
        return torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002

    def seed_all():
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)

    table = folder_of_noise(tmp_path)
    data = ImageTextDataset(table, tmp_path, lambda image: torch.tensor(draws()))
    seed_all()
    expected = draws()
    seed_all()
    seen = data[0]["image"]
    assert draws() == expected
    assert torch.equal(data[0]["image"], seen)
    assert not torch.equal(data[1]["image"], seen)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("bad.jpg", r"bad\.jpg.*<html>"),
        ("gone.jpg", r"gone\.jpg does not exist"),
        ("../secret.png", "outside"),
        ("link.png", "outside"),
        (None, "outside"),
    ],
)
def test_images_that_are_bad_or_outside_of_the_root_name_the_sample(tmp_path, path, message):
    (root := tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "bad.jpg").write_text("<html>")
    table = sample_table(["a"], [path or str(tmp_path / "secret.png")], [None], [0])
    with pytest.raises(DataError, match=rf"'a'.*{message}"):
        ImageTextDataset(table, root, EVAL)[0]


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
