"""Runs that fill their feature stores as they go, beside runs that fill them ahead."""

import re
from functools import partial
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback

import tiny_runs
from epic_pl.callbacks import FeatureCache
from epic_pl.data.tables.datamodule import TableDataModule
from epic_pl.errors import CacheError, ConfigError
from epic_pl.features.building import build_stores
from epic_pl.features.growing_features import GrowingFeatures
from epic_pl.features.store.manifest import Manifest
from epic_pl.nn.encoders import Encoder

KINDS = ("image", "text")
MODES = [("joint", "boundary"), ("read_only", "boundary"), ("read_only", "layers")]


class Losses(L.Callback):
    """Keeps the training losses."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        self.values.append(float(outputs["loss"]))


class Killed(L.Callback):
    """Saves a checkpoint after the first step and ends the run during the second."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 1:
            trainer.save_checkpoint(self.path)
        else:
            raise RuntimeError("killed")


@pytest.fixture
def workshop(tiny_vit_dir, tiny_tokenizer_dir, tmp_path):
    """What trains on a table of coloured squares, each picture another one."""
    tiny_runs.table(tmp_path, train=12, val=4, test=7)
    encoders = str(tiny_vit_dir), str(tiny_tokenizer_dir)

    def data(**options):
        given = {"id_column": "id", "split_column": "split", "batch_size_per_device": 4, **options}
        table = str(tmp_path / "table.csv")
        return TableDataModule(
            table=table, image_encoder=encoders[0], text_encoder=encoders[1], **given
        )

    def module(attention="read_only", **options):
        torch.manual_seed(0)
        return tiny_runs.module(*encoders, prompt_attention=attention, **options)

    def fit(cache, attention="read_only", *, resume=None, extra=(), **options):
        L.seed_everything(0, verbose=False)
        model, losses = module(attention), Losses()
        trainer = tiny_runs.trainer(tmp_path, callbacks=[losses, cache, *extra], max_epochs=3)
        trainer.fit(model, datamodule=data(**options), ckpt_path=resume)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        return SimpleNamespace(losses=losses.values, metrics=metrics, module=model)

    def cache(folder="features", level="layers", fill="first_epoch", **options):
        return FeatureCache(level, folder=str(tmp_path / folder), fill=fill, **options)

    return SimpleNamespace(data=data, module=module, fit=fit, cache=cache, root=tmp_path)


@pytest.fixture
def encoded(monkeypatch):
    """Sizes of all batches that go through a layer of a frozen encoder."""
    sizes, run_layers = [], Encoder.run_layers

    def counting(self, start, stop, tokens, mask=None):
        sizes.append(len(tokens))
        return run_layers(self, start, stop, tokens, mask)

    monkeypatch.setattr(Encoder, "run_layers", counting)
    return sizes


def stored_items(folder, kind):
    (store,) = folder.glob(f"{kind}-*")
    return Manifest.read(store).index.items


@pytest.mark.parametrize(("attention", "level"), MODES)
def test_losses_are_those_of_a_store_filled_ahead(workshop, attention, level):
    ahead = workshop.fit(workshop.cache("ahead", level, "ahead"), attention)
    growing = workshop.fit(workshop.cache("growing", level), attention)
    # encoded in other batches, so up to the rounding of matrix products
    assert growing.losses == pytest.approx(ahead.losses, abs=1e-5)
    assert growing.metrics == pytest.approx(ahead.metrics, abs=1e-5)
    for kind in ("image", "text"):
        assert stored_items(workshop.root / "growing", kind) == stored_items(
            workshop.root / "ahead", kind
        )


def test_from_the_second_epoch_on_no_encoder_runs(workshop, encoded):
    counts = []
    at_epochs = LambdaCallback(on_train_epoch_start=lambda *_: counts.append(len(encoded)))
    workshop.fit(workshop.cache(level="layers"), extra=[at_epochs])
    first, second, third = counts
    assert first < second == third == len(encoded)
    encoded.clear()
    again = workshop.fit(workshop.cache())  # a later run, on what this one has stored
    assert not encoded
    ahead = workshop.fit(workshop.cache(fill="ahead"))
    assert not encoded
    assert again.losses == ahead.losses


def test_numbers_do_not_depend_on_when_they_were_read(workshop, monkeypatch):
    whole = workshop.fit(workshop.cache("one"))
    monkeypatch.setattr(
        "epic_pl.callbacks.feature_cache.GrowingFeatures", partial(GrowingFeatures, shard_bytes=1)
    )
    assert workshop.fit(workshop.cache("each")).losses == whole.losses
    shards = {name: len(list((workshop.root / name).rglob("shard-*"))) for name in ("one", "each")}
    assert shards["each"] > shards["one"]


@pytest.mark.parametrize("hard", [True, False], ids=["killed", "interrupted"])
def test_a_killed_run_goes_on_exactly(workshop, encoded, hard):
    expected = workshop.fit(workshop.cache("whole"))
    encoded.clear()
    cache, path = workshop.cache("killed"), str(workshop.root / "killed.ckpt")
    if hard:
        cache.on_exception = lambda *_: None
    with pytest.raises(RuntimeError, match="killed"):
        workshop.fit(cache, extra=[Killed(path)])
    # 4 texts of the validation batch that was checked, and 4 of each of the steps that are kept
    assert stored_items(workshop.root / "killed", "text") <= (8 if hard else 12)
    rest = workshop.fit(workshop.cache("killed"), resume=path)
    assert rest.losses == expected.losses[1:]
    assert rest.metrics == expected.metrics
    for (name, one), (_, other) in zip(
        expected.module.named_parameters(), rest.module.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_fills_as_it_goes(workshop, encoded, stage):
    def run(*caches):
        trainer = tiny_runs.trainer(workshop.root, callbacks=list(caches))
        given = getattr(trainer, stage)(workshop.module(), datamodule=workshop.data())
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        return metrics or torch.cat([each["probabilities"] for each in given]).tolist()

    expected = run()
    for _ in range(2):
        encoded.clear()
        got = run(workshop.cache(dtype="float32"))
        if stage == "predict":
            assert [p for row in got for p in row] == pytest.approx(
                [p for row in expected for p in row], abs=1e-5
            )
        else:
            assert got == pytest.approx(expected, abs=1e-5)
    assert not encoded
    assert stored_items(workshop.root / "features", "image") == len(tiny_runs.COLOURS)


def test_views_are_stored_as_they_are_drawn(workshop):
    run = workshop.fit(workshop.cache("growing", views=8), augment="crop")
    ahead = workshop.fit(workshop.cache("ahead", fill="ahead", views=8), augment="crop")
    assert run.losses == pytest.approx(ahead.losses, abs=1e-5)
    # 36 draws of 8 views of 3 colours, and these as validation sees them
    assert len(tiny_runs.COLOURS) * 3 < stored_items(workshop.root / "growing", "image") <= 27


def test_views_that_a_thread_would_draw_beside_the_training_step_are_refused(workshop):
    with pytest.raises(ConfigError, match=r"cache\.views is 2.*data\.prefetch to 0"):
        workshop.fit(workshop.cache(views=2), augment="crop", prefetch=1)


def test_workers_and_ranks_are_refused(workshop):
    with pytest.raises(ConfigError, match=r"data\.num_workers is 2 instead of 0.*cache build"):
        workshop.fit(workshop.cache(), num_workers=2)
    data = workshop.data()
    data.prepare_data()
    data.setup("fit")
    with pytest.raises(ConfigError, match=r"processes is 2 instead of 1.*cache build"):
        workshop.cache().grow(workshop.module(), data, "fit", world_size=2)


def test_a_precision_that_only_training_has_is_refused(workshop):
    data, module = workshop.data(), workshop.module()
    data.prepare_data()
    data.setup("fit")
    workshop.cache().grow(module, data, "fit")
    module.bfloat16()
    with pytest.raises(ConfigError, match=r"trainer\.precision runs the \w+ encoder in bfloat16"):
        next(iter(data.train_dataloader()))


def test_filling_everything_ahead_is_still_possible(workshop, encoded):
    cache = workshop.cache()
    trainer = tiny_runs.trainer(workshop.root, callbacks=[cache])
    build_stores(trainer, workshop.module(), workshop.data())
    encoded.clear()
    workshop.fit(workshop.cache())
    assert not encoded


# ------------------------------------------------------------------ the disk


def _free(monkeypatch, nbytes):
    usage = SimpleNamespace(free=64_000_000 + nbytes)  # 64 MB stay free
    monkeypatch.setattr("epic_pl.features.estimate.shutil.disk_usage", lambda _: usage)


def _said(capsys):
    """Items of pictures and of texts that were announced; None if nothing was."""
    lines = [line for line in capsys.readouterr().out.splitlines() if "Caching" in line]
    if not lines:
        return None
    (line,) = lines
    assert line.startswith("Caching in the first epoch, at most ")
    found = {kind: re.search(rf"{kind} features of (\d+) items", line) for kind in KINDS}
    return [int(match[1]) if match else 0 for match in found.values()]


def test_what_the_first_epoch_adds_is_told(workshop, capsys):
    workshop.fit(workshop.cache())
    # sixteen files, of which only reading could tell that there are three colours
    assert _said(capsys) == [16, 12]
    workshop.fit(workshop.cache())
    assert _said(capsys) is None
    assert stored_items(workshop.root / "features", "text") == 12
    # a part of it, known from before: files of known digests, texts by themselves
    with (workshop.root / "table.csv").open("a") as file:
        file.write("new,pictures/test0.png,a new text,blue,train\n")
    workshop.fit(workshop.cache())
    assert _said(capsys) == [1, 1]
    # the text store is ragged: its size comes from the texts' own lengths
    workshop.fit(workshop.cache("views", views=8), augment="crop")
    assert _said(capsys) == [13 + 4, 13]  # in an epoch a row draws one of its views


def test_a_disk_too_small_for_the_first_epoch_is_refused_at_its_start(
    workshop, encoded, monkeypatch, capsys
):
    _free(monkeypatch, 20_000)
    encoded.clear()
    with pytest.raises(CacheError, match=r"image features of 3 items.*text features of 12 items"):
        workshop.fit(workshop.cache())
    assert max(encoded) == 1  # no batch; the shapes are taken from a blank item
    assert not list((workshop.root / "features").glob("*-*/shard-*"))
    # enough for three colours, though not for sixteen pictures: they are read to know
    _free(monkeypatch, 80_000)
    workshop.fit(workshop.cache())
    assert _said(capsys) == [3, 12]
