"""What is believed about the codes of n data points: Gaussian posteriors as frozen values.

`Diagonal` keeps a mean and a variance per code. `LowRank` adds r directions in which the codes of a data point vary
together. `Full` is the best Gaussian there is, and for a Laplace prior it needs no more than 2h numbers per data
point: at the optimum the precision is T⁻¹ = WᵀW/σ² + diag(κ), where the data term is shared by all data points. All
three answer the same questions, so an objective never asks which of them it was given. The leading axis is always the
data point; entropies are in nats.
"""

from .abstract import AbstractPosterior
from .diagonal import Diagonal
from .full import Full
from .low_rank import LowRank

__all__ = ["AbstractPosterior", "Diagonal", "Full", "LowRank"]
