"""How the posteriors are found for given parameters: the E-step.

One solver per posterior family, all called in the same way: data and parameters in, posteriors and what they cost
out. For fixed parameters the problem is convex in the means and scales of a diagonal posterior and has one optimum
per data point, so answers do not depend on the start, and each solver can say how close it came (theory, section 4).
"""

from sparsentropy.inference.amortized import AmortizedSolver
from sparsentropy.inference.certificate import duality_gap
from sparsentropy.inference.completion import Means, completed
from sparsentropy.inference.diagonal import DiagonalSolver
from sparsentropy.inference.full import FullSolver, full_duality_gap
from sparsentropy.inference.low_rank import LowRankSolver
from sparsentropy.inference.missing import MissingSolver, for_data
from sparsentropy.inference.solution import AbstractSolver, Cost, Inference, Solution

__all__ = [
    "AbstractSolver",
    "AmortizedSolver",
    "Cost",
    "DiagonalSolver",
    "FullSolver",
    "Inference",
    "LowRankSolver",
    "Means",
    "MissingSolver",
    "Solution",
    "completed",
    "duality_gap",
    "for_data",
    "full_duality_gap",
]
