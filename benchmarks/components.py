"""How many atoms: picked by the held-out bound, and by the reconstruction error of cross-validation."""

import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.model_selection import GridSearchCV, ShuffleSplit

from sparsentropy.selection import pick_n_components
from table import Table

TRUE = (10, 20, 50)
ROWS, DIMENSIONS, NOISE, SEEDS = 5000, 64, 0.1, 10
PENALTIES = (0.1, 0.3, 1.0)

NOTES = f"""\
{ROWS:,} data points in {DIMENSIONS} dimensions, made of so many random unit-length atoms with Laplace codes of scale 1,
noise {NOISE}; {SEEDS} data sets of each kind. How often the true number was picked, the lowest and highest that were,
and the mean seconds. *sparsentropy*: `selection.pick_n_components`, which is told nothing and tries any number.
*Dictionary learning*: scikit-learn's MiniBatchDictionaryLearning with a given penalty, in GridSearchCV with a fifth of
the data held out, as above, and the squared error of reconstructions as the score; it may pick half of the true
number, one less, the true one, one more, or twice as many."""


def run(*, quick: bool) -> Iterator[list[Table]]:
    heads = (f"{true} atoms" for true in TRUE)
    table = Table("Number of atoms", NOTES, ("method", *heads, "seconds"))
    table.begin()
    for name, pick in METHODS.items():
        cells, began = [], time.perf_counter()
        for true in TRUE[:1] if quick else TRUE:
            found = [pick(made(true, seed), true) for seed in range(2 if quick else SEEDS)]
            right = sum(h == true for h in found)
            cells.append(f"{right} of {len(found)} ({min(found)} to {max(found)})")
        seconds = (time.perf_counter() - began) / len(cells) / (2 if quick else SEEDS)
        table.add(name, *cells, *([""] * (len(TRUE) - len(cells))), f"{seconds:.1f}")
        yield [table]


def made(true: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    W = random.normal(size=(DIMENSIONS, true))
    W /= np.linalg.norm(W, axis=0)
    return random.laplace(size=(ROWS, true)) @ W.T + NOISE * random.normal(size=(ROWS, DIMENSIONS))


def by_bound(x: np.ndarray, true: int) -> int:
    del true
    return pick_n_components(x).n_components


def by_error(penalty: float) -> Callable[[np.ndarray, int], int]:
    def pick(x: np.ndarray, true: int) -> int:
        model = MiniBatchDictionaryLearning(
            alpha=penalty,  # pyright: ignore[reportArgumentType]
            fit_algorithm="cd",
            transform_algorithm="lasso_cd",
            transform_alpha=penalty,
            batch_size=256,
            max_iter=10,
            random_state=0,
        )
        grid = {"n_components": [true // 2, true - 1, true, true + 1, 2 * true]}
        fifth = ShuffleSplit(1, test_size=0.2, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the lasso where it is slow
            search = GridSearchCV(model, grid, scoring=error, refit=False, cv=fifth)
            return search.fit(x).best_params_["n_components"]

    return pick


def error(model: MiniBatchDictionaryLearning, x: np.ndarray, y: None = None) -> float:
    del y
    return -float(np.square(x - model.transform(x) @ model.components_).mean())


METHODS: dict[str, Callable[[np.ndarray, int], int]] = {
    "sparsentropy": by_bound,
    **{f"dictionary learning, penalty {penalty}": by_error(penalty) for penalty in PENALTIES},
}
