"""The text of .csv files: lines, records, cells, and what a cell says.

A record is a line, or several of them where a quote holds the end of a line. Cells are kept as they are written, so
that a file can be written again with every other character as it was.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import chain
from pathlib import Path

Record = tuple[int, list[str]]  # number of its first line, and its cells as they are written
WORDS = """
    NA na N/A n/a #N/A #NA <NA> NaN nan NAN -NaN -nan NULL Null null None none NONE
    - -- ? . .. \\N 1.#IND -1.#IND 1.#QNAN -1.#QNAN
"""
MISSING = frozenset(("", "#N/A N/A", *WORDS.split()))
"""What programs write where a value is missing."""
TRUE, FALSE = ("True", "true", "TRUE"), ("False", "false", "FALSE")
_NUMBER = r"[+-]?(?:(?:\d+{0}?\d*|{0}\d+)(?:[eE][+-]?\d+)?|[iI]nf(?:inity)?|INF)"
WITH_POINT, WITH_COMMA = (re.compile(_NUMBER.replace("{0}", mark), re.ASCII) for mark in (r"\.", ","))


def open_text(file: Path, encoding: str) -> Iterator[str]:
    """The lines of a file with their ends; the mark of the encoding, if there is one, begins the first."""
    with file.open(encoding=encoding, newline="") as stream:
        yield from stream


def with_mark(lines: Iterator[str]) -> tuple[str, Iterator[str]]:
    """The mark of the encoding, if there is one, and the lines without it."""
    first = next(lines, "")
    rest = first.removeprefix("\ufeff")
    return first[: len(first) - len(rest)], chain([rest] if first else [], lines)


def value(cell: str) -> str:
    """What a cell says, without the quotes and the space around it."""
    if len(cell) > 1 and cell[0] == cell[-1] == '"':
        cell = cell[1:-1].replace('""', '"')
    return cell.strip()


def is_number(text: str) -> bool:
    """Whether a value is a number, with a decimal point or comma."""
    return WITH_POINT.fullmatch(text) is not None or WITH_COMMA.fullmatch(text) is not None


def cells_of(record: str, separator: str) -> list[str] | None:
    """The cells of a record as they are written; None if a quote is open at its end."""
    if '"' not in record:
        return record.split(separator)
    cells, begin = [], 0
    while True:
        after = begin
        if record.startswith('"', begin):
            after = record.find('"', begin + 1)
            while record.startswith('""', after):
                after = record.find('"', after + 2)
            if after < 0:
                return None
        end = record.find(separator, after)
        if end < 0:
            return [*cells, record[begin:]]
        cells.append(record[begin:end])
        begin = end + 1


def records_of(lines: Iterable[str], separator: str, first: int = 1) -> Iterator[tuple[int, str, list[str]]]:
    """Records of lines that are counted from `first`: number, text with the end of its line, and cells.

    What is blank has one empty cell. Of a quote that is never closed the number of the line and no cells are given.
    """
    begun, before = first, ""
    for number, line in enumerate(lines, first):
        begun, before = (begun, before + line) if before else (number, line)
        cells = cells_of(before.rstrip("\r\n"), separator)
        if cells is not None:
            yield begun, before, cells
            before = ""
    if before:
        yield begun, before, []


def is_comment(text: str, cells: Sequence[str], width: int) -> bool:
    """Whether a record is no row: empty, or blank or after a #, with more or fewer cells than rows have."""
    blank = not text.strip() or text.lstrip().startswith("#")
    return not text.strip("\r\n") or (blank and len(cells) != width)


class Kind(StrEnum):
    """What the cells of a column hold."""

    NUMBERS = "numbers"
    BOOLEANS = "booleans"
    TEXT = "text"


def is_value(text: str) -> bool:
    """Whether a cell is a number, a boolean, or missing."""
    return text in MISSING or text in TRUE or text in FALSE or is_number(text)


def kind_of(column: Iterable[str]) -> Kind:
    """What most values of a column are; a few wrong ones do not make it another kind."""
    texts = [text for text in column if text not in MISSING]
    numbers = sum(is_number(text) for text in texts)
    booleans = sum(text in TRUE or text in FALSE for text in texts)
    words = len(texts) - numbers - booleans
    if words and words >= numbers + booleans:
        return Kind.TEXT
    return Kind.BOOLEANS if booleans > numbers else Kind.NUMBERS
