"""Tables in .csv files: their numbers, batch by batch, and the same file again with its gaps filled in.

The first lines say how a file is written (`csv_dialect`), and every later line is held to that: a row with more or
fewer cells, or a cell that is no number, is refused by its line. Nothing is guessed and nothing is dropped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast, final

import numpy as np
from numpy.typing import NDArray

from . import checks
from .csv_cells import (
    FALSE,
    MISSING,
    TRUE,
    WITH_COMMA,
    WITH_POINT,
    Kind,
    cells_of,
    is_comment,
    open_text,
    records_of,
    value,
    with_mark,
)
from .csv_dialect import Dialect, refuse_words, sniff
from .csv_header import uncommented

Array = NDArray[Any]
BLOCK = 2**23  # bytes of a file that are read together


@final
@dataclass(frozen=True)
class CsvTable:
    r"""A table in a .csv file.

    Parameters
    ----------
    file : Path
    dialect : Dialect

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "x.csv"
    ...     _ = file.write_text("a;b\n0,5;1,25\n?;2,0\n")
    ...     table = CsvTable.open(file)
    ...     print(*table.numbers([1, 0]))
    ...     print("".join(table.filled([0, 1], lambda x: (np.nan_to_num(x, nan=7.5), x), std=False)).strip())
    [[1.25 0.5 ]
     [2.    nan]]
    a;b
    0,5;1,25
    7,5;2,0
    """

    file: Path
    dialect: Dialect

    @classmethod
    def open(cls, file: Path) -> "CsvTable":
        """Look at the first lines of a file.

        Raises
        ------
        ValueError
            If it is no table, or can be understood in two ways.
        """
        with checks.reading(file, "a .csv table"), file.open("rb"):
            pass
        return cls(file, sniff(file))

    def numbers(self, columns: Sequence[int]) -> Iterator[Array]:
        """Read the numbers of some columns, in this order.

        Parameters
        ----------
        columns : sequence of int
            Those of numbers or booleans.

        Yields
        ------
        ndarray, shape (rows, columns)
            Float64, NaN where a value is missing; True and False are 1 and 0.

        Raises
        ------
        ValueError
            If a row has more or fewer cells than the others, or a cell is no number.
        """
        import pyarrow as pa  # imported late: only tables need it

        if self.dialect.width == 1:
            self._check_blank_lines()
        try:
            with checks.utf_8(self.file, self.dialect.encoding):
                yield from self._numbers(columns)
        except pa.ArrowInvalid as error:
            with checks.utf_8(self.file, self.dialect.encoding):
                self._check_rows()
            with checks.reading(self.file, "a .csv table"):
                raise error from None

    def filled(
        self, columns: Sequence[int], fill: Callable[[Array], tuple[Array, Array]], *, std: bool
    ) -> Iterator[str]:
        """Give the text of the file again, in which only what was missing is another.

        Parameters
        ----------
        columns : sequence of int
            In which gaps are filled.
        fill : callable
            From numbers as `numbers` gives them to those with which gaps are filled, and their standard deviations.
        std : bool
            Whether columns with the standard deviations follow, 0 for what was not missing.

        Yields
        ------
        str
            Pieces of the text, with the ends of lines as they were.

        Raises
        ------
        ValueError
            If the file cannot be read, or has columns of the names that the standard deviations get.
        """
        with checks.utf_8(self.file, self.dialect.encoding):
            mark, lines = with_mark(open_text(self.file, self.dialect.encoding))
            yield mark + "".join(self._head(list(islice(lines, self.dialect.skipped)), columns, std=std))
            records = records_of(lines, self.dialect.separator, self.dialect.skipped + 1)
            for known in self.numbers(columns):
                new, spread = fill(known)
                gaps, texts = np.isnan(known), []
                spread = np.where(gaps, spread, 0)[:, np.argsort(columns)] if std else spread[:, :0]
                for row in range(len(known)):
                    between, text, cells = self._next_row(records)
                    for j in np.flatnonzero(gaps[row]).tolist():
                        cells[columns[j]] = self._text(new[row, j])
                    more = [self._text(one) for one in spread[row]]
                    texts += [between, self._with(text, cells, more) if more or gaps[row].any() else text]
                yield "".join(texts)
            yield "".join(text for _, text, _ in records)

    def _numbers(self, columns: Sequence[int]) -> Iterator[Array]:
        """As `numbers`; what is wrong is told by pyarrow."""
        import pyarrow as pa
        from pyarrow import csv

        dialect = self.dialect
        names = [str(j) for j in range(dialect.width)]
        wanted = [names[j] for j in columns] + names[len(dialect.kinds) :]
        with self.file.open("rb") as stream:
            source: Any = pa.PythonFile(stream, "r")
            if dialect.encoding != "utf-8":
                source = pa.transcoding_input_stream(source, dialect.encoding, "utf-8")
            reader = csv.open_csv(
                source,
                csv.ReadOptions(column_names=names, skip_rows=dialect.skipped, block_size=BLOCK),
                csv.ParseOptions(
                    delimiter=dialect.separator, newlines_in_values=True, invalid_row_handler=_skip_comments
                ),
                csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), include_columns=wanted),
            )
            rows = 0
            for batch in reader:
                found = np.empty((batch.num_rows, len(columns)))
                for j, column in enumerate(columns):
                    try:
                        found[:, j] = self._column(batch.column(j), column)
                    except pa.ArrowInvalid:
                        self._check_cells(batch.column(j).to_pylist(), column, rows)
                        raise
                if dialect.trailing:
                    self._check_trailing(batch.column(len(columns)).to_pylist(), rows)
                rows += len(found)
                if len(found):
                    yield found

    def _column(self, texts: Any, column: int) -> Array:
        """Numbers of a column of text."""
        import pyarrow as pa
        import pyarrow.compute

        dialect, compute = self.dialect, cast(Any, pyarrow.compute)  # which makes its functions when it is imported
        if dialect.kinds[column] == Kind.NUMBERS and dialect.decimal == "." and dialect.separator != " ":
            try:  # most are nothing but numbers
                return compute.cast(texts, pa.float64()).to_numpy(zero_copy_only=False)
            except pa.ArrowInvalid:
                pass
        texts = compute.utf8_trim_whitespace(texts)
        if dialect.separator == " " and compute.any(compute.equal(texts, "")).as_py():
            raise pa.ArrowInvalid("there are two spaces in a row")
        missing = compute.is_in(texts, value_set=pa.array(sorted(MISSING)))
        texts = compute.if_else(missing, pa.scalar(None, pa.string()), texts)
        if dialect.kinds[column] == Kind.BOOLEANS:
            true, false = (compute.is_in(texts, value_set=pa.array(words)) for words in (TRUE, FALSE))
            if not compute.all(compute.or_(compute.or_(true, false), missing)).as_py():
                raise pa.ArrowInvalid("a cell is neither True nor False")
            numbers = compute.if_else(missing, pa.scalar(None, pa.float64()), compute.cast(true, pa.float64()))
            return numbers.to_numpy(zero_copy_only=False)
        if dialect.decimal == ",":
            if compute.any(compute.match_substring(texts, ".")).as_py():
                raise pa.ArrowInvalid("a number has a point")
            texts = compute.replace_substring(texts, ",", ".")
        return compute.cast(texts, pa.float64()).to_numpy(zero_copy_only=False)

    def _check_blank_lines(self) -> None:
        """Refuse blank lines among those of a single column: they may be values that are missing, or nothing at all."""
        blank = None
        with checks.utf_8(self.file, self.dialect.encoding):
            lines = islice(open_text(self.file, self.dialect.encoding), self.dialect.skipped, None)
            for number, line in enumerate(lines, self.dialect.skipped + 1):
                if not line.strip():
                    blank = blank or number
                if blank and line.strip("\r\n"):
                    raise ValueError(
                        f"{self.file} has a blank line, line {blank}, in its only column; write NaN there if a value "
                        "is missing, or remove the line"
                    )

    def _records(self) -> Iterator[tuple[int, str, list[str]]]:
        """Rows of data, and what stands between them: number of the line, text and cells."""
        _, lines = with_mark(open_text(self.file, self.dialect.encoding))
        return records_of(islice(lines, self.dialect.skipped, None), self.dialect.separator, self.dialect.skipped + 1)

    def _line_of(self, row: int) -> int:
        """The number of the line in which a row of data begins."""
        width = self.dialect.width
        lines = (line for line, text, cells in self._records() if not is_comment(text, cells, width))
        return next(islice(lines, row, None))

    def _check_rows(self) -> None:
        """Refuse the first row with more or fewer cells than the others."""
        dialect, file = self.dialect, self.file
        for line, text, cells in self._records():
            if not cells:
                raise ValueError(f"{file} has a quote in line {line} that is never closed; close it")
            if len(cells) != dialect.width and not is_comment(text, cells, dialect.width):
                raise ValueError(
                    f"{file} has {len(cells):,} cells in line {line}, but {dialect.width:,} in the lines above; "
                    "correct that line"
                )

    def _check_trailing(self, texts: list[str], before: int) -> None:
        """Refuse the first of these rows, and how many came before, that has anything after the last separator."""
        row = next((row for row, text in enumerate(texts) if text), None)
        if row is not None:
            raise ValueError(
                f"{self.file} has {checks.quoted(texts[row])} in line {self._line_of(before + row)} after the last "
                "separator, where other lines have nothing; correct that line"
            )

    def _check_cells(self, texts: list[str], column: int, before: int) -> None:
        """Refuse the first of these cells of a column, before which so many rows came, that is not as others are."""
        dialect, expected = self.dialect, WITH_COMMA if self.dialect.decimal == "," else WITH_POINT

        def fits(text: str) -> bool:
            if text in MISSING:
                return bool(text) or dialect.separator != " "
            booleans = dialect.kinds[column] == Kind.BOOLEANS
            return text in TRUE + FALSE if booleans else expected.fullmatch(text) is not None

        stripped = [text.strip() for text in texts]
        row = next((row for row, text in enumerate(stripped) if not fits(text)), None)
        if row is None:
            return
        text = stripped[row]
        line = self._line_of(before + row)
        refuse_words(self.file, dialect, column, [(line, text)])
        if not text:
            raise ValueError(f"{self.file} has several spaces in a row in line {line}; save it separated by commas")
        raise ValueError(
            f"{self.file} has {checks.quoted(text)} in line {line}, {dialect.called(column)}, but "
            f"{'commas' if dialect.decimal == ',' else 'points'} in the numbers above; write decimal points, and no "
            "separators of thousands"
        )

    def _head(self, lines: list[str], columns: Sequence[int], *, std: bool) -> Iterator[str]:
        """The lines before the data, with names for the standard deviations."""
        for line, text, cells in records_of(lines, self.dialect.separator):
            if not std or line != self.dialect.header:
                yield text
                continue
            names = [uncommented(value(cell)) for cell in cells]
            more = [f"std_{names[j]}" for j in sorted(columns)]
            checks.new_names(self.file, names, more)
            yield self._with(text, cells, [self._cell(name) for name in more])

    def _next_row(self, records: Iterator[tuple[int, str, list[str]]]) -> tuple[str, str, list[str]]:
        """What stands before the next row of data, its text and its cells."""
        between = ""
        for _, text, cells in records:
            if len(cells) == self.dialect.width and text.strip("\r\n"):
                return between, text, cells
            between += text
        raise ValueError(f"{self.file} was changed while it was read; do not write to it")

    def _with(self, text: str, cells: list[str], more: list[str]) -> str:
        """A record with other cells, and with more of them."""
        row = text.rstrip("\r\n")
        last = len(cells) - (self.dialect.trailing and len(cells) == self.dialect.width)
        return self.dialect.separator.join([*cells[:last], *more, *cells[last:]]) + text[len(row) :]

    def _text(self, number: Any) -> str:
        """A number with all its digits."""
        return self._cell(str(number).replace(".", self.dialect.decimal))

    def _cell(self, text: str) -> str:
        """What reads as this text."""
        whole = cells_of(text, self.dialect.separator) == [text] and not text.startswith('"')
        whole = whole and not set(text) & set('"\r\n')
        return text if whole else '"' + text.replace('"', '""') + '"'


def _skip_comments(row: Any) -> str:
    """What pyarrow is to do with a row that has more or fewer cells than the others."""
    return "skip" if not row.text.strip() or row.text.lstrip().startswith("#") else "error"
