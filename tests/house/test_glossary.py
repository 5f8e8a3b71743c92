"""One word for each thing: the glossary of docs/architecture.md, and names that left."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

import epic_pl

PACKAGE = Path(epic_pl.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
(TABLE,) = re.findall(r"## Glossary(.*?)\n## ", PAGE.read_text(), re.DOTALL)
TERMS = re.findall(r"^\| (.+?) \| .+? \| `(\S+): (\w+)` \|$", TABLE, re.MULTILINE)
# a hub consolidates, streams attend to a memory, and parts are located
LEFT = re.compile(
    r"exchange|interaction_?hub|compared?_|_compared?\b|reader$|read_(layer|mask)", re.I
)
# these mean the same in each room
SHARED = {"__init__.py", "base.py", "build.py", "datamodule.py", "dataset.py", "figures.py"}
SHARED |= {"openmoji.py", "summary.py"}


def defined(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name


def test_there_are_at_most_25_terms_and_each_stands_once():
    words = [word for terms, _, _ in TERMS for word in terms.split(", ")]
    assert 20 <= len(TERMS) <= 25
    assert len(words) == len(set(words))


@pytest.mark.parametrize(("terms", "path", "name"), TERMS, ids=[terms for terms, *_ in TERMS])
def test_a_term_lives_where_the_glossary_says(terms, path, name):
    assert name in defined(PACKAGE / path)


def test_the_core_has_no_second_word_for_a_term():
    names = {(path.name, name) for path in (PACKAGE / "nn").rglob("*.py") for name in defined(path)}
    assert not {each for each in names if LEFT.search(each[1])}


def test_two_modules_of_one_name_are_not_two_meanings():
    counts = Counter(path.name for path in PACKAGE.rglob("*.py"))
    assert {name for name, count in counts.items() if count > 1} == SHARED
