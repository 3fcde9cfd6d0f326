"""The scales that belong to the means of a diagonal posterior: half of it need not be kept.

At the best scales of given means, z = ν/(s√2) solves z s(z) = u in the units of `problem`, where s(z) is explicit. So
what an E-step has found is all in ν, and a learner that wants to save memory keeps nothing else between two sweeps; the
scales are made again for one batch at a time, which takes a few passes over its codes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final, overload

import torch
from torch import Tensor

from sparsentropy.folded_normal import SQRT_2
from sparsentropy.inference.polish import code_of
from sparsentropy.inference.problem import best_scale, units
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior, Diagonal

STEPS = 8  # of Newton's method, between bounds: to the last digit unless an atom is silent (`problem`) by far
CLOSE = 1e-5  # relative change after which the next step would change nothing that counts


def completed(mean: Tensor, parameters: Parameters) -> Diagonal:
    """The diagonal posterior that is best among all with these means.

    Parameters
    ----------
    mean : Tensor, shape (n, h)
        ν, data units.
    parameters : Parameters

    Returns
    -------
    Diagonal
        In the dtype of the means.

    Examples
    --------
    >>> parameters = Parameters(torch.eye(2), torch.ones(2), torch.tensor(0.01))
    >>> completed(torch.tensor([[0.0, 3.0]]), parameters).std  # at zero the prior holds a code; far away only the noise
    tensor([[0.0961, 0.1000]])
    """
    unit, steepness = (value.to(mean.dtype) for value in units(parameters.to(torch.float64)))
    size = (mean / (SQRT_2 * unit)).abs()
    # s lies between s(0) and 1, and is at least s(far) beyond a z where the bell has brought K to less than 1
    far = (steepness / math.sqrt(2 * math.pi)).log().clamp(min=0).sqrt() + 1
    narrowest, wide = best_scale(torch.zeros_like(far), steepness), best_scale(far, steepness)
    z = most = torch.minimum(size / narrowest, torch.maximum(size / wide, far))
    for _ in range(STEPS):
        # In log z, since log(z s) grows like log z + z² before it grows like log z
        value, _, rate = code_of(z, steepness)
        before, z = z, torch.clamp(z + (size / value).log() * value / rate, size, most).nan_to_num(0.0)
        if bool(((z - before).abs() <= CLOSE * z).all()):
            break
    return Diagonal(mean, (best_scale(z, steepness) * unit).square())


@final
@dataclass(frozen=True)
class Means(Sequence[AbstractPosterior]):
    """Diagonal posteriors of many batches, of which the means are kept.

    Parameters
    ----------
    parameters : Parameters
        At which the posteriors were inferred.
    means : sequence of Tensor, each (n, h)
    """

    parameters: Parameters
    means: Sequence[Tensor]

    def __len__(self) -> int:
        return len(self.means)

    @overload
    def __getitem__(self, index: int) -> Diagonal: ...
    @overload
    def __getitem__(self, index: slice) -> "Means": ...
    def __getitem__(self, index: int | slice) -> "Diagonal | Means":
        if isinstance(index, slice):
            return Means(self.parameters, self.means[index])
        return completed(self.means[index], self.parameters)
