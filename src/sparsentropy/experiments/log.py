"""What an experiment says while it runs, and the parts of it that are done.

An experiment is made of parts that do not depend on each other: one data set, one seed, one method. Every part that is
done is written down beside the page to come, so an experiment that was stopped goes on where it was when the same
command is given again. When the page is there the record is no longer needed and goes.
"""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, final

import torch

from sparsentropy import storage

FILE = "unfinished.json"

Compute = Callable[[], Mapping[str, Any]]


@final
class Log:
    """Parts that are done.

    Parameters
    ----------
    tell : callable
        Hears a line whenever a part is done.
    folder : Path, optional
        Where the record is kept; nowhere without one.
    settings : mapping
        The numbers of the experiment. A record that was made with others is of no use and begins anew.
    jobs : int
        Processes that share parts, where an experiment allows it.

    Examples
    --------
    >>> log = Log(print)
    >>> log.part("bars, seed 0", lambda: {"bound": -8.9}, "{bound:.1f} nats")
    bars, seed 0: -8.9 nats
    {'bound': -8.9}
    """

    def __init__(
        self,
        tell: Callable[[str], object],
        folder: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        jobs: int = 1,
    ) -> None:
        self.tell = tell
        self.jobs = jobs
        self._file = folder / FILE if folder else None
        self._settings = json.loads(json.dumps(settings))
        self._parts: dict[str, Any] = self._read()

    def part(self, name: str, compute: Compute, line: str = "") -> dict[str, Any]:
        """A part: what the record says of it, or what is computed now.

        Parameters
        ----------
        name : str
            Tells this part from all others.
        compute : function
            Gives numbers, texts, lists and mappings of such.
        line : str
            What to say of it, to be formatted with the values.

        Returns
        -------
        dict
        """
        if name not in self._parts:
            self._done(name, compute(), line)
        return self._parts[name]

    def parts(self, computes: Mapping[str, Compute], line: str = "") -> dict[str, dict[str, Any]]:
        """Many parts that do not measure time against each other, shared by `jobs` processes.

        Parameters
        ----------
        computes : mapping of str to function
            As for `part`; with more than one job functions of modules, or `functools.partial` of such.
        line : str
            As for `part`.

        Returns
        -------
        dict
            By the same names, in the same order.
        """
        left = {name: compute for name, compute in computes.items() if name not in self._parts}
        if self.jobs > 1 and len(left) > 1:
            self._share(left, line)
        return {name: self.part(name, compute, line) for name, compute in computes.items()}

    def _share(self, computes: Mapping[str, Compute], line: str) -> None:
        threads = max(1, torch.get_num_threads() // self.jobs)
        with ProcessPoolExecutor(self.jobs, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
            names = {pool.submit(compute): name for name, compute in computes.items()}
            try:
                for future in as_completed(names):
                    self._done(names[future], future.result(), line)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # else everything that waits would be done first
                raise

    def _done(self, name: str, values: Mapping[str, Any], line: str) -> None:
        self._parts[name] = json.loads(json.dumps(values))  # the same whether computed or read
        self._write()
        self.tell(f"{name}: {line.format(**self._parts[name])}" if line else name)

    def close(self) -> None:
        """Forget the record: the experiment is done."""
        if self._file:
            self._file.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        if self._file is None or not self._file.exists():
            return {}
        try:
            record = json.loads(self._file.read_text(encoding="utf-8"))
            same = record["settings"] == self._settings
            parts = dict(record["parts"])
        except (ValueError, KeyError, TypeError):
            same, parts = False, {}
        if not same:
            self.tell(f"{self._file} is of another experiment or cannot be read: beginning anew")
            return {}
        self.tell(f"{len(parts)} parts are done already, by {self._file}")
        return parts

    def _write(self) -> None:
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with storage.replacing(self._file) as file:
                file.write(json.dumps({"settings": self._settings, "parts": self._parts}).encode())
