"""Words on the error stream: what was done, and what went wrong, in one line each.

Standard output is for results that another program may read.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text


def console() -> Console:
    """The error stream, made anew each time: it may have been replaced since the start."""
    return Console(stderr=True, highlight=False)


def say(text: str, to: Console | None = None) -> None:
    """Write a line."""
    (to or console()).print(Text(text), soft_wrap=True)


@contextmanager
def warnings_as_notes(*, shown: bool = True) -> Iterator[None]:
    """Write warnings as notes of one line each once the block ends, however it ends; drop them if not `shown`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            yield
        finally:
            for warning in caught if shown else ():
                say(f"note: {one_line(str(warning.message))}")


def fail(text: str) -> int:
    """Write what went wrong, and return the exit code for it."""
    console().print(Text.assemble(("error: ", "bold red"), one_line(text)), soft_wrap=True)
    return 2


def one_line(text: str) -> str:
    """The text without its line breaks."""
    return " ".join(text.split())
