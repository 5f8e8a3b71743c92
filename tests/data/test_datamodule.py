import json

import fabricate
import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import OnExceptionCheckpoint

from epic_pl.data import ImageTextDataModule
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.datasets.openmoji import EntailmentPairs
from epic_pl.data.rows import Rows, sample_table
from epic_pl.utils.errors import CheckpointError, ConfigError, DataError

ROWS = {"train": 9, "val": 5, "test": 7}


class Squares(ImageTextDataModule):
    class_names = ("red", "green")

    def __init__(self, root, **options):
        super().__init__(**options)
        self.root, self.built = root, []

    def read_split(self, split):
        self.built.append(split)
        return Rows(sample_table(*self.columns(split)), self.root, self.root)

    def columns(self, split):
        rows = range(ROWS[split])
        ids, images = [f"{split}{i}" for i in rows], [f"{i % 2}.png" for i in rows]
        return ids, images, ["a square"] * len(rows), [i % 2 for i in rows]


class Pairs(Squares):
    """Rows that are drawn anew every epoch, so that no table holds them."""

    def columns(self, split):
        ids, images, names, labels = super().columns(split)
        return ids, images, [f"{name}{i}" for i, name in enumerate(names)], labels

    def build_dataset(self, split, rows, transform):
        kind = EntailmentPairs if split == "train" else ImageTextDataset
        return kind(rows.table, rows.image_root, transform, seed=self.seed)


@pytest.fixture
def make(tmp_path, tiny_vit_dir, tiny_tokenizer_dir):
    for name in ("0.png", "1.png"):
        fabricate.image(tmp_path / name)

    def build(kind=Squares, **options):
        names = {"image_encoder": str(tiny_vit_dir), "text_encoder": str(tiny_tokenizer_dir)}
        return kind(tmp_path, **names | {"batch_size_per_device": 4} | options)

    return build


class Reader(L.LightningModule):
    """Notes what comes in, and fails at a batch of training."""

    def __init__(self, failing=None):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.seen, self.failing = {}, failing

    def read(self, batch, batch_idx):
        self.seen.setdefault(self.trainer.state.stage.value, []).extend(batch["sample_id"])
        return self.layer(batch["pixel_values"].mean((2, 3)))

    validation_step = test_step = predict_step = read

    def training_step(self, batch, batch_idx):
        if batch_idx == self.failing:
            raise RuntimeError("out of memory")
        return torch.nn.functional.cross_entropy(self.read(batch, batch_idx), batch["labels"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**options):
    options = {"enable_checkpointing": False, "num_sanity_val_steps": 0, "max_epochs": 1} | options
    return L.Trainer(**fabricate.QUIET, **options)


def test_facts_are_known_right_after_construction(make, tiny_vit_dir, tiny_tokenizer_dir):
    data = make(max_text_tokens=12, image_size=48)
    assert (data.num_classes, data.task) == (2, "multiclass")
    image = {"size": 48, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert data.preprocessing == {
        "image": {**image, "interpolation": "bicubic", "crop_pct": 0.9, "resize": "crop"},
        "text": {
            **{"max_tokens": 12, "clean": False, "prompt": "", "padded": False},
            "tokenizer": data.processor.text.tokenizer,
        },
        "image_encoder": str(tiny_vit_dir),
        "text_encoder": str(tiny_tokenizer_dir),
    }
    assert json.loads(json.dumps(data.preprocessing)) == data.preprocessing
    assert data.built == []


@pytest.mark.filterwarnings("ignore")
def test_every_stage_of_a_plain_trainer(make):
    module, data, runner = Reader(), make(num_workers=1), trainer()
    runner.fit(module, datamodule=data)
    runner.test(module, datamodule=data, verbose=False)
    logits = runner.predict(module, datamodule=data)
    assert sorted(module.seen["train"]) == [f"train{i}" for i in range(9)]
    assert module.seen["train"] != sorted(module.seen["train"])
    assert module.seen["validate"] == [f"val{i}" for i in range(5)]
    assert module.seen["test"] == module.seen["predict"] == [f"test{i}" for i in range(7)]
    assert [len(batch) for batch in logits] == [4, 3]
    assert data.built == ["train", "val", "test"]


def test_eval_loaders_leave_the_global_random_state_alone(make):
    data = make()
    data.setup("test")
    before = torch.get_rng_state()
    list(data.test_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_split_with_fewer_rows_than_ranks_is_refused(make, monkeypatch):
    data = make()
    data.setup("fit")
    rows = len(data.dataset("val"))
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    for ranks in (rows, rows + 1):
        monkeypatch.setattr("torch.distributed.get_world_size", lambda ranks=ranks: ranks)
        if ranks == rows:
            assert len(data.val_dataloader().sampler) == 1
        else:
            with pytest.raises(DataError, match=f"val split has {rows} rows for {ranks}"):
                data.val_dataloader()


def test_a_split_is_read_when_needed_and_an_empty_one_is_an_error(make, monkeypatch):
    monkeypatch.setitem(ROWS, "val", 0)
    assert len(make().train_dataloader())
    with pytest.raises(DataError, match="val split of Squares is empty"):
        make().setup("fit")


@pytest.mark.parametrize(("kind", "shares"), [(Squares, [5 / 9, 4 / 9]), (Pairs, None)])
def test_shares_of_the_classes_are_known_unless_labels_are_drawn(make, kind, shares):
    assert make(kind).class_frequencies == shares


TOO_SMALL = dict(
    batch_size_per_device=0, eval_batch_size_per_device=0, image_size=0, num_workers=-1
)
WRONG = dict(max_text_tokens=2, seed=-1, augment="mixup", on_bad_sample="drop")


@pytest.mark.parametrize(("option", "value"), (TOO_SMALL | WRONG).items())
def test_bad_options_are_named(make, option, value):
    with pytest.raises(ConfigError, match=option):
        make(**{option: value})


def test_the_runs_seed_moves_the_order_unless_the_data_has_its_own(make):
    orders = {}
    for run, own in ((None, None), (0, None), (3, None), (4, None), (4, 3)):
        if run is not None:
            L.seed_everything(run)
        data = make(seed=own)
        data.setup("fit")
        orders[run, own] = [batch["sample_id"] for batch in data.train_dataloader()]
    assert orders[None, None] == orders[0, None]
    assert orders[4, 3] == orders[3, None]
    assert orders[3, None] != orders[0, None] != orders[4, None] != orders[3, None]


# test_rows.py has each change that counts
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Squares, Pairs])
def test_fit_alone_refuses_a_checkpoint_of_other_training_rows(kind, make, tmp_path):
    class Changed(kind):
        def columns(self, split):
            columns = super().columns(split)
            return [column[::-1] for column in columns] if split == "train" else columns

    Changed.__qualname__ = kind.__qualname__  # the class is the same, its files were edited
    failing = trainer(callbacks=[OnExceptionCheckpoint(tmp_path)], enable_checkpointing=True)
    with pytest.raises(RuntimeError, match="out of memory"):
        failing.fit(Reader(failing=1), datamodule=make(kind))
    whole = trainer()
    whole.fit(Reader(), datamodule=make(kind))
    whole.save_checkpoint(tmp_path / "epoch.ckpt")
    for name in ("on_exception.ckpt", "epoch.ckpt"):
        saved = {"ckpt_path": str(tmp_path / name), "weights_only": True}
        with pytest.raises(CheckpointError, match=r"train .*warm_start"):
            trainer(max_epochs=2).fit(Reader(), datamodule=make(Changed), **saved)
        trainer(max_epochs=2).fit(Reader(), datamodule=make(kind), **saved)
    trainer().test(Reader(), datamodule=make(Changed), verbose=False, **saved)
    trainer().predict(Reader(), datamodule=make(Changed), **saved)
