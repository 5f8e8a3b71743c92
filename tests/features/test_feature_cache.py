"""Runs that train from stored features, beside the same runs that read images."""

import os
import shutil

import lightning as L
import pytest
import torch
from PIL import Image

import tiny_runs
from epic_pl.data.datamodule import ImageTextDataModule
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.datasets.openmoji import EntailmentPairs
from epic_pl.data.rows import Rows, sample_table
from epic_pl.data.tables.datamodule import TableDataModule
from epic_pl.features.store.reader import FeatureStore
from epic_pl.module.callbacks import FeatureCache, feature_cache
from epic_pl.nn.encoders import Encoder
from epic_pl.nn.towers import ReadOnlyTower
from epic_pl.utils.errors import ConfigError
from tiny_runs import differing, trained
from tolerance import assert_same

MODES = [("joint", "tokens"), ("read_only", "tokens"), ("read_only", "layers")]
KINDS = ("image", "text")
modes = pytest.mark.parametrize(("attention", "level"), MODES)


class Workshop:
    """A table of coloured squares, and what trains on it: DataModule, module, cache."""

    def __init__(self, root, vit, bert):
        tiny_runs.table(root)
        self.root, self.encoders = root, (vit, bert)

    @property
    def names(self):
        image, text = map(str, self.encoders)
        return {"image_encoder": image, "text_encoder": text}

    def data(self, **options):
        given = {"id_column": "id", "split_column": "split", "batch_size_per_device": 4}
        given |= {"table": str(self.root / "table.csv"), **self.names}
        return TableDataModule(**{**given, **options})

    def module(self, attention="read_only", options=(), method="EPIC", **others):
        torch.manual_seed(0)
        options = dict(options)
        if method == "EPIC":
            options = {"prompt_attention": attention, **options}
        return tiny_runs.module(*self.encoders, method=method, options=options, **others)

    def cache(self, level="layers", **options):
        given = {"dtype": "float32", "folder": str(self.root / "features"), **options}
        return FeatureCache(level, **given)

    def trainer(self, *callbacks, **options):
        return tiny_runs.trainer(self.root, callbacks=[*filter(None, callbacks)], **options)

    def stores(self, kind):
        return list((self.root / "features").glob(f"{kind}-*"))

    def files(self):
        paths = (self.root / "features").rglob("*")
        return {path: path.stat().st_mtime_ns for path in paths if path.is_file()}

    def stored_items(self, kind):
        (folder,) = self.stores(kind)
        return len(FeatureStore(folder))


@pytest.fixture
def workshop(tiny_vit_dir, tiny_tokenizer_dir, tmp_path):
    return Workshop(tmp_path, tiny_vit_dir, tiny_tokenizer_dir)


def fit(workshop, attention, cache=None, epochs=2, data=None, **options):
    L.seed_everything(0, verbose=False)
    module = workshop.module(attention, **options)
    trainer = workshop.trainer(cache, max_epochs=epochs, num_sanity_val_steps=0)
    trainer.fit(module, datamodule=data or workshop.data())
    return module, {name: float(value) for name, value in trainer.callback_metrics.items()}


def logits_of(workshop, module, cache=None, data=None):
    trainer = workshop.trainer(cache)
    trainer.test(module, datamodule=data or workshop.data(), verbose=False)
    return module.outputs.merged().logits


def blank_cells(root, cells):
    """Empty a column of each row number in ``cells``."""
    with tiny_runs.changed_rows(root / "table.csv") as rows:
        for number, column in cells.items():
            rows[number][column] = ""


@pytest.mark.parametrize(
    ("attention", "level", "absent"), [(*MODES[0], False), *((*mode, True) for mode in MODES)]
)
def test_runs_are_those_of_images(workshop, attention, level, absent, monkeypatch):
    options = {}
    if absent:
        # test rows start at 16: one batch lacks all of its texts, another row its image
        rows = {1: "image", 2: "text", 13: "text", 17: "image"}
        blank_cells(workshop.root, rows | dict.fromkeys((20, 21, 22), "text"))
        options["modality_dropout"] = 0.5
    live, live_metrics = fit(workshop, attention, **options)
    cached, metrics = fit(workshop, attention, workshop.cache(level), **options)
    assert_same(metrics, live_metrics, trained=True)
    assert_same(trained(cached), trained(live), trained=True)

    module, cache = workshop.module(attention), workshop.cache(level)
    assert_same(logits_of(workshop, module, cache), logits_of(workshop, module))
    images = workshop.trainer().predict(module, datamodule=workshop.data())
    monkeypatch.setattr(ImageTextDataset, "__getitem__", lambda *_: pytest.fail("a row was read"))
    stored = workshop.trainer(cache).predict(module, datamodule=workshop.data())
    for one, other in zip(images, stored, strict=True):
        assert one["sample_id"] == other["sample_id"]
        assert_same(one["probabilities"], other["probabilities"])


INPUTS = {"pixel_values", "input_ids", "image_features", "text_features", "attention_mask"}


@pytest.mark.parametrize(("stage", "alone"), [("test", None), ("test", "text"), ("predict", None)])
def test_a_batch_names_its_rows_as_one_from_images_does(workshop, stage, alone):
    blank_cells(workshop.root, {17: "image", 20: "text"})
    unlabelled = {"predict_table": str(workshop.root / "table.csv")} if stage == "predict" else {}
    data = workshop.data(batch_size_per_device=2, alone=alone, **unlabelled)
    data.setup(stage)
    live = list(getattr(data, f"{stage}_dataloader")())
    workshop.cache().fill(workshop.module(), data, stage)
    stored = getattr(data, f"{stage}_dataloader")()
    for one, other in zip(live, stored, strict=True):
        for batch in (one, other):
            for name in INPUTS & batch.keys():
                del batch[name]
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.as_tensor(other[name] == value).all(), name
    assert ("labels" in one) == (stage == "test")


# evaluation data are stored as they are, however training data are augmented
@pytest.mark.parametrize(
    "options",
    [
        *({"image_column": None}, {"text_columns": None}, {"alone": "image"}, {"alone": "text"}),
        {"augment": "flip"},
    ],
)
def test_tables_of_one_modality_and_of_augmented_images(workshop, options):
    module = workshop.module()
    expected = logits_of(workshop, module, data=workshop.data(**options))
    stored = logits_of(workshop, module, workshop.cache(), data=workshop.data(**options))
    assert_same(stored, expected)


def test_each_image_and_text_is_stored_once(workshop):
    with (workshop.root / "table.csv").open("a") as file:
        for number in range(5):  # the same image and text five times more
            row = f'again{number},images/train0.png,"a blue square, number 0",blue,train\n'
            file.write(row)
    # another file of the same content counts as the same image
    one, other = (workshop.root / f"images/train{row}.png" for row in (0, 3))
    assert one.read_bytes() == other.read_bytes()
    fit(workshop, "read_only", workshop.cache(), epochs=1)
    assert workshop.stored_items("image") == len(tiny_runs.COLOURS)
    assert workshop.stored_items("text") == 12
    logits_of(workshop, workshop.module(), workshop.cache())
    # texts of val and test are among those of train
    assert workshop.stored_items("text") == 12


@pytest.fixture
def encoded(monkeypatch):
    """Sizes of all batches that go through a layer of a frozen encoder."""
    sizes, run_layers = [], Encoder.run_layers

    def counting(self, start, stop, tokens, mask=None):
        sizes.append(len(tokens))
        return run_layers(self, start, stop, tokens, mask)

    monkeypatch.setattr(Encoder, "run_layers", counting)
    return sizes


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_probe_reads_what_a_store_of_prompts_has_beside(workshop, encoded, dtype):
    probe = workshop.module(method="LinearProbe")
    logits_of(workshop, workshop.module(), workshop.cache(dtype=dtype))
    before = workshop.files()
    encoded.clear()
    logits = logits_of(workshop, probe, workshop.cache(dtype=dtype))
    assert max(encoded, default=1) == 1  # a look at the fields' shapes
    assert workshop.files() == before
    own = workshop.cache(dtype=dtype, folder=str(workshop.root / "own"))
    assert_same(logits, logits_of(workshop, probe, own))


@pytest.mark.parametrize("method", ["EPIC", "Parts"])
@pytest.mark.parametrize("level", ["tokens", "layers"])
def test_patches_of_large_images_are_merged(workshop, method, level):
    """12 x 12 patches become 6 x 6; one test row lacks its image, another its text."""
    blank_cells(workshop.root, {17: "image", 18: "text"})
    module = workshop.module(method=method, encoders={"image_size": 96})
    expected = logits_of(workshop, module, data=workshop.data(image_size=96))
    cache = workshop.cache(level)
    assert_same(logits_of(workshop, module, cache, workshop.data(image_size=96)), expected)
    (store,) = map(FeatureStore, workshop.stores("image"))
    shapes = {field.name: field.shape for field in store.spec.fields}
    if level == "tokens":
        assert shapes == {"tokens": (145, 32)}
    else:
        assert shapes["cells"] == (37, 32)
        assert shapes.get("memory", (2, 2, 4, 37, 8)) == (2, 2, 4, 37, 8)
        # layers cannot follow from merged patches, so the images are read again
        later = workshop.module(options={"interaction_layers": 1}, encoders={"image_size": 96})
        expected = logits_of(workshop, later, data=workshop.data(image_size=96))
        found = logits_of(workshop, later, cache, workshop.data(image_size=96))
        assert_same(found, expected)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("level", ["tokens", "layers"])
def test_layers_that_a_store_lacks_follow_from_its_tokens(workshop, monkeypatch, level, dtype):
    later = workshop.module(options={"interaction_layers": 1})
    own = workshop.cache(level, dtype=dtype, folder=str(workshop.root / "own"))
    expected = logits_of(workshop, later, own)
    parts = workshop.module(method="Parts", options={"interaction_layers": 2})
    logits_of(workshop, parts, workshop.cache(dtype=dtype))
    monkeypatch.setattr(ImageTextDataset, "image", lambda *_: pytest.fail("an image was read"))
    found = logits_of(workshop, later, workshop.cache(level, dtype=dtype))
    assert_same(found, expected, dtype=getattr(torch, dtype))


def test_later_runs_and_moved_encoders_read_the_same_stores(workshop, encoded, tmp_path):
    expected = logits_of(workshop, workshop.module(), workshop.cache())
    assert max(encoded) > 1
    damaged = workshop.root / "features" / f"image-{'0' * 16}"
    damaged.mkdir()
    (damaged / "spec.json").write_text("[]")
    before = workshop.files()
    workshop.encoders = [shutil.copytree(path, tmp_path / path.name) for path in workshop.encoders]
    encoded.clear()
    assert torch.equal(logits_of(workshop, workshop.module(), workshop.cache()), expected)
    assert max(encoded) == 1  # one blank item shows the fields' shapes
    assert workshop.files() == before


@pytest.mark.parametrize("side", ["image", "text"])
def test_runs_from_a_damaged_store_are_those_from_a_sound_one(workshop, side):
    module, metrics = fit(workshop, "read_only", workshop.cache())
    trainer = workshop.trainer(workshop.cache())
    expected = trainer.predict(module, datamodule=workshop.data())
    (folder,) = workshop.stores(side)
    sound = {path: path.read_bytes() for path in folder.iterdir()}

    def damage():
        for path in folder.glob("shard-*"):
            content = bytearray(path.read_bytes())
            for place in range(len(content) // 2, len(content), 999):
                content[place] ^= 64
            path.unlink()  # a mapped file must not change
            path.write_bytes(content)
            os.utime(path, ns=(1, 1))  # this process found it sound before

    damage()
    with pytest.warns(UserWarning, match=rf"{folder}.* is damaged"):
        again, metrics_again = fit(workshop, "read_only", workshop.cache())
    assert metrics_again == metrics
    assert not differing(trained(again), trained(module))
    assert all(path.read_bytes() == content for path, content in sound.items())
    damage()
    with pytest.warns(UserWarning, match=rf"{folder}.* is damaged"):
        given = trainer.predict(module, datamodule=workshop.data())
    for one, other in zip(given, expected, strict=True):  # encoded in other batches
        assert_same(one["probabilities"], other["probabilities"])


class Interruption(L.Callback):
    def on_train_batch_end(self, *_):
        raise RuntimeError("halfway")


def test_after_validation_alone_or_a_failed_fit_images_are_read_again(workshop):
    data, module, other = workshop.data(), workshop.module(), workshop.module("joint")
    expected = logits_of(workshop, other)
    (live,) = workshop.trainer().validate(module, datamodule=workshop.data(), verbose=False)
    (cached,) = workshop.trainer(workshop.cache()).validate(module, datamodule=data, verbose=False)
    assert_same(cached, live)
    assert torch.equal(logits_of(workshop, other, data=data), expected)
    trainer = workshop.trainer(workshop.cache(), Interruption(), max_epochs=1)
    with pytest.raises(RuntimeError, match="halfway"):
        trainer.fit(module, datamodule=data)
    assert torch.equal(logits_of(workshop, other, data=data), expected)
    assert "image_features" not in next(iter(data.train_dataloader()))


def test_loaders_of_ones_own_are_refused_unless_the_cache_is_off(workshop):
    loader = tiny_runs.loader(tiny_runs.samples())
    with pytest.raises(ConfigError, match="loaders of your own"):
        workshop.trainer(workshop.cache(), max_epochs=1).fit(workshop.module(), loader)
    workshop.trainer(FeatureCache(), max_epochs=1).fit(workshop.module(), loader)
    assert not (workshop.root / "features").exists()


class Own(ImageTextDataModule):
    """``read`` gives the rows of a split; ``drawn`` draws statements in training."""

    class_names = ("blue", "green", "red")

    def __init__(self, read, drawn=False, **options):
        super().__init__(**options, batch_size_per_device=4)
        self.read, self.drawn = read, drawn

    def read_split(self, split):
        return self.read(split)

    def build_dataset(self, split, rows, transform):
        if self.drawn and split == "train":
            return EntailmentPairs(rows.table, rows.image_root, transform)
        return super().build_dataset(split, rows, transform)


@modes
def test_entailment_pairs(workshop, attention, level):
    def read(split):
        names = [f"a {colour} square" for colour in tiny_runs.COLOURS]
        paths = [f"images/train{number}.png" for number in range(3)]
        return Rows(sample_table(names, paths, names, [1, 1, 1]), workshop.root, workshop.root)

    def data():
        return Own(read, drawn=True, **workshop.names)

    _, live = fit(workshop, attention, data=data())
    _, cached = fit(workshop, attention, workshop.cache(level), data=data())
    assert_same(cached, live, trained=True)
    assert [workshop.stored_items(kind) for kind in KINDS] == [3, 3]


def test_the_same_path_in_two_splits_is_two_images(workshop):
    def read(split):
        folder = workshop.root / split
        folder.mkdir(exist_ok=True)
        for number, colour in enumerate(("red", "blue") if split == "train" else ("blue", "red")):
            Image.new("RGB", (40, 36), tiny_runs.COLOURS[colour]).save(folder / f"{number}.png")
        table = sample_table(["0", "1"], ["0.png", "1.png"], ["a square", "one"], [0, 1])
        return Rows(table, folder, folder)

    def data():
        return Own(read, **workshop.names)

    _, live = fit(workshop, "read_only", data=data())
    _, cached = fit(workshop, "read_only", workshop.cache(), data=data())
    assert_same(cached, live, trained=True)
    assert workshop.stored_items("image") == 2


def test_what_cannot_be_stored_is_refused(workshop):
    for option in ("batch_size", "threads"):
        with pytest.raises(ConfigError, match=option):
            workshop.cache(**{option: 0})
    with pytest.raises(ConfigError, match="read_only"):
        fit(workshop, "joint", workshop.cache("layers"))
    with pytest.raises(ConfigError, match=r"data\.augment"):
        fit(workshop, "read_only", workshop.cache(), data=workshop.data(augment="flip"))


@pytest.mark.parametrize(
    ("options", "augment", "level", "why"),
    [
        ({}, "none", "layers", "EPIC with data.augment none"),
        ({"attention": "joint"}, "none", "tokens", "EPIC with data.augment none"),
        ({"method": "LoRA"}, "none", "off", "LoRA with"),
        ({}, "flip", "off", "data.augment flip"),
    ],
)
def test_auto_stores_the_most_that_a_run_can_use(workshop, options, augment, level, why, caplog):
    data, cache = workshop.data(augment=augment), workshop.cache("auto")
    module = workshop.module(**options)
    with caplog.at_level("INFO"):
        workshop.trainer(cache, max_epochs=1).fit(module, datamodule=data)
    (told,) = (text for text in caplog.messages if "cache.level" in text)
    assert f"cache.level auto is {level}, " in told
    assert why in told
    assert cache.level_for(module, data) == level
    stored = [FeatureStore(folder).spec.provenance["level"] for folder in workshop.stores("image")]
    assert stored == [level] * (level != "off")


@pytest.fixture
def seen(monkeypatch):
    """Tiny items stay in place too; gives the types of memories and of an image's tokens."""
    monkeypatch.setattr("epic_pl.features.store.reader._LARGE", 0)
    types, restore = set(), ReadOnlyTower.restore

    def spy(tower, features, *rest):
        names = ("memory", "tokens") if tower.encoder.num_prefix_tokens else ("memory",)
        types.update(type(features.get(name)) for name in names)
        return restore(tower, features, *rest)

    monkeypatch.setattr(ReadOnlyTower, "restore", spy)
    return types


def test_a_fit_in_place_learns_what_one_from_gathered_tensors_does(workshop, seen, monkeypatch):
    blank_cells(workshop.root, {1: "image", 2: "text"})
    runs = []
    for name in ("in_place", "gathered"):
        cache = workshop.cache(dtype="float16")
        runs.append(fit(workshop, "read_only", cache, modality_dropout=0.5))
        assert seen == ({list} if name == "in_place" else {torch.Tensor})
        seen.clear()
        monkeypatch.setattr(feature_cache, "_reads_in_place", lambda _: False)
    (one, metrics), (other, expected) = runs
    assert_same(metrics, expected, trained=True)
    assert_same(trained(one), trained(other), trained=True)


def test_what_cannot_read_in_place_is_given_tensors(workshop, seen):
    assert not feature_cache._reads_in_place(workshop.module(compile=True))
    module = workshop.module()
    logits_of(workshop, module, workshop.cache(), workshop.data(num_workers=1))
    assert seen == {torch.Tensor}
