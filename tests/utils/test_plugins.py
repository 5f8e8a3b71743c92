import importlib
import sys

import pytest

from epic_pl.nn import EPIC, Method
from epic_pl.utils.errors import UntrustedError
from epic_pl.utils.plugins import find_class


@pytest.mark.parametrize(
    "name",
    [
        "epic_pl.inference.templates.predict.Model",
        "epic_pl.not_yet_imported.Model",
        "epic_pl.data.processor.Processor",  # no method
        "epic_pl.nn.Method.mro",
    ],
)
def test_a_file_that_names_a_class_of_the_package_imports_nothing(name, tmp_path, monkeypatch):
    (tmp_path / "not_yet_imported.py").write_text("from epic_pl.nn import EPIC as Model")
    monkeypatch.setattr("epic_pl.__path__", [*sys.modules["epic_pl"].__path__, str(tmp_path)])
    before = set(sys.modules)
    with pytest.raises(UntrustedError, match=r"model\.ckpt needs the Method"):
        find_class(Method, name, "model.ckpt")
    assert set(sys.modules) == before


@pytest.mark.parametrize("name", ["EPIC", f"{EPIC.__module__}.EPIC"])
def test_a_file_names_a_class_of_the_package_by_its_name_or_import_path(name):
    assert find_class(Method, name, "model.ckpt") is EPIC


def test_the_script_of_exported_folders_is_no_module_of_the_package():
    with pytest.raises(ModuleNotFoundError, match="predict"):
        importlib.import_module("epic_pl.inference.templates.predict")
