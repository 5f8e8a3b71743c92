import json

import pytest

from epic_pl.utils.assets.sentence_files import read_sentence_files
from epic_pl.utils.errors import AssetError, EncoderError

PROMPTS = {"query": "query: ", "document": "", "STS": "task: similarity | query"}


def written(folder, prompts=PROMPTS, default=None, pooling=None):
    content = {"prompts": prompts, "default_prompt_name": default}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(content))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {}))
    return str(folder)


@pytest.mark.parametrize(
    ("chosen", "default", "text"),
    [
        ("auto", None, ""),
        ("auto", "query", "query: "),
        ("auto", "gone", ""),
        ("none", "query", ""),
        ("", "query", ""),
        ("query", None, "query: "),
        ("document", "query", ""),
        ("STS", None, "task: similarity | query"),
        ("task: similarity | query", None, "task: similarity | query"),  # of a checkpoint
        ("passage: ", None, "passage: "),
        ("title:", None, "title:"),
    ],
)
def test_prompts_are_chosen_by_name_or_given_as_text(chosen, default, text, tmp_path):
    folder = written(tmp_path, default=default)
    assert read_sentence_files(folder).prompt(chosen, folder) == text


@pytest.mark.parametrize("chosen", ["passage", "Query", "a text"])
def test_an_unknown_prompt_is_told_the_known_ones(chosen, tmp_path):
    folder = written(tmp_path)
    message = rf"no prompt '{chosen}': set data.text_prompt to auto, none, query, document, STS, or"
    with pytest.raises(EncoderError, match=message):
        read_sentence_files(folder).prompt(chosen, folder)


def test_prompts_that_are_not_pooled_are_not_offered(tmp_path):
    files = read_sentence_files(written(tmp_path, pooling={"include_prompt": False}))
    assert files.prompts == {}


def test_an_encoder_without_such_files_has_no_prompt(tmp_path):
    files = read_sentence_files(str(tmp_path))
    assert (files.pooling, files.prompt("auto", "x"), files.max_tokens) == ("", "", None)


def test_the_wheel_of_minilm_is_pooled_as_it_was_trained(tmp_path, monkeypatch):
    path = "epic_pl.utils.assets.sentence_files.resolve_encoder"
    monkeypatch.setattr(path, lambda name, revision: (str(tmp_path), None))
    assert read_sentence_files("pypi:all-minilm-l6-v2").pooling == "mean"


@pytest.mark.parametrize("path", ["..", "own/../..", "{root}"])
def test_a_module_is_never_read_outside_of_the_folder(path, tmp_path):
    (tmp_path / "config.json").write_text('{"pooling_mode": "mean"}')
    (own := tmp_path / "own").mkdir()
    modules = [{"type": "models.Pooling", "path": path.format(root=tmp_path)}]
    (own / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(AssetError, match=r"modules\.json.* leads outside of"):
        read_sentence_files(str(own))


@pytest.mark.parametrize(
    "content",
    ["{cut", "[3]", '{"prompts": 3}', '{"prompts": ["a"]}', '{"default_prompt_name": ["a"]}'],
)
def test_a_damaged_file_is_named(content, tmp_path):
    file = tmp_path / "config_sentence_transformers.json"
    file.write_text(content)
    with pytest.raises(AssetError) as error:
        read_sentence_files(str(tmp_path))
    assert str(file) in str(error.value)
