"""The linear half of an iteration: where the data want the codes, given where the prior wants them.

With G = WᵀW and one penalty ρ per code, rows y are taken to y (r ρ (G + ρ)⁻¹ − r/2). Whatever the sizes, ρ (G + ρ)⁻¹ is
I − WᵀN with N = W (G + ρ)⁻¹, and N asks for the inverse of the smaller of G + ρ and I + W ρ⁻¹ Wᵀ. With few atoms the
whole is one product with an (h, h) matrix; with more than twice as many atoms as dimensions it is quicker to go through
the data, 4dh operations instead of 2h².
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

TAME = 150.0  # largest eigenvalue of I + W diag(1/p) Wᵀ for which float32 keeps five digits of all it is used for
POWER_STEPS = 8  # towards it


def ridge(atoms: Tensor, precision: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """N = W (WᵀW + diag p)⁻¹ = (I + W diag(1/p) Wᵀ)⁻¹ W diag(1/p), (d, h).

    It is computed in float64, but in float32 where that is wanted and good enough and the dictionary is wide: there
    it is what takes longest for all that depends on the dictionary alone.

    Examples
    --------
    >>> ridge(torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 0.5]))
    tensor([[0.5000, 0.0000]])
    """
    d, h = atoms.shape
    if h <= d:
        return torch.cholesky_solve(atoms.T, torch.linalg.cholesky(atoms.T @ atoms + torch.diag(precision))).T
    scaled = atoms / precision
    if dtype == torch.float32 and h > 2 * d and _largest(atoms, scaled) <= TAME:
        atoms, scaled = atoms.float(), scaled.float()
    eye = torch.eye(d, dtype=atoms.dtype, device=atoms.device)
    return torch.cholesky_solve(scaled, torch.linalg.cholesky(eye + scaled @ atoms.T))


def _largest(atoms: Tensor, scaled: Tensor) -> float:
    """Largest eigenvalue of I + W diag(1/p) Wᵀ, by the power method."""
    vector = scaled.sum(1) + scaled[:, 0]
    for _ in range(POWER_STEPS):
        vector = scaled @ (vector / vector.norm() @ atoms)
    return 1 + float(vector.norm())


class AbstractTurn(ABC):
    """Rows y to y (r ρ (G + ρ)⁻¹ − r/2)."""

    @abstractmethod
    def __call__(self, y: Tensor) -> Tensor:
        """What becomes of y (n, h)."""

    @abstractmethod
    def add_to(self, target: Tensor, y: Tensor, *, beta: float) -> None:
        """`target` becomes beta times itself plus what becomes of y, each (n, h)."""


@final
@dataclass(frozen=True)
class _Square(AbstractTurn):
    matrix: Tensor  # (h, h)

    def __call__(self, y: Tensor) -> Tensor:
        """See `AbstractTurn`."""
        return y @ self.matrix

    def add_to(self, target: Tensor, y: Tensor, *, beta: float) -> None:
        """See `AbstractTurn`."""
        target.addmm_(y, self.matrix, beta=beta)


@final
@dataclass(frozen=True)
class _Thin(AbstractTurn):
    """y r/2 − r (y Wᵀ) N."""

    half: float  # r/2
    down: Tensor  # Wᵀ (h, d)
    up: Tensor  # −r N (d, h)

    def __call__(self, y: Tensor) -> Tensor:
        """See `AbstractTurn`."""
        return self.half * y + y @ self.down @ self.up

    def add_to(self, target: Tensor, y: Tensor, *, beta: float) -> None:
        """See `AbstractTurn`."""
        target.addmm_(y @ self.down, self.up, beta=beta).add_(y, alpha=self.half)


def turn(atoms: Tensor, penalty: Tensor, relaxation: float, dtype: torch.dtype) -> AbstractTurn:
    """For atoms (d, h) and penalties (h,) in float64, to be used in this dtype."""
    d, h = atoms.shape
    up = -relaxation * ridge(atoms, penalty, dtype)
    if h > 2 * d:
        return _Thin(relaxation / 2, atoms.T.to(dtype).contiguous(), up.to(dtype))
    matrix = atoms.T @ up
    matrix.diagonal().add_(relaxation / 2)
    return _Square(matrix.to(dtype))
