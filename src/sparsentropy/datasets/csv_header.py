"""Whether the first line of a .csv file holds names or data, and what the names are.

Words are names, and numbers are data. Numbers that look like names, as years above columns do, and data that may be
row numbers or halves of other numbers, are refused in one line that says what to do.
"""

import re
from collections import Counter
from pathlib import Path

from . import checks
from .csv_cells import MISSING, WITH_POINT, Kind, Record, cells_of, is_value, kind_of, value


def is_header(file: Path, first: Record, body: list[Record]) -> bool:
    """Whether the first record holds names rather than numbers."""
    line, cells = first
    texts = [value(cell) for cell in cells]
    below = [[value(cell) for cell in cells] for _, cells in body]
    known = [cell for _, row in body for cell in row if value(cell) not in MISSING]
    bare = bool(known) and not any(cell.startswith('"') for cell in known)  # what is in quotes above it is a name
    words = {j for j, text in enumerate(texts) if not is_value(text) or (bare and cells[j].startswith('"'))}
    if len(texts) > 1 and not any(texts):
        raise ValueError(f"{file} has only empty cells in line {line}; remove that line, or write names there")
    if words and body and any(below[0]) and all(text in ("", "-", "--", "?", ".", "..") for text in below[0]):
        raise ValueError(
            f"{file} has {checks.listed(below[0], most=4)} in line {body[0][0]}, where nothing is known or units are "
            "left out; remove that line, or leave its cells empty"
        )
    if words:
        if body and all(kind_of(row[j] for row in below) == Kind.TEXT for j in words):
            return len(words) == len(texts)  # a row of words above rows of words names them
        counted = [text for j, text in enumerate(texts) if j not in words and text not in MISSING]
        spaced = _step(counted) == 1 if len(counted) == 2 else _step(counted) is not None
        if len(counted) >= len(words) and not spaced:
            raise _ambiguous(file, line, texts)
        return True
    return _is_numbered(file, line, texts, below)


def _is_numbered(file: Path, line: int, texts: list[str], below: list[list[str]]) -> bool:
    """Whether a first record of numbers is the 0, 1, 2, … that pandas writes for columns without names."""
    whole = all(re.fullmatch(r"\d+", text) for text in texts)
    others = [text for row in below for text in row if text not in MISSING]
    differ = whole and bool(others) and not any(re.fullmatch(r"[+-]?\d+", text) for text in others)
    if differ and len(texts) > 2 and is_counted(texts):
        return True
    step = _step(texts)
    elsewhere = any(_step(row) == step for row in below)
    many = len(texts) > 2 or (step == 1 and whole)  # of two numbers any are evenly spaced
    if (differ and (len(texts) == 1 or step)) or (many and step and below and not elsewhere):
        raise _ambiguous(file, line, texts)
    return False


def is_counted(texts: list[str]) -> bool:
    """Whether these are 0, 1, 2, …, by which pandas names columns without names."""
    return texts == [str(j) for j in range(len(texts))]


def _step(texts: list[str]) -> float | None:
    """The step between numbers, two or more, that are evenly spaced as years and wavelengths above columns are."""
    if len(texts) < 2 or not all(WITH_POINT.fullmatch(text) for text in texts):
        return None
    numbers = [float(text) for text in texts]
    step = (numbers[-1] - numbers[0]) / (len(numbers) - 1)
    even = all(abs(numbers[0] + j * step - x) <= 1e-6 * abs(step) for j, x in enumerate(numbers))
    return step if step and even else None


def _ambiguous(file: Path, line: int, texts: list[str]) -> ValueError:
    """The refusal of a first line that may be names or data."""
    some = checks.listed(texts, most=4)
    return ValueError(
        f"{file} has {some} in line {line}, which may be names or data; if they are names, begin each with a letter, "
        "and if they are data, put a line with names above"
    )


def names_of(file: Path, names: list[str]) -> tuple[str, ...]:
    """Names of columns, if each has one of its own."""
    if any(not name or name.startswith("Unnamed: ") for name in names):
        raise ValueError(f"{file} has a column without a name, probably row numbers; write it with index=False")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{file} has several columns of the name {checks.listed(twice)}; rename them")
    return tuple(names)


def names_in_comment(line: str, separator: str, width: int) -> tuple[str, ...] | None:
    """Names in a comment just above the data, as numpy.savetxt writes them; None if it holds others."""
    texts = [value(cell) for cell in cells_of(uncommented(line), separator) or ()]
    named = 1 < len(texts) == width == len(set(texts)) and not any(is_value(text) for text in texts)
    return tuple(texts) if named else None


def uncommented(text: str) -> str:
    """What stands after the # and the space that make a comment of it; #a may be a name."""
    return re.sub(r"^#+\s+", "", text.strip())


def check_halves(file: Path, body: list[Record]) -> None:
    """Refuse two numbers in each row, without names, that may be the halves of one with a comma in it."""
    rows = [cells for _, cells in body]
    whole = all(re.fullmatch(r"[+-]?\d+", cells[0]) for cells in rows)
    fraction = next((cells for cells in rows if cells[0] == "-0" or re.fullmatch(r"0\d+|\d+e[+-]?\d+", cells[1])), None)
    groups = all(
        re.fullmatch(r"[+-]?[1-9]\d{0,2}", cells[0]) and re.fullmatch(r"\d{3}\.\d+", cells[1]) for cells in rows
    )
    if (whole and fraction) or groups:
        text = checks.quoted(",".join(fraction or rows[0]))
        raise ValueError(
            f"{file} has {text} in a row, which may be one number or two; write decimal points and no separators of "
            "thousands, or put a line with two names above"
        )
