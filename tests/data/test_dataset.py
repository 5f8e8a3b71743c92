import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.preprocessing import ImagePreprocessing
from epic_pl.data.rows import sample_table
from epic_pl.data.transforms import build_image_transform
from epic_pl.errors import DataError

P = ImagePreprocessing(size=16, mean=(0.5,) * 3, std=(0.5,) * 3)


def folder_of_noise(root, count=4):
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{index}.png")
    names = [f"{index}.png" for index in range(count)]
    return sample_table([f"s{n}" for n in names], names, ["text"] * count, list(range(count)))


def dataset(root, augment="randaugment", **kwargs):
    transform = build_image_transform(P, train=True, augment=augment)
    return ImageTextDataset(folder_of_noise(root), root, transform, **kwargs)


def test_rows(tmp_path):
    folder_of_noise(tmp_path)
    table = sample_table(["a", "b"], ["0.png", None], [None, ""], [[1, 2], None], multilabel=True)
    data = ImageTextDataset(table, tmp_path, build_image_transform(P, train=False))
    assert len(data) == 2
    assert data[0]["image"].shape == (3, 16, 16)
    assert {k: v for k, v in data[0].items() if k != "image"} == {
        "sample_id": "a",
        "text": None,
        "label": [1, 2],
        "picture": "0.png",
    }
    assert data[1] == {"sample_id": "b", "image": None, "text": "", "label": None, "picture": None}


def test_augmentation_depends_on_seed_epoch_and_row_only(tmp_path):
    data = dataset(tmp_path, seed=3)
    data.set_epoch(2)
    first = [data[i]["image"] for i in range(4)]
    torch.rand(17)
    again = [data[i]["image"] for i in reversed(range(4))][::-1]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)
    workers = next(iter(DataLoader(data, batch_size=4, num_workers=2, collate_fn=list)))
    for a, b in zip(first, workers, strict=True):
        assert torch.equal(a, b["image"])
    data.set_epoch(3)
    assert any(not torch.equal(a, data[i]["image"]) for i, a in enumerate(first))
    other = dataset(tmp_path, seed=4)
    other.set_epoch(2)
    assert any(not torch.equal(a, other[i]["image"]) for i, a in enumerate(first))


def test_random_states_outside_are_left_alone(tmp_path):
    def draws():
        return torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002

    def seed_all():
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)

    def transform(image):
        return torch.tensor(draws())

    data = ImageTextDataset(folder_of_noise(tmp_path), tmp_path, transform)
    seed_all()
    expected = draws()
    seed_all()
    seen = data[0]["image"]
    assert draws() == expected
    assert torch.equal(data[0]["image"], seen)
    assert not torch.equal(data[1]["image"], seen)


def test_bad_picture_names_file_and_sample(tmp_path):
    (tmp_path / "bad.jpg").write_text("<html>")
    table = sample_table(["a", "b"], ["bad.jpg", "gone.jpg"], [None] * 2, [0, 0])
    data = ImageTextDataset(table, tmp_path, build_image_transform(P, train=False))
    with pytest.raises(DataError, match=r"'a'.*bad\.jpg.*<html>"):
        data[0]
    with pytest.raises(DataError, match=r"'b'.*gone\.jpg does not exist"):
        data[1]


def test_paths_stay_inside_the_root(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    names = ["../secret.png", str(tmp_path / "secret.png"), "link.png"]
    table = sample_table(["a", "b", "c"], names, [None] * 3, [0] * 3)
    data = ImageTextDataset(table, root, build_image_transform(P, train=False))
    for index, name in enumerate("abc"):
        with pytest.raises(DataError, match=f"'{name}'.*outside"):
            data[index]
