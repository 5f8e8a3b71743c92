"""Images and texts as people hand them over, and the batches that a processor makes of them."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers.pre_tokenizers import FixedLength
from torch.utils.data import DataLoader

import tiny_runs
from epic_pl import Processor
from epic_pl.data.images import read_image
from epic_pl.data.preprocessing import ImagePreprocessing, TextPreprocessing
from epic_pl.data.pretrained import load_tokenizer
from epic_pl.data.processor import as_rgb
from epic_pl.utils.errors import CheckpointError, ConfigError, DataError, EncoderError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)
RGBA = RNG.integers(0, 256, (6, 8, 4), np.uint8)
DEEP = RNG.integers(0, 65_536, (6, 8), np.uint16)


@pytest.mark.parametrize("pixels", [RGB, RGBA, RGB[:, :, 0], RGB[:, :, :1], DEEP])
def test_all_forms_of_an_image_are_one(pixels, tmp_path):
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)
    path = tmp_path / "a.png"
    image.save(path)
    expected = np.asarray(read_image(path))
    forms = [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), image, pixels]
    for form in forms:
        np.testing.assert_array_equal(np.asarray(as_rgb(form)), expected)


def test_rotated_images_are_upright_and_those_of_the_caller_stay():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG", exif=exif)
    image = Image.open(file)
    upright = as_rgb(image)
    assert upright.size == (6, 8)
    assert image.size == (8, 6)
    np.testing.assert_array_equal(np.asarray(upright), np.asarray(as_rgb(file.getvalue())))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("https://example.org/a.png", "is an address"),
        ("missing.png", "does not exist"),
        (b"", "empty"),
        (b"no image", "it is none of"),
        (RGB / 255, "shape .6, 8, 3. and type float64"),
        (RGB.transpose(2, 0, 1), "shape .3, 6, 8."),
        (np.zeros((0, 3), np.uint8), "shape .0, 3."),
        (DEEP[..., None].repeat(3, 2), "uint16"),
        (Image.new("F", (3, 3)), "floats"),
        (3, "shape"),
        (object(), "type object"),
    ],
)
def test_what_is_no_image_is_refused(image, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=said):
        as_rgb(image)


def test_an_image_of_too_many_pixels_is_refused(tokenizer, tmp_path):
    processor, path = made(tokenizer), tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    for image in (path, path.read_bytes()):
        assert processor.prepare({"image": image}, max_pixels=48)["image"].shape == (3, 8, 8)
        with pytest.raises(DataError, match="the limit is 47 pixels"):
            processor.prepare({"image": image}, max_pixels=47)


def sample(name="a", image=True, text="a red cat", label=1):
    image = torch.ones(3, 8, 8) if image else None
    return {"sample_id": name, "image": image, "text": text, "label": label}


@pytest.fixture
def tokenizer(tiny_tokenizer_dir):
    return load_tokenizer(str(tiny_tokenizer_dir))


def made(tokenizer, task="multiclass", max_tokens=6, clean=False, **text):
    image = ImagePreprocessing(8, (0.5,) * 3, (0.5,) * 3)
    return Processor(image, TextPreprocessing(max_tokens, clean, **text), tokenizer, task, 3)


@pytest.fixture
def processor(tokenizer):
    return made(tokenizer)


@pytest.fixture
def collate(processor):
    return processor.collate


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
    wide = made(tokenizer, max_tokens=10_000)
    assert (
        wide.collate([sample(text="a cat " * 90)])["input_ids"].shape[1]
        == tokenizer.model_max_length
    )


def test_no_more_of_a_huge_text_is_tokenized_than_its_tokens_can_use(processor, monkeypatch):
    tokenize, given = type(processor.tokenizer).__call__, []

    def counted(self, texts, **options):
        given.extend(map(len, texts))
        return tokenize(self, texts, **options)

    monkeypatch.setattr(type(processor.tokenizer), "__call__", counted)
    huge, short = processor.tokenize(["a red cat on " * 10**5, "a red cat on"])["input_ids"]
    assert given[0] <= 1000 * processor.max_text_tokens
    assert given[1] == 12
    assert huge.tolist() == short.tolist()


def test_a_prompt_stands_before_each_text_and_is_cut_with_it(tokenizer):
    batch = made(tokenizer, prompt="a red ")(text=["cat", "cat on a mat"])
    words = tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    assert words == ["a red cat", "a red cat on"]


def test_an_encoder_that_was_trained_on_padding_attends_to_it(tokenizer):
    processor = made(tokenizer, padded=True)
    batch = processor(text=["cat", None, "a red cat on a mat"], images=[RGB] * 3)
    expected = tokenizer(
        ["cat", "", "a red cat on a mat"], padding="max_length", max_length=6, truncation=True
    )
    assert batch["input_ids"].tolist() == expected["input_ids"]
    assert batch["attention_mask"].tolist() == [[1] * 6] * 3
    assert processor.full_texts(batch) == 1


# alone it gave a batch (1, 0), beside others a text of which nothing was visible
def test_a_tokenizer_that_fails_in_rust_code_is_one_error_that_names_it(
    processor, tiny_tokenizer_dir
):
    processor.tokenizer.backend_tokenizer.pre_tokenizer = FixedLength(0)
    with pytest.raises(EncoderError, match=rf"{tiny_tokenizer_dir} fails: chunk size .* Take"):
        processor(text=["a cat"])
    with pytest.raises(EncoderError, match=str(tiny_tokenizer_dir)):
        made(processor.tokenizer)


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_ctrl_c_while_texts_are_tokenized_is_no_failure(processor, monkeypatch):
    monkeypatch.setattr(type(processor.tokenizer), "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        processor(text=["a cat"])


# each changes the tokens of some texts
TOKENIZERS = {
    "ids": ("tokenizer.json", lambda plain: plain["model"].update(vocab=swapped(plain))),
    "case": ("tokenizer.json", lambda plain: plain["normalizer"].update(lowercase=False)),
    "accents": ("tokenizer.json", lambda plain: plain["normalizer"].update(strip_accents=False)),
    "words": ("tokenizer.json", lambda plain: plain.update(pre_tokenizer={"type": "Whitespace"})),
    "long": ("tokenizer.json", lambda plain: plain["model"].update(max_input_chars_per_word=200)),
    "ends": ("tokenizer.json", lambda plain: plain.update(post_processor=None)),
    "side": ("tokenizer_config.json", lambda plain: plain.update(truncation_side="left")),
    "most": ("tokenizer_config.json", lambda plain: plain.update(model_max_length=4)),
}


def swapped(plain):
    words = plain["model"]["vocab"]
    return words | {"cat": words["dog"], "dog": words["cat"]}


@pytest.mark.parametrize("change", [None, *TOKENIZERS])
def test_a_tokenizer_is_known_by_its_vocabulary_and_tokens(change, processor, tmp_path):
    copy = tmp_path / "copy"
    processor.tokenizer.save_pretrained(copy)
    if change is not None:
        file, edit = TOKENIZERS[change]
        plain = json.loads((copy / file).read_text())
        edit(plain)
        (copy / file).write_text(json.dumps(plain))
    tokenizer = load_tokenizer(str(copy))
    other = made(tokenizer)
    assert (other.text.tokenizer == processor.text.tokenizer) == (change is None)
    if change is not None:
        with pytest.raises(CheckpointError, match=rf"tokenizer of digest \w+.*{copy}"):
            Processor(processor.image, processor.text, tokenizer)


@pytest.mark.parametrize("texts", [[None], [None, ""], [None, "red cat"]])
def test_a_missing_text_without_special_tokens_is_one_token_of_padding(
    texts, tiny_tokenizer_dir, tmp_path
):
    folder = shutil.copytree(tiny_tokenizer_dir, tmp_path / "bert")
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))
    tokenizer = load_tokenizer(str(folder))
    batch = made(tokenizer)(text=texts, images=[RGB] * len(texts))
    length = 2 if "red cat" in texts else 1
    assert batch["input_ids"].shape == (len(texts), length)
    assert batch["input_ids"][0].tolist() == [tokenizer.pad_token_id] * length
    assert batch["attention_mask"][0].tolist() == [1, 0][:length]


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
    batch = made(tokenizer, "multilabel").collate([sample(label=[0, 2]), sample(label=[])])
    assert batch["labels"].tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert batch["labels"].dtype == torch.float32


def test_bad_image_size_and_task(collate, tokenizer):
    with pytest.raises(DataError, match=r"'odd'.*\(3, 8, 9\)"):
        collate([{**sample("odd"), "image": torch.ones(3, 8, 9)}])
    with pytest.raises(ConfigError, match="'regression'"):
        made(tokenizer, "regression")


def test_a_batch_of_lists_is_that_of_items_and_of_a_loader(processor, tokenizer):
    images, texts = [RGB, None, RGBA], ["a red cat", "", None]
    batch = processor(images=images, text=texts, labels=[0, 1, 2])
    assert batch["labels"].tolist() == [0, 1, 2]
    assert batch["sample_id"] == ["0", "1", "2"]
    assert batch["image_present"].tolist() == [True, False, True]
    assert batch["text_present"].tolist() == [True, True, False]
    items = [
        {"image": image, "text": text, "label": label, "sample_id": str(label)}
        for label, (image, text) in enumerate(zip(images, texts, strict=True))
    ]
    (loaded,) = DataLoader(items, batch_size=3, collate_fn=processor, num_workers=1)
    assert not tiny_runs.differing(
        *({**made, "sample_id": torch.ones(1)} for made in (batch, loaded))
    )
    assert "labels" not in processor(text=["a"])
    clean = made(tokenizer, clean=True)(text=["a &amp; <b>cat</b>"])
    assert torch.equal(clean["input_ids"], processor(text=["a & cat"])["input_ids"])
    several = made(tokenizer, "multilabel")(text=["a", "b"], labels=[[0, 2], []])
    assert several["labels"].tolist() == [[1, 0, 1], [0, 0, 0]]


def test_a_processor_of_encoders_or_of_a_module_prepares_as_the_data_did(
    make, tiny_vit_dir, tiny_tokenizer_dir, tmp_path
):
    options = {"image_size": 16, "max_text_tokens": 5, "text_prompt": "a red "}
    own = Processor.from_encoders(str(tiny_vit_dir), str(tiny_tokenizer_dir), **options)
    kept = make(preprocessing=own.preprocessing, encoders={"image_size": 16}).processor
    table = tiny_runs.table(tmp_path)
    data = tiny_runs.table_data(table, tiny_vit_dir, tiny_tokenizer_dir, **options)
    data.setup("test")
    expected = data.processor.collate([data.dataset("test")[row] for row in range(3)])
    rows = [data.dataset("test").row(row) for row in range(3)]
    given = {
        "images": [tmp_path / row["image"] for row in rows],
        "text": [row["text"] for row in rows],
        "labels": [row["label"] for row in rows],
    }
    for processor in (own, kept):
        batch = processor(**given)
        for name in ("pixel_values", "input_ids", "attention_mask", "labels"):
            assert torch.equal(batch[name], expected[name])
    with pytest.raises(ConfigError, match="does not say how"):
        _ = make().processor


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "as many images"),
        ({"images": [RGB], "text": ["a", "b"]}, "as many images"),
        ({"text": ["a"], "labels": [3]}, r"Item 0 has label 3.*a class index in 0\.\.2"),
        ({"text": ["a"], "labels": [-1]}, "label -1"),
        ({"text": ["a"], "labels": [[1]]}, r"label \[1\]"),
        ({"images": ["missing.png"]}, r"Item 0: Image missing\.png does not exist"),
        ({"items": [{"text": "a"}, "a text"]}, "Item 1 is a str"),
        ({"items": [{"image": RGB, "txt": "a"}]}, "Item 0 has the key 'txt'"),
        ({"items": [{"sample_id": "x"}]}, "Item x has neither image nor text"),
        ({"text": [float("nan")]}, "Item 0 has a float as text .nan."),
    ],
)
def test_what_makes_no_batch_is_named(given, said, processor):
    with pytest.raises(DataError, match=said):
        processor(**given)


@pytest.mark.parametrize("labels", [[1], [[3]], [[-1]]])
def test_labels_of_several_classes_are_checked(labels, tokenizer):
    with pytest.raises(DataError, match=r"a list of different class indices in 0\.\.2"):
        made(tokenizer, "multilabel")(text=["a"], labels=labels)
