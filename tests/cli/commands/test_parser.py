"""Parsers that are made from functions: their own options, and those of ``fit``."""

import pytest
from jsonargparse import ArgumentError

from epic_pl.cli.commands.parser import parse_command


@pytest.mark.parametrize(
    ("argv", "parsed"),
    [
        (
            ["where", "--fit.x", "1", "--flag", "--count", "2", "--y=3"],
            {"fit_options": ["--fit.x", "1", "--y=3"], "flag": True, "count": 2},
        ),
        (["where", "--flag", "1"], {"fit_options": ["1"], "flag": True}),
        (["where", "--two-words", "a, {b}"], {"two_words": "a, {b}"}),
        (["where", "--config", "--count=3"], {"fit_options": ["--config"], "count": 3}),
        (
            ["where", "--model", "Own", "--place=x"],
            {"fit_options": ["--model", "Own", "--place=x"]},
        ),
    ],
)
def test_options_of_a_command_are_told_from_those_of_fit(argv, parsed):
    def function(
        place: str,
        fit_options: list[str],
        two_words: str = "",
        count: int = 1,
        flag: bool = False,
    ):
        """Do it."""

    default = {"place": "where", "fit_options": [], "two_words": "", "count": 1, "flag": False}
    assert parse_command("x", function, argv) == default | parsed
    for before in ([], ["where", "else"]):  # each command takes its model first
        with pytest.raises(ArgumentError):
            parse_command("x", function, [*before, *argv[1:]])


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


@pytest.mark.parametrize("fit", [True, False])
def test_a_second_place_is_the_output_that_the_error_names(fit):
    def function(model: str, fit_options: list[str], output: str = "x", more: bool = False):
        """Do it."""

    def other(model: str, output: str = "x", more: bool = False):
        """Do it."""

    taken = function if fit else other
    with pytest.raises(
        ArgumentError, match="out/b is one word too many: epic-pl export runs/a --output out/b"
    ):
        parse_command("export", taken, ["runs/a", "out/b", "--more"])
    assert parse_command("export", taken, ["runs/a", "--output", "out/b"])["output"] == "out/b"


def test_a_list_takes_all_words_but_options():
    def function(places: list[str], count: int = 1):
        """Do it."""

    parsed = parse_command("x", function, ["a", "--count", "2", "b,c"])
    assert parsed == {"places": ["a", "b,c"], "count": 2}
    for argv in (["a", "--cont", "2"], []):
        with pytest.raises(ArgumentError):
            parse_command("x", function, argv)
