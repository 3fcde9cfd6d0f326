"""Dictionaries of other methods on the same patches, judged by the same held-out bound."""

import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from sklearn.decomposition import PCA, DictionaryLearning, FastICA, MiniBatchDictionaryLearning

from natural_patches import learned, patches
from refit import held_out, refitted
from sparsentropy.inference import DiagonalSolver
from table import Table

H = 100
ALPHAS = (1.0, 0.3, 0.1, 0.03)
BATCH_ROWS = 4096  # for DictionaryLearning, which is slow

NOTES = f"""\
The rows of "Natural image patches", h = {H}. *Held-out bound*: the dictionary of every method, its atoms brought to
unit length, with λ and σ² refitted to the training rows and diagonal posteriors; nats per data point. This is what
sparsentropy maximises and the others do not: it says which dictionary makes the data likely under a Laplace prior, not
which method is better at what it was made for. *Seconds*: fitting only, without the refit. scikit-learn's dictionary
learning asks for a penalty `alpha`; its default is 1, the other values are what a user would have to try. FastICA and
Picard stop by their own default tolerance, or at the number of iterations given. FastICA gets float32, the others
float64, which took them less time."""

Method = Callable[[np.ndarray], np.ndarray]


def minibatch(alpha: float) -> Method:
    def atoms(x: np.ndarray) -> np.ndarray:
        model = MiniBatchDictionaryLearning(H, alpha=alpha, fit_algorithm="cd", random_state=0, n_jobs=1)
        return model.fit(x.astype(float)).components_

    return atoms


def batch(alpha: float, rows: int) -> Method:
    def atoms(x: np.ndarray) -> np.ndarray:
        model = DictionaryLearning(H, alpha=alpha, fit_algorithm="cd", max_iter=20, random_state=0, n_jobs=1)
        return model.fit(x[:rows].astype(float)).components_

    return atoms


def fast_ica(x: np.ndarray) -> np.ndarray:
    return FastICA(H, whiten="unit-variance", max_iter=200, random_state=0).fit(x).mixing_.T


def picard(*, ortho: bool) -> Method:
    def atoms(x: np.ndarray) -> np.ndarray:
        from picard import picard as solve

        whitening, unmixing, _ = solve(x.T.astype(float), n_components=H, ortho=ortho, max_iter=200, random_state=0)
        return np.linalg.pinv(unmixing @ whitening).T

    return atoms


def principal(x: np.ndarray) -> np.ndarray:
    return PCA(H, random_state=0).fit(x).components_


def methods(*, quick: bool) -> Iterator[tuple[str, Method]]:
    yield "PCA", principal
    for alpha in ALPHAS[:2] if quick else ALPHAS:
        yield f"MiniBatchDictionaryLearning (cd), alpha = {alpha:g}", minibatch(alpha)
    if not quick:
        yield f"DictionaryLearning (cd), alpha = 0.1, {BATCH_ROWS:,} rows, 20 iterations", batch(0.1, BATCH_ROWS)
    yield "FastICA, at most 200 iterations", fast_ica
    yield "Picard, orthogonal, at most 200 iterations", picard(ortho=True)
    if not quick:
        yield "Picard, at most 200 iterations", picard(ortho=False)


def run(*, quick: bool) -> list[Table]:
    columns = ("method", "held-out bound", "seconds", "note")
    table = Table("Other methods' dictionaries, h = 100", NOTES, columns).begin()
    train, test = (part[:4096] if quick else part for part in patches())
    x, new = torch.from_numpy(train), torch.from_numpy(test)
    model, seconds = learned(H, quick=quick)
    table.add("sparsentropy, default settings", f"{model.score(test):.2f}", f"{seconds:.1f}", "as learned")
    solver = DiagonalSolver()
    named = [("sparsentropy, default settings", None), *methods(quick=quick)]
    for name, method in named:
        began, notes = time.perf_counter(), []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            atoms = model.components_ if method is None else method(train)
        seconds = seconds if method is None else time.perf_counter() - began
        parameters, _, refits = refitted(x, atoms, solver)
        notes.append(f"{refits} refits")
        if any("onverge" in str(warning.message) for warning in caught):
            notes.append("not converged")
        table.add(name, f"{held_out(new, parameters, solver):.2f}", f"{seconds:.1f}", ", ".join(notes))
    return [table]
