"""Words on the error stream: what was done, and what went wrong, in one line each.

Standard output is for results that another program may read. Whatever the command line writes goes through this module,
and what a terminal would obey is written out on the way (`visible`): names in it may be those of strangers.
"""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from sparsentropy.visible import visible


@final
class _Visible(Console):
    """A console that writes out what a terminal would obey, unless it is of its own making."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See `Console.render`."""
        for one in super().render(renderable, options):
            yield one if one.control else one._replace(text=visible(one.text, breaks=True))


def console(**options: Any) -> Console:
    """The error stream, made anew each time: it may have been replaced since the start."""
    return _Visible(**{"stderr": True, "highlight": False, **options})


def say(text: str, to: Console | None = None) -> None:
    """Write a line."""
    (to or console()).print(Text(visible(text)), soft_wrap=True)


def give(path: str | os.PathLike[str]) -> None:
    """Write the name of a file on standard output: visible on a terminal, and as it is for a program that reads it."""
    out = sys.stdout
    if out.isatty() or not hasattr(out, "buffer"):
        print(visible(os.fspath(path)))
        return
    out.flush()
    out.buffer.write(os.fsencode(path) + b"\n")  # the name may be no text
    out.buffer.flush()


@contextmanager
def warnings_as_notes(*, shown: bool = True, usual: bool = False) -> Iterator[None]:
    """Write warnings as notes of one line each once the block ends, however it ends; drop them if not `shown`.

    Those are meant that Python shows as a rule if `usual`, or else all of them.
    """
    with warnings.catch_warnings(record=True) as caught:
        if not usual:
            warnings.simplefilter("default")
        try:
            yield
        finally:
            for warning in caught if shown else ():
                say(f"note: {one_line(str(warning.message))}")


def fail(text: str) -> int:
    """Write what went wrong, and return the exit code for it."""
    console().print(Text.assemble(("error: ", "bold red"), visible(one_line(text))), soft_wrap=True)
    return 2


def one_line(text: str) -> str:
    """The text without its line breaks."""
    return " ".join(text.split())
