"""Public docstrings have examples, which run and print what they show.

They run in a folder with two tiny encoders, ``tiny-vit`` and ``tiny-bert``, images of coloured
squares with a table, ``table.csv``, and two trained models below ``runs``. Beside the names of
their module they know ``encoders``, the pair of both, and ``batch``, four samples.
"""

import doctest
import gc
from importlib import import_module
from pathlib import Path

import pytest
import torch

import epic_pl
import tiny_encoders
import tiny_runs
from epic_pl.module import losses, metrics, postprocess, ranking
from epic_pl.nn import Pair
from epic_pl.nn.encoders import build_image_encoder, build_text_encoder

SOURCE = Path(epic_pl.__file__).parent
MODULES = [
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    for path in sorted(SOURCE.rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]
ROOMS = ("epic_pl", "epic_pl.data", "epic_pl.module", "epic_pl.nn", "epic_pl.nn.methods")
# what methods build and return; no code of a user's makes these
NOT_MADE = {"DualEncoder", "EPICModel", "Output"}
PARTS = {
    losses: ("ClassificationLoss", "MatchingLoss", "prior_logits", "resolve_weights"),
    metrics: ("MacroF1", "SamplesF1", "build_metrics", "compute_metrics"),
    postprocess: ("assign_labels", "calibration_error"),
    ranking: ("ranking_scores",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("examples")
    tiny_encoders.write_vit(root / "tiny-vit")
    tiny_encoders.write_bert(root / "tiny-bert")
    table = tiny_runs.table(root)
    train(table, root / "runs" / "colour")
    tones = table.read_text().replace(",red,", ",warm,").replace(",green,", ",cold,")
    (root / "tones.csv").write_text(tones.replace(",blue,", ",cold,"))
    train(root / "tones.csv", root / "runs" / "tone")
    yield root
    gc.collect()  # other tests list all imported methods and losses


def train(table, output):
    """Train a linear probe long enough to tell the colours apart, and save it."""
    torch.manual_seed(0)
    encoders = table.parent / "tiny-vit", table.parent / "tiny-bert"
    data = tiny_runs.table_data(table, *encoders)
    known = {"class_names": data.class_names, "preprocessing": data.preprocessing}
    options = {"num_classes": data.num_classes, "method": "LinearProbe"}
    module = tiny_runs.module(*encoders, **options, **known)
    tiny_runs.trainer(output, max_epochs=10, log_every_n_steps=1).fit(module, data)
    epic_pl.Classifier(module).save_pretrained(output)


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_show(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    failures = []
    for docstring in doctest.DocTestFinder().find(import_module(name)):
        if docstring.examples:
            encoders = Pair(build_image_encoder("tiny-vit"), build_text_encoder("tiny-bert"))
            given = {"encoders": encoders, "batch": tiny_runs.batch()}
            # classes that an example defines are not of this package
            docstring.globs |= {"__name__": "example", **given}
            doctest.DocTestRunner().run(docstring, out=failures.append)
    assert not failures, "".join(failures)


def test_each_public_name_has_an_example():
    rooms = {room: room.__all__ for room in map(import_module, ROOMS)} | PARTS
    named = {name: getattr(room, name) for room, names in rooms.items() for name in names}
    public = {name: value for name, value in named.items() if callable(value)}
    bare = {name for name, value in public.items() if ">>>" not in (value.__doc__ or "")}
    assert bare == NOT_MADE
