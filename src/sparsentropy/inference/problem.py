"""The E-step of a diagonal posterior in its own units, with the atoms that are off taken out.

For fixed parameters the bound of a data point is a quadratic in the mean ν plus one smooth convex function per code,

    f(ν) = |x − Wν|²/2σ² + Σ_h ψ_h(ν_h),    ψ_h(ν) = min_s A(ν, s)/λ_h + s² |w_h|²/2σ² − log s.

Everything about ψ is explicit in the one number z = ν/(s√2). Codes are measured here in units of √2 σ/|w|, scales in
units of σ/|w|, so that one number α = σ/(λ|w|) is left of each atom, its steepness: with K = α exp(−z²)/√(2π) the best
scale is s = 1/(K + √(K² + 1)), then the code is u = z s, and the slope is ψ'(u) = √2 α erf(z).

An atom whose prior is far narrower than the noise is *silent*: its codes stay so near to zero that ψ is a parabola with
the curvature c = ψ''(0) = √8/π^½ α/s(0). Such codes follow linearly from the others, and taking them out leaves the
same problem with the data term seen through M = (I + 2 W' diag(1/c) W'ᵀ)⁻¹, W' the silent atoms. Learning switches off
the atoms that it does not need, so this may halve the problem; what is left out is bounded in `idle`.
"""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from sparsentropy.folded_normal import SQRT_2, bell
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior, Diagonal

SHORTEST = 1e-6  # atoms count as so long at least, in units of σ/λ, to have a unit at all
# Steepness from which on an atom is silent. To certify the last digit of float64 by duality the slope of the prior must
# be known to as many digits.
SILENT, SILENT_EXACTLY = 100.0, 1e7
LINEAR = 0.25  # largest |z| of a silent code for which `idle` holds


@final
@dataclass(frozen=True)
class Silent:
    """Atoms that are taken out, and how their codes follow from those that are heard."""

    heard: Tensor | slice  # which atoms are heard; a slice where they come first, as learning from a basis leaves them
    out: Tensor | slice  # and which are silent
    scale: Tensor  # s(0) (h'',), float64
    from_data: Tensor  # (d, h'')
    from_codes: Tensor | None  # (h', h''); None where the data say it all

    def codes(self, x: Tensor, heard: Tensor) -> Tensor:
        """U of the silent atoms (n, h'')."""
        codes = x @ self.from_data
        return codes if self.from_codes is None else codes.addmm_(heard, self.from_codes)

    def at(self, anchor: Tensor) -> "Silent":
        """As if the codes of the others were x A, for A (d, h'): half the work, which is enough for an encoder."""
        assert self.from_codes is not None, "only once"
        from_data = self.from_data + (anchor @ self.from_codes.to(anchor.dtype)).to(self.from_data.dtype)
        return replace(self, from_data=from_data, from_codes=None)

    def scales(self, codes: Tensor) -> Tensor:
        """S of the silent atoms (n, h''): s(0) (1 + z²) up to terms of fourth order."""
        scale = self.scale.to(codes.dtype)
        return torch.addcmul(scale, codes, codes / scale)

    def idle(self, codes: Tensor) -> Tensor:
        """What taking ψ for a parabola costs at most, in nats; infinite where it is none (n,).

        With z' = u/s(0) the slope of ψ is between (1 − 4/3 z'²) c u and c u, and c u² is near 2 z'²; so the error of
        the slope, squared and divided by 2c, is near 2 z'⁶, and s is wrong by less than 2 z'⁴, which costs its square.
        """
        largest = codes.div(self.scale.to(codes.dtype)).abs().amax(1)
        return torch.where(largest <= LINEAR, 4 * codes.shape[1] * largest.double().pow(6), torch.inf)


@final
@dataclass(frozen=True)
class Problem:
    """What all data points share."""

    parameters: Parameters
    unit: Tensor  # σ/|w| (h,), float64
    heard: Tensor  # atoms that are not silent (h',)
    silent: Silent | None
    steepness: Tensor  # α of the atoms that are heard (h',), float64
    noise: Tensor  # σ, float64
    root: Tensor | None  # R with RᵀR = M (d, d), float64; None where all atoms are heard, and M is the identity
    atoms: Tensor  # atoms that are heard, of unit length, seen through R (d, h'), float64

    @classmethod
    def of(cls, parameters: Parameters, *, exact: bool) -> "Problem":
        """In the units of these parameters; `exact` to the last digit of float64."""
        p = parameters.to(torch.float64)
        noise, (unit, steepness) = p.noise_variance.sqrt(), units(p)
        atoms = p.dictionary * (unit / noise)
        off = steepness >= (SILENT_EXACTLY if exact else SILENT)
        heard, out = (~off).nonzero().ravel(), off.nonzero().ravel()
        if len(out) == 0:
            return cls(parameters, unit, heard, None, steepness, noise, None, atoms)
        silent, root = _taken_out(out, heard, steepness[out], atoms, noise, parameters.dictionary.dtype)
        return cls(parameters, unit, heard, silent, steepness[heard], noise, root, root @ atoms[:, heard])

    def seen(self, x: Tensor) -> Tensor:
        """R x/σ of data x (n, d): what is left of them to the atoms that are heard."""
        return x / self.noise if self.root is None else x @ (self.root / self.noise).T

    def from_data(self, matrix: Tensor) -> Tensor:
        """Rᵀ/σ times a matrix (d, k) for what is seen of data (n, d): the matrix for the data themselves."""
        return matrix / self.noise if self.root is None else (self.root / self.noise).T @ matrix.to(self.root.dtype)

    def best_scale(self, z: Tensor) -> Tensor:
        """Best s = 1/(K + √(K² + 1)) with K = α exp(−z²)/√(2π), of the atoms that are heard."""
        return best_scale(z, self.steepness.to(z.dtype))

    def started(self, start: AbstractPosterior | None) -> tuple[Tensor, Tensor] | None:
        """U and z of a warm start (n, h')."""
        if start is None:
            return None
        dtype = self.parameters.dictionary.dtype
        mean, std = start.mean.to(dtype), start.std.to(dtype)
        if self.silent is not None:
            mean, std = mean[:, self.heard], std[:, self.heard]
        return mean / (SQRT_2 * self.unit[self.heard]).to(mean.dtype), mean / (SQRT_2 * std)

    def posterior(self, x: Tensor, code: Tensor, scale: Tensor, out: Diagonal | None = None) -> Diagonal:
        """The posterior of u and s (n, h'), in the units of the data; written into `out` where that is given."""
        if out is None:
            mean = torch.empty(len(x), self.parameters.h, dtype=code.dtype, device=code.device)
            out = Diagonal(mean, torch.empty_like(mean))
        unit, silent = self.unit.to(code.dtype), self.silent
        if silent is None:
            torch.mul(code, SQRT_2 * unit, out=out.mean)
            torch.mul(scale, unit, out=out.variance)
        else:
            quiet = silent.codes(x, code)
            for atoms, u, s in ((silent.heard, code, scale), (silent.out, quiet, silent.scales(quiet))):
                _write(out.mean, atoms, u, SQRT_2 * unit[atoms])
                _write(out.variance, atoms, s, unit[atoms])
        out.variance.square_()
        return out


def _write(out: Tensor, atoms: Tensor | slice, value: Tensor, factor: Tensor) -> None:
    """The product, into columns of `out`."""
    if isinstance(atoms, slice):
        torch.mul(value, factor, out=out[:, atoms])
    else:
        out[:, atoms] = value * factor


def units(parameters: Parameters) -> tuple[Tensor, Tensor]:
    """σ/|w| and the steepness α = σ/(λ|w|), each (h,)."""
    noise = parameters.noise_variance.sqrt()
    length = torch.maximum(parameters.dictionary.norm(dim=0), SHORTEST * noise / parameters.prior_scale)
    unit = noise / length
    return unit, unit / parameters.prior_scale


def best_scale(z: Tensor, steepness: Tensor) -> Tensor:
    """S = 1/(K + √(K² + 1)) with K = α exp(−z²)/√(2π).

    Examples
    --------
    >>> best_scale(torch.tensor([0.0, 5.0]), torch.tensor(1.0))
    tensor([0.6777, 1.0000])
    """
    bend = bell(z) * (steepness / math.sqrt(2 * math.pi))
    return 1 / (bend + torch.sqrt(bend * bend + 1))


def _taken_out(
    out: Tensor, heard: Tensor, steepness: Tensor, atoms: Tensor, noise: Tensor, dtype: torch.dtype
) -> tuple[Silent, Tensor]:
    """The silent atoms, and a root R of M, with RᵀR = M (d, d), float64."""
    scale = best_scale(torch.zeros_like(steepness), steepness)
    quiet, curvature = atoms[:, out], 2 * SQRT_2 / math.sqrt(math.pi) * steepness / scale
    # M⁻¹ = I + 2 W' diag(1/c) W'ᵀ = L Lᵀ, and R = L⁻¹. What is added is small, so the type of the data does for it
    eye = torch.eye(len(atoms), dtype=atoms.dtype, device=atoms.device)
    factor = torch.linalg.cholesky(eye + (2 * quiet / curvature).to(dtype) @ quiet.to(dtype).T)
    root = torch.linalg.solve_triangular(factor, eye, upper=False)
    # u'' = √2 diag(1/c) W'ᵀ M (x/σ − √2 W u). Nothing else follows from such codes, so the type of the data will do
    half = root.to(dtype)
    response = half.T @ (half @ (SQRT_2 * quiet / curvature).to(dtype))
    from_codes = -SQRT_2 * atoms[:, heard].to(dtype).T @ response
    first = bool((heard == torch.arange(len(heard), device=heard.device)).all())
    places = (slice(0, len(heard)), slice(len(heard), None)) if first else (heard, out)
    return Silent(*places, scale, response / noise.to(dtype), from_codes), root
