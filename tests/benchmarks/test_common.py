"""``benchmarks/common.py``: how rows are printed."""

import json

import common

ROWS = [{"method": "a", "rate": 1.5}, {"method": "b", "rate": 2}]


def test_rows_are_printed_as_a_table_or_as_json(capsys):
    parser = common.build_parser("First line.\n\nMore.")
    common.show(ROWS, parser.parse_args([]).json)
    table = "| method | rate |\n| --- | --- |\n| a | 1.5 |\n| b | 2 |\n"
    assert capsys.readouterr().out == table
    common.show(ROWS, parser.parse_args(["--json"]).json)
    assert json.loads(capsys.readouterr().out) == ROWS
    assert parser.description == "First line."
