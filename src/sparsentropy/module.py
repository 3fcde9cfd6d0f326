"""A model as a torch module, to be one part of a network among others.

It encodes data into codes and decodes codes into data, and gradients pass through both, to the data and to the
dictionary, the prior scales and the noise. Codes are the optimum (ν, s) of a convex problem, at which its slopes g
vanish; so whatever moves the problem moves them by

    d(ν, s) = −H⁻¹ dg,   H = ∂g/∂(ν, s),

and nothing needs to be remembered of how the optimum was found (implicit function theorem; Amos and Kolter, "OptNet",
ICML 2017). Elimination of s, for which H is diagonal, leaves one (h, h) matrix for each data point.
"""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from sparsentropy import folded_normal
from sparsentropy.inference import DiagonalSolver
from sparsentropy.inference.encoders import Encoder
from sparsentropy.model import Parameters
from sparsentropy.objectives import elbo_rows
from sparsentropy.posteriors import AbstractPosterior, Diagonal


@final
class SparseCodingModule(nn.Module):
    """Encode, decode, and the bound that a model is learned by; all of it with derivatives.

    Parameters
    ----------
    parameters : Parameters
        Where training begins.
    encoder : Encoder, optional
        What answers instead of solving for codes; how its answers follow the dictionary has no derivatives.
    unit : float
        Of the data: both see data divided by it, `parameters` are those of such data.

    Attributes
    ----------
    dictionary : nn.Parameter, shape (d, h)
    log_prior_scale : nn.Parameter, shape (h,)
    log_noise_variance : nn.Parameter, shape ()

    Examples
    --------
    >>> from sparsentropy import SparseCoding
    >>> from sparsentropy.datasets import make_bars
    >>> bars = make_bars(500, noise_std=0.1, seed=0)
    >>> module = SparseCoding(10, random_state=0).fit(bars.data).to_module()
    >>> x = torch.tensor(bars.data[:5], requires_grad=True)
    >>> module(x).shape
    torch.Size([5, 25])
    >>> module(x).square().sum().backward()
    >>> x.grad.shape, module.dictionary.grad.shape
    (torch.Size([5, 25]), torch.Size([25, 10]))
    """

    unit: Tensor

    def __init__(self, parameters: Parameters, encoder: Encoder | None = None, unit: float = 1.0) -> None:
        super().__init__()
        self.dictionary = nn.Parameter(parameters.dictionary.detach().clone())
        self.log_prior_scale = nn.Parameter(parameters.prior_scale.detach().log())
        self.log_noise_variance = nn.Parameter(parameters.noise_variance.detach().log())
        self.encoder = encoder
        self.register_buffer("unit", torch.tensor(unit, dtype=parameters.dictionary.dtype))

    @property
    def parameters_of_model(self) -> Parameters:
        """W, λ and σ² as they are now, for data divided by `unit`."""
        return Parameters(self.dictionary, self.log_prior_scale.exp(), self.log_noise_variance.exp())

    def infer(self, x: Tensor) -> AbstractPosterior:
        """Posterior of the codes of x (n, d), data units."""
        return self._inferred(x / self.unit).scaled(self.unit.expand(self.dictionary.shape[1]))

    def encode(self, x: Tensor) -> Tensor:
        """Codes of x (n, d), the means of their posteriors, (n, h)."""
        return self._inferred(x / self.unit).mean * self.unit

    def decode(self, z: Tensor) -> Tensor:
        """Data of codes (n, h), (n, d)."""
        return z @ self.dictionary.T

    def forward(self, x: Tensor) -> Tensor:
        """What the codes of x (n, d) stand for: x without its noise."""
        return self.decode(self.encode(x))

    def lower_bound(self, x: Tensor) -> Tensor:
        """Mean bound of the log likelihood of x (n, d), nats per data point; to be maximised."""
        scaled = x / self.unit
        return elbo_rows(scaled, self._inferred(scaled), self.parameters_of_model).mean() - x.shape[1] * self.unit.log()

    def _inferred(self, x: Tensor) -> AbstractPosterior:
        p = self.parameters_of_model
        if self.encoder is not None:
            fixed = Parameters(p.dictionary.detach(), p.prior_scale.detach(), p.noise_variance.detach())
            return self.encoder(x, fixed)
        mean, std = _solved(x, p.dictionary, p.prior_scale, p.noise_variance)
        return Diagonal(mean, std.square())


@final
class _Optimum(torch.autograd.Function):
    """(ν, s) of the best diagonal posteriors, and how they move."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, scale: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        q = DiagonalSolver()(x.detach(), Parameters(W.detach(), scale.detach(), noise.detach())).posterior
        std = q.std
        ctx.save_for_backward(x, W, scale, noise, q.mean, std)
        return q.mean, std

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        *given, mean, std = ctx.saved_tensors
        moved = _pulled_back(mean, std, given[1], given[2], given[3], *slopes)
        with torch.enable_grad():
            inputs = [tensor.detach().requires_grad_() for tensor in given]
            outputs = _slopes(mean, std, *inputs)
            return torch.autograd.grad(outputs, inputs, [-part for part in moved])


_solved: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = _Optimum.apply  # pyright: ignore[reportAssignmentType]


def _slopes(mean: Tensor, std: Tensor, x: Tensor, W: Tensor, scale: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Of |Wν − x|²/2σ² + Σ s² |w|²/2σ² + E|z|/λ − log s with respect to ν and s, (n, h) each."""
    by_mean, by_std = folded_normal.slopes(mean, std)
    by_mean = (mean @ W.T - x) @ W / noise + by_mean / scale
    return by_mean, std * W.square().sum(0) / noise + by_std / scale - 1 / std


def _pulled_back(
    mean: Tensor, std: Tensor, W: Tensor, scale: Tensor, noise: Tensor, to_mean: Tensor, to_std: Tensor
) -> tuple[Tensor, Tensor]:
    """H⁻¹ times the slopes (n, h) that arrive at ν and at s."""
    t, curve = mean / std, folded_normal.curvature(mean, std) / scale  # c = ∂²E|z|/∂ν²/λ
    # ∂²E|z|/∂ν∂s = −t c and ∂²E|z|/∂s² = t² c
    mixed, own = -t * curve, W.square().sum(0) / noise + t.square() * curve + std.square().reciprocal()
    hessian = (W.T @ W / noise).expand(len(mean), -1, -1) + torch.diag_embed(curve - mixed.square() / own)
    right = to_mean - mixed / own * to_std
    moved = torch.cholesky_solve(right.unsqueeze(2), torch.linalg.cholesky(hessian)).squeeze(2)
    return moved, (to_std - mixed * moved) / own
