"""How many atoms, and how far they can be trusted: models that are learned more than once and compared.

The bound of data that were not learned from says how many atoms they need: each one that they lack costs much, and each
one too many a little. Atoms that come back whenever learning starts anew belong to the data; others belong to chance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from sklearn.model_selection import train_test_split

from sparsentropy import inputs
from sparsentropy.estimator import SparseCoding
from sparsentropy.metrics import dictionary_match

FIRST = 8  # atoms, doubled until there are enough
EXACT = 0.02  # of the number of atoms, or one: how close neighbours are looked at


@final
@dataclass(frozen=True)
class Picked:
    """A number of atoms, and what it was picked from.

    Parameters
    ----------
    n_components : int
    bounds : dict of int to float
        Held-out bound in nats per data point, by number of atoms.
    model : SparseCoding
        Learned from all rows but the held-out ones, with that number of atoms.
    """

    n_components: int
    bounds: dict[int, float]
    model: SparseCoding


@final
@dataclass(frozen=True, eq=False)
class Restarts:
    """Models that were learned from the same data with different seeds.

    Parameters
    ----------
    models : tuple of SparseCoding
        That with the highest bound first.
    similarity : ndarray, shape (k, k)
        Mean |cosine| of the matched atoms of every two models.
    stability : ndarray, shape (h,)
        For every atom of the first model, the mean |cosine| with its match in the others: near 1 for atoms that come
        back whenever learning starts anew.
    """

    models: tuple[SparseCoding, ...]
    similarity: np.ndarray
    stability: np.ndarray


def pick_n_components(
    X: Any,
    model: SparseCoding | None = None,
    *,
    candidates: Sequence[int] | None = None,
    held_out: float = 0.2,
    random_state: int = 0,
    callback: Callable[[dict[int, float]], None] | None = None,
) -> Picked:
    """Pick the number of atoms with the highest bound on rows that were not learned from.

    Parameters
    ----------
    X : array-like, shape (n, d)
    model : SparseCoding, optional
        Its parameters are used, but for the number of atoms.
    candidates : sequence of int, optional
        Numbers to try. Otherwise numbers are doubled until the bound falls or atoms are left over, 2d at most, and then
        those in between are searched.
    held_out : float, default=0.2
        Share of the rows that are not learned from.
    random_state : int, default=0
        Seed: which rows these are.
    callback : callable, optional
        Called with all bounds so far whenever another number has been tried.

    Returns
    -------
    Picked

    Raises
    ------
    ValueError, TypeError
        If the data cannot be used, or there is nothing to pick from.

    Notes
    -----
    Learning with too many atoms leaves some of them off (`SparseCoding.prune`); the number without these is tried at no
    cost.

    Examples
    --------
    >>> from sparsentropy.datasets import make_bars
    >>> bars = make_bars(1000, noise_std=0.1, seed=0)
    >>> model = SparseCoding(posterior="full", random_state=0)
    >>> pick_n_components(bars.data, model, candidates=[5, 10, 15]).n_components
    10
    """
    inputs.check_fraction("held_out", held_out)
    if not held_out:
        raise ValueError(
            "held_out must be more than 0: numbers of atoms are compared on rows that were not learned from"
        )
    if candidates is not None and not len(candidates):
        raise ValueError("candidates must hold at least one number of atoms")
    train, test = train_test_split(X, test_size=held_out, random_state=random_state)
    search = _Search(model or SparseCoding(random_state=random_state), train, test, callback)
    if candidates is not None:
        for h in candidates:
            search.learn(inputs.check_count("candidates", h))
    else:
        search.double(min(len(train), 2 * np.shape(X)[1]))
        search.narrow()
    best = search.best
    return Picked(best, dict(sorted(search.bounds.items())), search.models[best])


@final
class _Search:
    """Numbers of atoms that were tried."""

    def __init__(
        self, model: SparseCoding, train: Any, test: Any, callback: Callable[[dict[int, float]], None] | None
    ) -> None:
        self.model, self.train, self.test, self.callback = model, train, test, callback
        self.bounds: dict[int, float] = {}
        self.models: dict[int, SparseCoding] = {}
        self.enough: set[int] = set()  # numbers that were left when more were offered

    @property
    def best(self) -> int:
        return max(self.bounds, key=lambda h: self.bounds[h])

    def learn(self, h: int) -> None:
        """Learn with h atoms; where some of them are off, try the number without these, too."""
        model = _like(self.model, n_components=h).fit(self.train)
        self._keep(model)
        pruned = model.prune()
        if len(pruned.components_) < h:
            self.enough.add(len(pruned.components_))
            self._keep(pruned)
        if self.callback is not None:
            self.callback(dict(sorted(self.bounds.items())))

    def _keep(self, model: SparseCoding) -> None:
        h, bound = len(model.components_), model.score(self.test)
        if bound > self.bounds.get(h, -np.inf):
            self.bounds[h], self.models[h] = bound, model

    def double(self, most: int) -> None:
        """From few atoms to as many as are of use."""
        h = min(FIRST, most)
        self.learn(h)
        while h < most and not self.enough and self.best >= h / 2:
            h = min(2 * h, most)
            self.learn(h)

    def narrow(self) -> None:
        """Try numbers between the best one and its neighbours until these are close."""
        while (h := self._between()) is not None:
            self.learn(h)

    def _between(self) -> int | None:
        best = self.best
        close = max(1, round(EXACT * best))
        below = max((h for h in self.bounds if h < best), default=0)
        above = min((h for h in self.bounds if h > best), default=best)
        if best in self.enough:  # which more would lead to again
            return best - close if best - below > close else None
        gaps = {(below + best) // 2: best - below, (best + above + 1) // 2: above - best}
        h = max(gaps, key=lambda h: gaps[h])
        return h if gaps[h] > close and 0 < h != best else None


def restarts(X: Any, model: SparseCoding | None = None, *, n: int = 5, random_state: int = 0) -> Restarts:
    """Learn several times, each time with another seed, and compare the atoms.

    Parameters
    ----------
    X : array-like, shape (n, d)
    model : SparseCoding, optional
        Its parameters are used, but for the seed.
    n : int, default=5
        How often.
    random_state : int, default=0
        The first seed.

    Returns
    -------
    Restarts

    Examples
    --------
    >>> from sparsentropy.datasets import make_bars
    >>> bars = make_bars(1000, noise_std=0.1, seed=0)
    >>> found = restarts(bars.data, SparseCoding(10, posterior="full"), n=3)
    >>> bool(found.stability.min() > 0.99)
    True
    """
    count = inputs.check_count("n", n, least=2)
    model = model or SparseCoding()
    models = [_like(model, random_state=random_state + k).fit(X) for k in range(count)]
    models.sort(key=lambda one: -one.lower_bound_)
    cosines = np.array([[dictionary_match(b.components_, a.components_).cosines for b in models] for a in models])
    return Restarts(tuple(models), cosines.mean(2), cosines[0, 1:].mean(0))


def _like(model: SparseCoding, **parameters: Any) -> SparseCoding:
    """An estimator that is not fitted, with some parameters of its own."""
    return SparseCoding(**model.get_params() | parameters)
