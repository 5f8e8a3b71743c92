"""Parsers that are made from functions: their own options, and those of ``fit``."""

import pytest
from jsonargparse import ArgumentError

from epic_pl.cli.commands.parser import parse_command


@pytest.mark.parametrize(
    ("argv", "parsed"),
    [
        (
            ["where", "--fit.x", "1", "--flag", "--count", "2", "--y=3"],
            {"fit_options": ["where", "--fit.x", "1", "--y=3"], "flag": True, "count": 2},
        ),
        (["--flag", "false", "1"], {"fit_options": ["1"], "flag": False}),
        (["--flag=false", "--two-words", "a, {b}"], {"flag": False, "two_words": "a, {b}"}),
        (["--config", "--count=3"], {"fit_options": ["--config"], "count": 3}),
    ],
)
def test_options_of_a_command_are_told_from_those_of_fit(argv, parsed):
    def function(fit_options: list[str], two_words: str = "", count: int = 1, flag: bool = False):
        """Do it."""

    default = {"fit_options": [], "two_words": "", "count": 1, "flag": False}
    assert parse_command("x", function, argv) == default | parsed


@pytest.mark.parametrize(
    "argv",
    [
        ["a", "--cont", "2"],
        ["a", "--count"],
        ["a", "--name"],
        ["a", "--name", "--count", "2"],
        ["a", "b"],
        [],
    ],
)
def test_what_is_no_option_of_a_command_is_refused(argv):
    def function(place: str, *, count: int = 1, name: str = ""):
        """Do it."""

    with pytest.raises(ArgumentError):
        parse_command("x", function, argv)
    assert parse_command("x", function, ["a"]) == {"place": "a", "count": 1, "name": ""}


def test_a_list_takes_all_words_but_options():
    def function(places: list[str], count: int = 1):
        """Do it."""

    parsed = parse_command("x", function, ["a", "--count", "2", "b,c"])
    assert parsed == {"places": ["a", "b,c"], "count": 2}
    for argv in (["a", "--cont", "2"], []):
        with pytest.raises(ArgumentError):
            parse_command("x", function, argv)
