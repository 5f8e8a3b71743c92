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
from epic_pl.utils.errors import DataError

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


@pytest.mark.parametrize("alone", ["image", "text"])
def test_samples_of_one_modality_keep_the_name_of_their_image(alone, tmp_path):
    data = ImageTextDataset(folder_of_noise(tmp_path), tmp_path, EVAL)
    images, texts = data.distinct()
    data.alone = alone
    sample = data[1]
    there = {name for name in ("image", "text") if sample[name] is not None}
    assert there == {alone}
    assert (sample["image_path"], sample["label"]) == ("1.png", 1)
    assert data.distinct() == (images if alone == "image" else [], texts * (alone == "text"))


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
        ("bad.jpg", r"bad\.jpg.*a web page"),
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
