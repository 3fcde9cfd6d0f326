"""Made-up data and made-up files, thousands of them: whether the library has an answer or a clear refusal for each."""

import importlib
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from table import Table

EACH, LEAST = 920, 15  # cases of each property, and with --quick
TESTS = Path(__file__).parents[1] / "tests"
MODULES = ("test_untrusted", "test_properties")
PREFIX = "test_"
NOTES = f"""\
The properties of `tests/test_properties.py` and `tests/test_untrusted.py`, with {EACH:,} cases each, not the {LEAST}
of `make test`, made up by Hypothesis without a fixed seed: small tables of every kind (at random, of low rank, with
equal rows or columns that never vary, with one huge row, mostly zero, with gaps; scales from 1e-12 to 1e12; five
types, five layouts), all posteriors and caches; and files with bytes that were changed, or with strange content and
the right checksum. *Answers* are models that were learned, or files that were read, and for which all of the property
holds; a case may take several. *Refusals* are errors of one line that say what is wrong with the data or the file,
and leave the model as it was. *Failures* are all else: a crash, NaN, another exception, a property that does not
hold."""


def run(*, quick: bool) -> Iterator[list[Table]]:
    os.environ["SPARSENTROPY_CASES"] = str(LEAST if quick else EACH)
    sys.path.insert(0, str(TESTS))
    table = Table("Made-up cases", NOTES, ("property", "cases", "answers", "refusals", "failures", "seconds"))
    table.begin()
    for name in MODULES:
        module = importlib.import_module(name)
        for title, check in properties(module):
            module.TALLY.clear()
            began = time.perf_counter()
            failures, cases = tried(check)
            took = time.perf_counter() - began
            refusals = sum(number for (_, end), number in module.TALLY.items() if end == "refusal")
            answers = module.TALLY.total() - refusals
            table.add(title, f"{cases:,}", f"{answers:,}", f"{refusals:,}", f"{failures}", f"{took:.0f}")
            yield [table]


def properties(module: ModuleType) -> list[tuple[str, Callable[[], None]]]:
    """Name and function of what Hypothesis makes up cases for."""
    found = {name: value for name, value in vars(module).items() if hasattr(value, "hypothesis")}
    return [(name.removeprefix(PREFIX).replace("_", " "), value) for name, value in found.items()]


def tried(check: Callable[[], None]) -> tuple[int, int]:
    """Failures, the first of which ends it and is printed, and cases."""
    cases, inner = 0, check.hypothesis.inner_test  # pyright: ignore[reportFunctionMemberAccess]

    def counted(*arguments: object, **options: object) -> None:
        nonlocal cases
        inner(*arguments, **options)
        cases += 1  # unless Hypothesis gave it up half made

    check.hypothesis.inner_test = counted  # pyright: ignore[reportFunctionMemberAccess]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check()
    except Exception:
        print("\n" + traceback.format_exc(), flush=True)
        return 1, cases
    finally:
        check.hypothesis.inner_test = inner  # pyright: ignore[reportFunctionMemberAccess]
    return 0, cases
