"""Files of earlier versions, kept by `make_artifacts.py`, give the numbers that they gave then."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from epic_pl import Classifier, __version__
from epic_pl.utils.errors import CheckpointError
from tolerance import assert_same

ARCHIVES = {
    path.name.removesuffix(".tar.xz"): path for path in Path(__file__).parent.glob("*.tar.xz")
}
COLUMNS = {"image": "image", "text": "text", "id": "id"}


@pytest.fixture(params=sorted(ARCHIVES))
def version(request, workdir):
    """The version whose files are unpacked in the working folder."""
    shutil.unpack_archive(ARCHIVES[request.param], workdir, filter="data")
    return request.param


def check(predicted, expected):
    new = {"margin", "entropy"}  # since 0.1.0
    kept = [n for n in predicted.column_names if n in expected.column_names or n not in new]
    assert kept == expected.column_names
    for name, column in zip(expected.column_names, expected.columns, strict=True):
        if name.startswith(("probability", "margin", "entropy")):
            assert_same(predicted[name].to_numpy(), column.to_numpy())
        else:
            assert predicted[name].to_pylist() == column.to_pylist()


@pytest.mark.parametrize("model", ["adapter.ckpt", "saved", "exported"])
def test_models_classify_as_they_did(version, model):
    if model != "exported" and not Path("saved").exists():  # 0.1.0 named no classes
        with pytest.raises(CheckpointError, match=r"is of another version|no run or checkpoint"):
            Classifier.load(model)
        return
    if version == "0.3.0":  # its columns stand in the order of its options
        with pytest.raises(CheckpointError, match="is not in alphabetical order"):
            Classifier.load(model)
        return
    if version == "0.2.0" and model != "exported":  # as many parts as prompts, and no option
        with pytest.raises(CheckpointError, match="number of classes, prompts, parts or the hub"):
            Classifier.load(model)
        return
    predicted = Classifier.load(model, device="cpu").predict_table("rows.csv", **COLUMNS)
    expected = pq.read_table("predictions.parquet")
    is_test = np.isin(predicted["sample_id"], expected["sample_id"])
    check(predicted.filter(is_test), expected)


@pytest.mark.skipif("dev" in __version__, reason="files are kept once per release")
def test_this_release_keeps_its_own_files():
    assert __version__ in ARCHIVES
