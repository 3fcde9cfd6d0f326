"""Intervals: how often they contain the true codes, reconstructions, and values that were missing."""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from sparsentropy import SparseCoding
from sparsentropy.datasets import Bars, make_bars
from sparsentropy.inference import AbstractSolver, DiagonalSolver, FullSolver
from sparsentropy.metrics import coverage, dictionary_match
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior
from table import Table

NOISE = 0.1
LEVELS = (0.5, 0.9)
ROWS = (1000, 2000, 10_000)
SEEDS = 3
NEW = 2000
DIMENSIONS, ATOMS = 30, 20
GAPS = 0.3
SOLVERS: dict[str, AbstractSolver] = {"diagonal": DiagonalSolver(), "full": FullSolver()}

NOTES = f"""\
5 × 5 images of ten bars with Laplace codes, noise {NOISE}. Intervals are those of the codes of {NEW:,} new images; each
is compared with the true code of the atom nearest to its own. *Learned from*: images that the parameters come from, or
the true parameters. *Contained*: the share of true codes in their intervals, lowest and highest of {SEEDS} data sets;
the nominal share is in the heading. Diagonal posteriors learn a basis of nine atoms here, not the bars, so they are
looked at with true parameters only."""
DATA_NOTES = f"""\
Models learned from {ROWS[-1]:,} images of ten bars as above, or from as many data points made of {ATOMS} random atoms
with Laplace codes in {DIMENSIONS} dimensions, noise {NOISE}. *Without noise*: values of {NEW:,} new data points as they
were before noise was added, in the intervals of their reconstructions. *Missing*: values of new data points, noise
included, of which {GAPS:.0%} were taken away, in the intervals of what was imputed. Lowest and highest of {SEEDS} data
sets."""


def run(*, quick: bool) -> Iterator[list[Table]]:
    table = Table("Intervals", NOTES, ("posterior", "learned from", *(f"{level:.0%} contained" for level in LEVELS)))
    table.begin()
    seeds = range(1 if quick else SEEDS)
    for posterior in SOLVERS:
        add(table, posterior, "the truth", [at_truth(posterior, seed) for seed in seeds])
    for rows in ROWS[:1] if quick else ROWS:
        add(table, "full", f"{rows:,} images", [at_learned(rows, seed) for seed in seeds])
    yield [table]
    kinds = [f"{kind}, {level:.0%}" for kind in ("without noise", "missing") for level in LEVELS]
    data = Table("Intervals of data", DATA_NOTES, ("data", "posterior", *kinds))
    data.begin()
    for name, make in {"bars": with_bars, f"{ATOMS} atoms": with_atoms}.items():
        for posterior in ("diagonal", "low-rank", "full"):
            shares = np.array([of_data(make, posterior, seed, ROWS[0] if quick else ROWS[-1]) for seed in seeds])
            cells = (f"{a:.1%} to {b:.1%}" for a, b in zip(shares.min(0), shares.max(0), strict=True))
            data.add(name, posterior, *cells)
            yield [table, data]


Maker = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def with_bars(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    bars = make_bars(n, noise_std=NOISE, seed=seed)
    return bars.data, bars.codes @ bars.dictionary.T


def with_atoms(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    W = np.random.default_rng(0).normal(size=(DIMENSIONS, ATOMS))
    random = np.random.default_rng(seed)
    clean = random.laplace(size=(n, ATOMS)) @ (W / np.linalg.norm(W, axis=0)).T
    return clean + NOISE * random.normal(size=clean.shape), clean


def of_data(make: Maker, posterior: str, seed: int, rows: int) -> list[float]:
    """Shares of held-out values in their intervals: without noise, and missing; at every level."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = SparseCoding(10 if make is with_bars else ATOMS, posterior=posterior, random_state=seed)
        model.fit(make(rows, seed)[0])
    data, clean = make(NEW, 1000 + seed)
    gaps = np.random.default_rng(seed).random(data.shape) < GAPS
    whole = model.reconstruct(data, return_std=True)
    filled = model.impute(np.where(gaps, np.nan, data), return_std=True)
    return [coverage(truth, *found, p) for truth, found in ((clean, whole), (data, filled)) for p in LEVELS]


def add(table: Table, posterior: str, learned: str, shares: list[list[float]]) -> None:
    lowest, highest = np.min(shares, axis=0), np.max(shares, axis=0)
    table.add(posterior, learned, *(f"{a:.1%} to {b:.1%}" for a, b in zip(lowest, highest, strict=True)))


def new_bars(seed: int) -> Bars:
    return make_bars(NEW, noise_std=NOISE, seed=1000 + seed)


def at_truth(posterior: str, seed: int) -> list[float]:
    bars = new_bars(seed)
    length = np.linalg.norm(bars.dictionary, axis=0)
    atoms, scale = torch.from_numpy(bars.dictionary / length), torch.from_numpy(length)
    parameters = Parameters(atoms, scale, torch.tensor(NOISE**2, dtype=torch.float64))
    return contained(SOLVERS[posterior](torch.from_numpy(bars.data), parameters).posterior, bars.codes * length)


def at_learned(rows: int, seed: int) -> list[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = SparseCoding(10, posterior="full", random_state=seed)
        model.fit(make_bars(rows, noise_std=NOISE, seed=seed).data)
    bars = new_bars(seed)
    match = dictionary_match(model.components_, bars.dictionary.T)
    codes = np.empty_like(bars.codes)
    codes[:, match.assignment] = bars.codes * np.linalg.norm(bars.dictionary, axis=0) * match.signs
    return contained(model.infer(bars.data), codes)


def contained(posterior: AbstractPosterior, codes: np.ndarray) -> list[float]:
    shares = []
    for level in LEVELS:
        low, high = (end.numpy() for end in posterior.interval(level))
        shares.append(float(((low <= codes) & (codes <= high)).mean()))
    return shares
