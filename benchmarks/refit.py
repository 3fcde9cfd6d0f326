"""The bound of a dictionary that somebody else has found: λ and σ² refitted to it, the dictionary left as it is."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sparsentropy.inference import AbstractSolver
from sparsentropy.learning import em
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics, elbo_rows, entropy_elbo

MOST_REFITS = 60
ENOUGH = 1e-3  # nats per data point gained by one refit
FIRST_ITERATIONS, ITERATIONS, LAST_ITERATIONS = 60, 15, 300  # of the E-step
ROWS = 8192  # of the data at most: two unknowns for each atom ask for no more


def refitted(x: Tensor, atoms: np.ndarray, solver: AbstractSolver) -> tuple[Parameters, float, int]:
    """Fit λ and σ² to data for fixed atoms.

    Parameters
    ----------
    x : Tensor, shape (n, d)
    atoms : ndarray, shape (h, d)
        Rows of any length; they are brought to unit length.
    solver : AbstractSolver

    Returns
    -------
    Parameters, float, int
        The model, its bound on the data in nats per data point, and the number of refits that were made.
    """
    x = x[:ROWS]
    dictionary = torch.from_numpy(np.array(atoms.T)).to(x.dtype)
    dictionary = dictionary / dictionary.norm(dim=0).clamp(min=torch.finfo(x.dtype).tiny)
    unit = float(x.square().mean().sqrt())
    scale = x.new_full((dictionary.shape[1],), unit)
    model = Parameters(dictionary, scale, x.new_tensor(0.1 * unit**2))
    posterior, bound, count, gain = None, -float("inf"), 0, float("inf")
    while count < MOST_REFITS and gain > ENOUGH:
        model = em.floored(model, unit)
        iterations = FIRST_ITERATIONS if posterior is None else ITERATIONS
        posterior = solver(x, model, posterior, max_iter=iterations, tol=0.0).posterior
        statistics = Statistics.of(x, posterior, model)
        model = replace(statistics.fit(model), dictionary=dictionary)
        before, bound = bound, float(entropy_elbo(statistics, model))
        count, gain = count + 1, bound - before
    return em.floored(model, unit), bound, count


def held_out(x: Tensor, model: Parameters, solver: AbstractSolver) -> float:
    """Mean bound of new data, nats per data point.

    Dictionaries whose atoms are hard to tell apart would take hours to be certified on all of them.
    """
    posterior = solver(x, model, max_iter=LAST_ITERATIONS, tol=0.0).posterior
    return float(elbo_rows(x, posterior, model).double().mean())
