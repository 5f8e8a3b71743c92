"""CSV and TSV as Arrow, and quotes that were never closed, which would swallow rows in silence."""

import csv
import mmap
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from lightning.pytorch.utilities import rank_zero_warn

# a row must fit into a block: large enough for a page of text in every cell
_BLOCK = 16 << 20
_QUOTED = re.compile(r'"[^"]*"')
_LINE_BREAK = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class _Swallowed:
    """A cell of several lines that could be rows.

    Attributes:
        line: where its row begins.
        rows: the cells of each.
        column: the one that the cell is in.
    """

    line: int
    rows: list[list[str]]
    column: int


def read_csv(path: Path) -> pa.Table:
    """All cells as strings, null where empty; the header says what separates them.

    Raises:
        ValueError: a quote is not closed, or seems to have swallowed rows; naming the line.
        pyarrow.ArrowException: rows of several lengths, or no UTF-8.
    """
    delimiter = _delimiter(path)
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    read = pyarrow.csv.ReadOptions(block_size=_BLOCK)
    quoted = _has_quotes(path)
    suspects, count = _check_quotes(path, delimiter) if quoted else ([], 0)
    with pyarrow.csv.open_csv(path, read_options=read, parse_options=parse) as reader:
        names = reader.schema.names
    convert = pyarrow.csv.ConvertOptions(
        column_types={name: pa.string() for name in names},
        null_values=[""],
        strings_can_be_null=True,
    )
    table = pyarrow.csv.read_csv(path, read, parse, convert)
    if quoted and table.num_rows != count:
        raise ValueError(f"it has {count:,} rows, but {table.num_rows:,} were read")
    if suspects:
        _judge(path, table, suspects, delimiter)
    return table


def _delimiter(path: Path) -> str:
    """What separates most cells of the header, outside of quotes; the suffix's own where equal."""
    with path.open("rb") as file:
        header = _QUOTED.sub("", file.readline().decode("utf-8-sig"))
    if re.fullmatch(r"sep=.\s*", header):
        raise ValueError("its first line tells Excel the separator (sep=): delete that line")
    own = "\t" if path.suffix.lower() == ".tsv" else ","
    marks: list[str] = [own, *",;\t|"]
    return max(marks, key=header.count)


def _has_quotes(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b'"') >= 0


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _check_quotes(path: Path, delimiter: str) -> tuple[list[_Swallowed], int]:
    """Read a file by the letter: Arrow takes all that follows an open quote for one cell.

    Returns:
        Cells that may have swallowed rows, and how many rows there are.
    """
    suspects: list[_Swallowed] = []
    count = 0
    # what is no UTF-8 is found by Arrow, and named by its line afterwards
    with (
        _cells_of_any_length(),
        path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file,
    ):
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        end = 0  # line at which the row before ended
        try:
            width = len(next(reader, []))
            end = reader.line_num
            for row in reader:
                if row:
                    count += 1
                    if len(row) != width:
                        raise ValueError(
                            f"the row at line {end + 1} has {len(row)} cells, not {width}"
                        )
                    if reader.line_num > end + 1:
                        suspects.extend(_as_rows(row, end + 1, delimiter))
                end = reader.line_num
        except csv.Error as error:
            raise ValueError(
                f"in the row that begins at line {end + 1} a quote is not closed, or is closed "
                f"before the cell ends ({error}, line {reader.line_num})"
            ) from error
    return suspects, count


def _as_rows(row: list[str], line: int, delimiter: str) -> Iterator[_Swallowed]:
    """Cells of a row that may have swallowed rows.

    A quote that opens in one column closes in the same column of a later row, or the row would not
    have as many cells as the header. So each line in the cell has as many delimiters as a row.
    """
    for at, cell in enumerate(row):
        if delimiter not in cell or ("\n" not in cell and "\r" not in cell):
            continue
        if delimiter + " " in cell:  # prose: programs write no blank there
            continue
        lines = _LINE_BREAK.split(cell)
        if cell.count(delimiter) != (len(lines) - 1) * (len(row) - 1):
            continue
        rows = [part.split(delimiter) for part in lines]
        rows[0] = [*row[:at], *rows[0]]
        rows[-1] = [*rows[-1], *row[at + 1 :]]
        if all(len(cells) == len(row) for cells in rows):
            yield _Swallowed(line, rows, at)


def _judge(path: Path, table: pa.Table, suspects: list[_Swallowed], delimiter: str) -> None:
    """Refuse cells that are rows beyond doubt, and warn of those that may be prose.

    Raises:
        ValueError: texts hold no tabs, and a label or split that other rows have tells a row.
    """
    sure = suspects if delimiter == "\t" else _with_known_cells(table, suspects)
    first = (sure or suspects)[0]
    more = f" ({len(sure or suspects):,} such rows in all)" if len(sure or suspects) > 1 else ""
    found = (
        f"the row that begins at line {first.line} holds a quoted cell that reads like "
        f"{len(first.rows)} rows{more}"
    )
    if sure:
        raise ValueError(f"{found}: a quote that was not closed has swallowed them")
    rank_zero_warn(
        f"Table {path}: {found}. Unless it is a text of several lines, a quote is not closed there."
    )


def _with_known_cells(table: pa.Table, suspects: list[_Swallowed]) -> list[_Swallowed]:
    """Those with a cell in most lines that several rows have in its column, such as a label."""
    recurring = []
    for column in table.columns:
        counts = column.drop_null().value_counts()
        often = pc.greater(counts.field("counts"), 1)
        recurring.append(set(counts.field("values").filter(often).to_pylist()))

    def told(found: _Swallowed) -> bool:
        known, last = [], len(found.rows) - 1
        for number, cells in enumerate(found.rows):
            # only cells that come out of the suspicious one prove anything
            start = found.column + 1 if number == 0 else 0
            stop = found.column if number == last else len(cells)
            if start < stop:
                known.append(any(cells[j] in recurring[j] for j in range(start, stop)))
        return 2 * sum(known) >= len(known)

    return [found for found in suspects if told(found)]
