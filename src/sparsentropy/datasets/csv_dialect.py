"""How a .csv file is written: its encoding, its separator, its decimal mark, its names, found out from its first lines.

Commas, semicolons, tabs, bars and single spaces may separate, and the decimal mark may be a comma. What can be
understood in two ways is refused in one line that says what was seen and what to do: a wrong guess would give numbers
that look right.
"""

import codecs
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from . import checks
from .csv_cells import (
    FALSE,
    MISSING,
    TRUE,
    Kind,
    Record,
    is_comment,
    is_number,
    is_value,
    kind_of,
    open_text,
    records_of,
    value,
    with_mark,
)
from .csv_header import check_halves, is_counted, is_header, names_in_comment, names_of

SAMPLE, LINES = 2**18, range(5, 1000)  # characters that are looked at, and lines at least and at most
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "spaces"}
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:[.,'\s]\d{3})+(?:[.,]\d+)?")  # 12,345 or 1.234.567,8
_ONE_GROUP = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}", re.ASCII)
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


@final
@dataclass(frozen=True)
class Dialect:
    """How a .csv file is written.

    Parameters
    ----------
    encoding : str
    separator : str
        One character.
    decimal : str
        A point or a comma.
    skipped : int
        Lines before the first row of data.
    header : int, optional
        The line with the names, counted from 1.
    trailing : bool
        Whether every row ends in a separator, after which there is nothing.
    names : tuple of str, optional
        Of the columns.
    kinds : tuple of Kind
        What each column holds.
    examples : tuple of str
        The first value of each column, empty if none was seen.
    """

    encoding: str
    separator: str
    decimal: str
    skipped: int
    header: int | None
    trailing: bool
    names: tuple[str, ...] | None
    kinds: tuple[Kind, ...]
    examples: tuple[str, ...]

    @property
    def width(self) -> int:
        """Cells in a row, with the empty one after a last separator."""
        return len(self.kinds) + self.trailing

    def called(self, column: int) -> str:
        """A column as messages call it."""
        return f"column {column + 1}" if self.names is None else f"column {checks.quoted(self.names[column])}"


def sniff(file: Path) -> Dialect:
    r"""Find out how a .csv file is written.

    Parameters
    ----------
    file : Path

    Returns
    -------
    Dialect

    Raises
    ------
    ValueError
        If it is no table, is not in UTF-8 or UTF-16, or can be understood in two ways.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "europe.csv"
    ...     _ = file.write_text("length;width\n1,25;0,5\n-2,125;NA\n")
    ...     dialect = sniff(file)
    >>> dialect.separator, dialect.decimal, dialect.names
    (';', ',', ('length', 'width'))
    """
    encoding = _encoding(file)
    with checks.utf_8(file, encoding):
        lines, whole = _sample(file, encoding)
    lead = next((i for i, line in enumerate(lines) if not _is_lead(line, i)), len(lines))
    separator, records = _separated(file, lines[lead:], lead + 1, _announced(lines), whole=whole)
    first, body = records[0], records[1:]
    header = is_header(file, first, body)
    body = body if header else records
    if not header and separator == "," and len(first[1]) == 2:
        check_halves(file, body)
    if not body:
        raise ValueError(f"{file} holds no rows; expected a table with one row or more")
    width = len(body[0][1])
    trailing = width > 1 and all(not value(cells[-1]) for _, cells in body)
    trailing = trailing and (not header or len(first[1]) < width or not value(first[1][-1]))
    _check_row_numbers(file, first, body, separator)
    columns = [[(line, value(cells[j])) for line, cells in body] for j in range(width - trailing)]
    names, named = None, first[0] if header else None
    if header and not is_counted([value(cell) for cell in first[1]]):
        names = names_of(file, [value(cell) for cell in first[1]][: len(columns)])
    elif lead and not header:
        names = names_in_comment(lines[lead - 1], separator, len(columns))
        named = lead if names else None
    kinds = tuple(kind_of(text for _, text in column) for column in columns)
    examples = tuple(next((text for _, text in column if text not in MISSING), "") for column in columns)
    dialect = Dialect(encoding, separator, ".", body[0][0] - 1, named, trailing, names, kinds, examples)
    for j, column in enumerate(columns):
        if kinds[j] != Kind.TEXT:
            refuse_words(file, dialect, j, column)
    numbers = [text for column, kind in zip(columns, kinds, strict=True) if kind == Kind.NUMBERS for _, text in column]
    return replace(dialect, decimal=_decimal(file, separator, numbers))


def is_grouped(text: str) -> bool:
    """Whether a value is a number with separators of thousands."""
    return _GROUPED.fullmatch(text) is not None


def refuse_words(file: Path, dialect: Dialect, column: int, values: Iterable[tuple[int, str]]) -> None:
    """Refuse a column of numbers, or of booleans, in which a cell holds neither; `values` are lines and their values.

    Raises
    ------
    ValueError
    """
    for line, text in values:
        boolean = text in TRUE or text in FALSE
        if text in MISSING or (boolean if dialect.kinds[column] == Kind.BOOLEANS else is_number(text)):
            continue
        others = "True or False" if dialect.kinds[column] == Kind.BOOLEANS else "numbers"
        advice = "correct it, or leave the cell empty if the value is missing"
        if is_grouped(text):
            advice = "write it without separators of thousands"
        elif not boolean and line == dialect.skipped + 1:
            advice = "remove this line if it holds units or more names, or correct the cell"
        raise ValueError(
            f"{file} has {checks.quoted(text)} in line {line}, {dialect.called(column)}, where others are {others}; "
            f"{advice}"
        )


def _encoding(file: Path) -> str:
    """UTF-8, or UTF-16 that says so."""
    with file.open("rb") as stream:
        start = stream.read(4096)
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise ValueError(f"{file} is in UTF-32; save it as UTF-8")
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    if b"\0" in start:
        raise ValueError(f"{file} is no text, or is in UTF-16 without its mark; save it as a .csv table in UTF-8")
    return "utf-8"


def _sample(file: Path, encoding: str) -> tuple[list[str], bool]:
    """The first lines, and whether these are all."""
    lines, size = [], 0
    _, rest = with_mark(open_text(file, encoding))
    for line in rest:
        if len(lines) >= LINES.stop or (size > SAMPLE and len(lines) >= LINES.start):
            return lines, False
        lines.append(line)
        size += len(line)
    return lines, True


def _is_lead(line: str, number: int) -> bool:
    """Whether a line stands before the table: blank, a comment, or the first one that tells Excel the separator."""
    return not line.strip() or line.lstrip().startswith("#") or (number == 0 and _announced([line]) is not None)


def _announced(lines: list[str]) -> str | None:
    """The separator that the first line tells Excel: sep=;."""
    found = re.fullmatch(r"\"?sep=(.)\"?\s*", lines[0]) if lines else None
    return found[1] if found and found[1] in SEPARATORS else None


def _separated(
    file: Path, lines: list[str], first: int, announced: str | None, *, whole: bool
) -> tuple[str, list[Record]]:
    """The separator by which all lines have equally many cells, and the records it gives."""
    if not lines:
        raise ValueError(f"{file} holds no rows; expected a table with one row or more")
    regular, irregular = [], []
    for separator in [announced] if announced else SEPARATORS:
        records = _records(lines, separator, first)
        if not whole and len(records) > 1 and not records[-1][1]:
            records = records[:-1]  # the sample ends within a quote
        if _is_regular(records, separator):
            cells = [value(cell) for _, cells in records[1:] or records for cell in cells]
            known = sum(map(is_value, cells))
            regular.append((known / len(cells), separator, records))
        elif {len(cells) for _, cells in records} != {1} and (announced or separator != " "):
            irregular.append((sum(len(cells) for _, cells in records), separator, records))
    if regular:
        _, separator, records = max(regular, key=lambda one: one[0])  # of equal ones the first
        return separator, records
    if irregular:
        _, separator, records = max(irregular, key=lambda one: one[0])
        raise ValueError(f"{file} {_irregularity(records, separator)}")
    if len(row := lines[-1].split()) > 1 and all(is_number(text) or text in MISSING for text in row):
        raise ValueError(f"{file} is separated by spaces, but not all rows alike; save it separated by commas")
    separator = announced or ","
    return separator, _records(lines, separator, first)


def _records(lines: list[str], separator: str, first: int) -> list[Record]:
    """Records without those that are blank or comments."""
    found = list(records_of(lines, separator, first))
    widths = Counter(len(cells) for _, text, cells in found if text.strip() and not text.lstrip().startswith("#"))
    width = max(widths, key=lambda width: widths[width]) if widths else 1
    return [(line, cells) for line, text, cells in found if not is_comment(text, cells, width)]


def _is_regular(records: list[Record], separator: str) -> bool:
    """Whether all records have equally many cells, more than one; names may lack the empty one at the end of rows."""
    first, *others = [cells for _, cells in records]
    body = others or [first]
    width = len(body[0])
    if width < 2 or any(len(cells) != width for cells in body):
        return False
    if separator == " ":
        return all(value(cell) for cells in (first, *others) for cell in cells) and len(first) == width
    return len(first) == width or (len(first) == width - 1 and all(not value(cells[-1]) for cells in body))


def _check_row_numbers(file: Path, first: Record, body: list[Record], separator: str) -> None:
    """Refuse rows with one more cell than there are names, if that may be a row number and not the empty last one."""
    numbers = [value(cells[0]) for _, cells in body]
    counted = any(numbers == [str(row + begin) for row in range(len(body))] for begin in (0, 1))
    if counted and len(first[1]) < len(body[0][1]):
        raise ValueError(f"{file} {_irregularity([first, *body], separator)}")


def _irregularity(records: list[Record], separator: str) -> str:
    """What to tell of records that have not equally many cells."""
    by = f"separated by {SEPARATORS[separator]}"
    unclosed = next((line for line, cells in records if not cells), None)
    if unclosed is not None:
        return f"has a quote in line {unclosed} that is never closed; close it"
    (line, first), body = records[0], records[1:]
    widths = {len(cells) for _, cells in body}
    if widths and len(widths) == 1 and len(first) not in widths:
        return (
            f"has {_cells(len(first))} in line {line} but {widths.pop()} in every line below, {by}; give every column "
            "a name and no more, remove what stands above the names, and write decimal points"
        )
    wrong, cells = next(((other, cells) for other, cells in body if len(cells) != len(first)), records[0])
    if separator == " " and wrong == line:
        return "is separated by spaces, but not all rows alike; save it separated by commas"
    return f"has {_cells(len(cells))} in line {wrong}, but {len(first)} in line {line}, {by}; correct that line"


def _cells(count: int) -> str:
    return f"{count:,} {'cell' if count == 1 else 'cells'}"


def _decimal(file: Path, separator: str, texts: list[str]) -> str:
    """The decimal mark of numbers."""
    point = [text for text in texts if "." in text and text not in MISSING]
    comma = [text for text in texts if "," in text]
    if point and comma:
        raise ValueError(
            f"{file} has decimal points ({checks.quoted(point[0])}) and commas ({checks.quoted(comma[0])}) in numbers; "
            "write decimal points, and no separators of thousands"
        )
    # A semicolon is used where the comma is the decimal mark, and there the point may separate thousands
    doubtful = comma or (point if separator == ";" else [])
    if doubtful and all(_ONE_GROUP.fullmatch(text) for text in doubtful):
        text = doubtful[0]
        raise ValueError(
            f"{file} has numbers such as {text}, which may be {text.replace(',', '.')} or "
            f"{re.sub('[.,]', '', text)}; write decimal points, separate by commas, and do not separate thousands"
        )
    return "," if comma else "."
