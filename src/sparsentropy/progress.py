"""How far learning is, on the terminal: sweep, bound, noise level and the time that is left.

On a terminal it is one line that renews itself. Where the output goes into a file, a plain line is written
every tenth of the way instead, so that a log stays short and can be read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text


class Sweep(Protocol):
    """What the estimator tells after every sweep."""

    @property
    def sweep(self) -> int:
        """Which sweep it was, from 1."""
        ...

    @property
    def max_sweeps(self) -> int:
        """The largest number of sweeps allowed."""
        ...

    @property
    def lower_bound(self) -> float:
        """Bound on the training data, in nats per data point."""
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
def shown(console: Console) -> Iterator[Callable[[Sweep], None]]:
    """Show progress on a console for as long as the block lasts.

    Parameters
    ----------
    console : rich.console.Console
        Where to write.

    Yields
    ------
    callable
        The ``callback`` for the estimator.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> with shown(Console(width=80, highlight=False)) as callback:
    ...     callback(SimpleNamespace(sweep=1, max_sweeps=2, lower_bound=-3.5, noise_variance=0.01, seconds=7))
    sweep 1/2  bound -3.50  noise 0.1  0:07 left
    """
    if not console.is_terminal:
        yield lambda sweep: _log(console, sweep)
        return
    with Progress(BarColumn(20), _State(), console=console, transient=True) as progress:
        task = progress.add_task("learning", total=None, state="first sweep")

        def callback(sweep: Sweep) -> None:
            progress.update(task, completed=sweep.sweep, total=sweep.max_sweeps, state=_state(sweep))

        yield callback


@final
class _State(ProgressColumn):
    """The words beside the bar."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["state"], no_wrap=True)


def _log(console: Console, sweep: Sweep) -> None:
    step = max(1, round(sweep.max_sweeps / 10))
    if sweep.sweep == 1 or sweep.sweep % step == 0:
        console.print(_state(sweep), soft_wrap=True)


def _state(sweep: Sweep) -> str:
    left = round(sweep.seconds / sweep.sweep * (sweep.max_sweeps - sweep.sweep))
    return (
        f"sweep {sweep.sweep}/{sweep.max_sweeps}  bound {sweep.lower_bound:.2f}  "
        f"noise {sweep.noise_variance**0.5:.4g}  {left // 60}:{left % 60:02d} left"
    )
