"""Public docstrings have examples, which run and print what they show.

They run in a folder with two tiny encoders, ``tiny-vit`` and ``tiny-bert``, and a table of coloured
squares, ``table.csv``. Beside the names of their module they know ``encoders``, the pair of both,
and ``batch``, four samples.
"""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import epic_pl
import tiny_encoders
import tiny_runs
from epic_pl.module import losses, matching, metrics, postprocess
from epic_pl.nn import Pair
from epic_pl.nn.encoders import build_image_encoder, build_text_encoder

SOURCE = Path(epic_pl.__file__).parent
MODULES = [
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    for path in sorted(SOURCE.rglob("*.py"))
    if ">>>" in path.read_text()
]
ROOMS = ("epic_pl", "epic_pl.data", "epic_pl.module", "epic_pl.nn", "epic_pl.nn.methods")
# what methods build and return; nobody calls these classes by themselves
NOT_CALLED = {"DualEncoder", "EPICModel", "Output"}
PARTS = {
    losses: ("ClassificationLoss", "prior_logits", "resolve_weights"),
    matching: ("MatchingLoss",),
    metrics: ("MacroF1", "SamplesF1", "SecondClassAUROC", "build_metrics", "compute_metrics"),
    postprocess: ("assign_labels", "calibration_error"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("examples")
    tiny_encoders.write_vit(root / "tiny-vit")
    tiny_encoders.write_bert(root / "tiny-bert")
    tiny_runs.table(root)
    return root


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_show(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    failures = []
    for example in doctest.DocTestFinder().find(import_module(name)):
        if example.examples:
            encoders = Pair(build_image_encoder("tiny-vit"), build_text_encoder("tiny-bert"))
            example.globs |= {"encoders": encoders, "batch": tiny_runs.batch()}
            doctest.DocTestRunner().run(example, out=failures.append)
    assert not failures, "".join(failures)


def test_each_public_name_has_an_example():
    public = {import_module(room): import_module(room).__all__ for room in ROOMS} | PARTS
    named = {name: getattr(room, name) for room, names in public.items() for name in names}
    classes = {name: value for name, value in named.items() if callable(value)}
    bare = {name for name, value in classes.items() if ">>>" not in (value.__doc__ or "")}
    assert not bare - NOT_CALLED
