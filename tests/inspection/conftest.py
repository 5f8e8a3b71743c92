"""A folder for a dataset, and the command line on the tiny encoders."""

import pytest

import tiny_openmoji
from epic_pl.main import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder within the working folder, with a cache of its own."""
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my data"
    folder.mkdir()
    return folder


@pytest.fixture
def tiny(tiny_vit_dir, tiny_tokenizer_dir):
    """Options of a short run on the tiny encoders."""
    return tiny_openmoji.fit_options(tiny_vit_dir, tiny_tokenizer_dir)


@pytest.fixture
def data(capsys):
    """``epic-pl data ARGUMENTS``: the exit code, and the text on stdout and stderr."""

    def data(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["data", *map(str, arguments)])
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    return data
