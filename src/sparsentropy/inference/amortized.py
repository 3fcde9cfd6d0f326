"""The E-step that an encoder makes, as a solver like the others, and what refines it.

Learning and everything that uses a fitted model ask a solver for posteriors and do not know how it finds them. This one
asks an encoder, and then lets an iterative solver of the same family go on from there for as many iterations as wanted.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sparsentropy.inference.encoders import Encoder
from sparsentropy.inference.solution import AbstractSolver, Cost, Inference, Solution
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior


@final
@dataclass(frozen=True)
class AmortizedSolver(AbstractSolver):
    """Infers what an encoder says.

    Parameters
    ----------
    encoder : Encoder
    solver : AbstractSolver
        Of the same family of posteriors, for the refinement.
    refine : int
        Iterations after the encoder.

    Examples
    --------
    >>> from sparsentropy.inference import DiagonalSolver, encoders
    >>> parameters = Parameters(torch.eye(2), torch.ones(2), torch.tensor(0.01))
    >>> solver = AmortizedSolver(encoders.build("unrolled", 2, 2), DiagonalSolver())
    >>> solver(torch.tensor([[3.0, 0.0]]), parameters).posterior.mean.round(decimals=2)
    tensor([[2.9900, 0.0000]])
    """

    encoder: Encoder
    solver: AbstractSolver
    refine: int = 0

    def at(self, parameters: Parameters) -> Inference:
        """See `AbstractSolver`; a warm start, the number of iterations and the tolerance are not for an encoder."""
        encode, refined = self.encoder.fast(parameters), self.solver.at(parameters) if self.refine else None

        @torch.no_grad()
        def infer(
            x: Tensor, *, start: AbstractPosterior | None = None, max_iter: int = 1000, tol: float | None = None
        ) -> Solution:
            del start, max_iter, tol
            q = encode(x)
            if refined is not None:
                q = refined(x, start=q, max_iter=self.refine, tol=0.0).posterior
            return Solution(q, Cost(self.refine, float("nan"), 0, len(q)))

        return infer
