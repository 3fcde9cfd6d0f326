"""How far learning is, on the terminal: sweep, bound, noise level and the time that is left.

Learning begins on a part of large data; how long that takes nobody can say, so only sweeps over all data are counted
and only then a time is given. On a terminal it is one line that renews itself. Where the output goes into a file,
plain lines are written now and then instead, so that a log stays short and can be read.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any, Protocol, final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from sparsentropy.visible import visible

SECONDS = 5.0  # between lines about the share that is done, at least


class Sweep(Protocol):
    """What the estimator tells after every sweep."""

    @property
    def start(self) -> int:
        """Which random start this is, from 1."""
        ...

    @property
    def rows(self) -> int:
        """How many data points the sweep passed over."""
        ...

    @property
    def max_sweeps(self) -> int:
        """The largest number of sweeps over all data, for each start."""
        ...

    @property
    def lower_bound(self) -> float:
        """Bound on these data points, in nats per data point."""
        ...

    @property
    def noise_variance(self) -> float:
        """Noise variance, in squared units of the data."""
        ...

    @property
    def seconds(self) -> float:
        """Time since learning began."""
        ...


@contextmanager
def shown(console: Console, n: int) -> Iterator[Callable[[Sweep], None]]:
    """Show progress on a console for as long as the block lasts.

    Parameters
    ----------
    console : rich.console.Console
        Where to write.
    n : int
        Number of all data points.

    Yields
    ------
    callable
        The ``callback`` for the estimator.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> one = SimpleNamespace(start=1, rows=9, max_sweeps=2, lower_bound=-3.5, noise_variance=0.01, seconds=7)
    >>> with shown(Console(width=80, highlight=False), n=9) as callback:
    ...     callback(one)
    sweep 1/2  bound -3.50  noise 0.1
    """
    count = _Counter(n)
    if not console.is_terminal:
        log = _Log(console, count)
        yield log.tell
        log.end()
        return
    with Progress(BarColumn(20), _State(), console=console, transient=True) as progress:
        task = progress.add_task("learning", total=None, state="first sweep")

        def callback(sweep: Sweep) -> None:
            state = count.tell(sweep)
            progress.update(task, completed=count.sweeps, total=sweep.max_sweeps if count.sweeps else None, state=state)

        yield callback


@contextmanager
def share(console: Console) -> Iterator[Callable[[str, float], None]]:
    """Show how much of a piece of work is done, for as long as the block lasts.

    Where there is no terminal, that is a line now and then.

    Parameters
    ----------
    console : rich.console.Console
        Where to write.

    Yields
    ------
    callable
        To be called with what is being done and the share of it that is done, between 0 and 1.

    Examples
    --------
    >>> with share(Console(width=80)) as tell:
    ...     tell("photograph.png", 0.5)
    """
    if not console.is_terminal:
        yield _Lines(console).tell
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0)

        def tell(what: str, done: float) -> None:
            what = visible(what)
            if progress.tasks[0].description != what:
                progress.reset(task, description=what)
            progress.update(task, completed=done)

        yield tell


def counted(
    parts: Iterable[Mapping[str, Sized]], n: int, what: str, tell: Callable[[str, float], None]
) -> Iterator[Any]:
    """Parts of n rows, each a table of columns, while it is told what share of the rows is done.

    Parameters
    ----------
    parts : iterable of mappings
    n : int
    what : str
        What is being done.
    tell : callable
        As `share` yields it.

    Examples
    --------
    >>> list(counted([{"x": "abc"}, {"x": "d"}], 4, "letters", print))
    letters 0.75
    letters 1.0
    [{'x': 'abc'}, {'x': 'd'}]
    """
    done = 0
    for part in parts:
        done += len(next(iter(part.values())))
        tell(what, done / n)
        yield part


@final
class _Lines:
    """Lines for a log: at every tenth of the work on a thing, but not more often than every few seconds."""

    def __init__(self, console: Console) -> None:
        self.console, self.what, self.tenths, self.last = console, "", 0, time.monotonic()

    def tell(self, what: str, done: float) -> None:
        """Take note of what is being done and the share of it that is done."""
        if what != self.what:
            self.what, self.tenths = what, 0
        now, tenths = time.monotonic(), int(10 * done)
        if self.tenths < tenths < 10 and now - self.last >= SECONDS:
            self.console.print(Text(visible(f"{what}: {10 * tenths} % done")), soft_wrap=True)
            self.tenths, self.last = tenths, now


@final
class _State(ProgressColumn):
    """The words beside the bar."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["state"], no_wrap=True)


@final
class _Counter:
    """Counts the sweeps over all data of the present start, and since when."""

    def __init__(self, n: int) -> None:
        self.n, self.start, self.rows, self.sweeps, self.began = n, 1, 0, 0, 0.0

    def tell(self, sweep: Sweep) -> str:
        """Take note of a sweep and put it into words."""
        if sweep.start != self.start:
            self.start, self.sweeps = sweep.start, 0
        self.rows = sweep.rows
        if sweep.rows == self.n:
            self.sweeps += 1
            self.began = sweep.seconds if self.sweeps == 1 else self.began
        where = f"sweep {self.sweeps}/{sweep.max_sweeps}" if self.sweeps else f"first {sweep.rows:,} of {self.n:,}"
        many = f"start {self.start}  " if self.start > 1 else ""
        return f"{many}{where}  bound {sweep.lower_bound:.2f}  noise {sweep.noise_variance**0.5:.4g}{self._left(sweep)}"

    def _left(self, sweep: Sweep) -> str:
        """The time left if no sweep is spared, judged by the sweeps over all data after the first of them."""
        if self.sweeps < 2:
            return ""
        left = round((sweep.seconds - self.began) / (self.sweeps - 1) * (sweep.max_sweeps - self.sweeps))
        return f"  at most {left // 60}:{left % 60:02d} left"


@final
class _Log:
    """A line for every part of the data, every tenth of the way over all data, and the last sweep of each start."""

    def __init__(self, console: Console, count: _Counter) -> None:
        self.console, self.count, self.waiting = console, count, ""

    def tell(self, sweep: Sweep) -> None:
        """Take note of a sweep, and write a line if it is time for one."""
        count, before = self.count, self.count.rows
        if sweep.start != count.start:
            self.end()
        self.waiting = count.tell(sweep)
        if sweep.rows != before or (count.sweeps and count.sweeps % max(1, round(sweep.max_sweeps / 10)) == 0):
            self.end()

    def end(self) -> None:
        """Write the line of the last sweep if that was not done."""
        if self.waiting:
            self.console.print(self.waiting, soft_wrap=True)
        self.waiting = ""
