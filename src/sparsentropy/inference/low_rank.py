"""The E-step for a covariance of low rank plus a diagonal: quasi-Newton steps, many data points at once.

The posterior of a data point is N(ν, D + V Vᵀ) with D = diag(v) and V of shape (h, r). Its bound and gradient need
products with W and matrices of r×r only. With P = WᵀW/σ², κ = k/s at the marginal scales s² = v + Σ V² and k = √(2/π)
exp(−ν²/2s²)/λ,

    ∂f/∂ν = (Pν − Wᵀx/σ²) + erf(ν/(s√2))/λ,    ∂f/∂V = (P + diag κ − T⁻¹) V,    ∂f/∂v = (P + diag κ − T⁻¹)_hh / 2.

So V spans directions in which P + diag κ is soft, where the codes of a data point can trade off against each other.
All three are moved together by L-BFGS (Nocedal, "Updating quasi-Newton matrices with limited storage", 1980), with a
history and a line search of its own for every data point. What makes it fast is where the recursion starts from: one
inverse of P + diag κ̄, with κ averaged over the data, that all data points share.

The problem is convex in everything but V, and V = 0 is a saddle. The search starts from the diagonal posterior, with V
from the softest directions of one matrix with averaged κ, combined anew for every data point. No certificate is known
for a given rank; a data point counts as converged when the quadratic model expects no more than the tolerance and the
last iterations gained next to nothing.
"""

from dataclasses import dataclass, fields, replace
from typing import final

import torch
from torch import Tensor

from sparsentropy import folded_normal
from sparsentropy.inference.diagonal import DiagonalSolver
from sparsentropy.inference.solution import (
    AbstractSolver,
    Cost,
    Inference,
    Solution,
    default_tolerance,
    gathers,
    largest_gradient,
)
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior, LowRank

CHUNK = {"cpu": 2**22, "cuda": 2**26}  # elements of work arrays at once
MEMORY = 10  # pairs in the history; 5 and 20 took about as many iterations
DIAGONAL_TOLERANCE = 1e-2  # of the cold start, nats
WIDER = 4  # r softest directions are chosen from this many times r
SOFTEST = 1e-3  # eigenvalue that is told from zero
WEAKEST, STRONGEST = 0.1, 3.0  # bounds on the first |V| in units of √v
LARGEST_LOG_STEP = 1.5  # of log v
BACKTRACKS, BACKTRACKS_OF_ALL = 10, 3  # where only some data points do them, and where all must
SUFFICIENT = 1e-4  # part of the expected gain that an accepted step has to make (Armijo)
LOOK_EVERY = 10  # iterations between two looks at what was gained
FEW = 4  # times as many atoms as directions, from which on posteriors count as nearly independent
# v may be this small in units of 1/(P_hh + 1/λ²): its optimum can be 0, where V takes all of a code's variance
SMALLEST_DIAGONAL = 1e-7


@final
@dataclass(frozen=True)
class LowRankSolver(AbstractSolver):
    """Infers `posteriors.LowRank`; all arithmetic in float64, whatever the dtype of the data.

    Parameters
    ----------
    rank : int
        Columns of V, at least 1; of more than h only h are used.

    Examples
    --------
    >>> import torch
    >>> dictionary = torch.tensor([[1.0, 0.6], [0.0, 0.8]])
    >>> parameters = Parameters(dictionary, torch.ones(2), torch.tensor(0.01))
    >>> solution = LowRankSolver(rank=1)(torch.tensor([[3.0, 1.0]]), parameters)
    >>> solution.posterior.covariance()  # atoms that look alike leave their codes anticorrelated
    tensor([[[ 0.0156, -0.0094],
             [-0.0094,  0.0156]]])
    >>> solution.cost.converged
    1
    """

    rank: int

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"LowRankSolver: rank must be at least 1; got {self.rank}. DiagonalSolver has rank 0.")

    def at(self, parameters: Parameters) -> Inference:
        """See `AbstractSolver`."""
        return _Prepared(self.rank, parameters, missing=False)

    def with_gaps(self, parameters: Parameters) -> Inference:
        """See `AbstractSolver`."""
        return _Prepared(self.rank, parameters, missing=True)

    def forerunner(self, h: int) -> AbstractSolver | None:
        """Independent posteriors, where there are few directions among many."""
        return DiagonalSolver() if FEW * self.rank <= h else None


@final
@dataclass(frozen=True)
class _Prepared:
    """The solver at given parameters."""

    rank: int
    parameters: Parameters
    missing: bool

    def __call__(
        self, x: Tensor, *, start: AbstractPosterior | None = None, max_iter: int = 1000, tol: float | None = None
    ) -> Solution:
        # That of float64 for all data: a looser one would stop at saddles, near which little is gained for a while
        tol = default_tolerance(torch.float64) if tol is None else tol
        problem = _Problem.of(x, self.parameters, missing=self.missing)
        rank = min(self.rank, self.parameters.h)
        start = problem.diagonal_start() if start is None else start
        problem, codes = problem.conditioned(start.mean.double(), start.variance.double()), problem.codes(start, rank)
        cost = Cost(0, 0.0, 0, 0)
        size = _rows_at_once(self.parameters, rank)
        for begin in range(0, x.shape[0], size):
            rows = slice(begin, begin + size)
            codes[rows], chunk_cost = _solve(problem[rows], codes[rows], max_iter, tol)
            cost += chunk_cost
        posterior = problem.posterior(codes, x.dtype)
        gradient = largest_gradient(x, posterior, self.parameters) if tol > 0 else float("nan")
        return Solution(posterior, replace(cost, largest_gradient=gradient))


def _rows_at_once(parameters: Parameters, rank: int) -> int:
    per_row = max(2 * MEMORY * parameters.h, WIDER * parameters.d) * (rank + 2)
    return max(1, CHUNK[parameters.dictionary.device.type] // per_row)


@final
@dataclass(frozen=True)
class _Point:
    """Where a data point is: ν, log(v − smallest) and V side by side, with energy and gradient."""

    codes: Tensor  # (n, h, 2 + r)
    energy: Tensor  # −bound, up to a constant (n,)
    gradient: Tensor  # (n, h, 2 + r)

    def __getitem__(self, rows: Tensor) -> "_Point":
        return _Point(self.codes[rows], self.energy[rows], self.gradient[rows])

    def where(self, chosen: Tensor, other: "_Point") -> "_Point":
        """The chosen data points of this one, the others of the other one."""
        return _Point(
            torch.where(chosen[:, None, None], self.codes, other.codes),
            torch.where(chosen, self.energy, other.energy),
            torch.where(chosen[:, None, None], self.gradient, other.gradient),
        )

    def write(self, rows: Tensor, other: "_Point") -> None:
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(other, f.name)


@final
@dataclass(frozen=True)
class _Inner:
    """What T⁻¹ = D⁻¹ − YᵀY and log det T need: Y = L⁻¹VᵀD⁻¹ with L Lᵀ = I + VᵀD⁻¹V, r×r."""

    lower: Tensor  # L (n, r, r)
    explained: Tensor  # Y (n, r, h)
    valid: Tensor  # False where rounding made the matrix indefinite (n,)

    @classmethod
    def of(cls, diagonal: Tensor, factor: Tensor) -> "_Inner":
        weighted = factor.mT / diagonal.unsqueeze(1)
        eye = torch.eye(factor.shape[2], dtype=factor.dtype, device=factor.device)
        lower, info = torch.linalg.cholesky_ex(weighted @ factor + eye)
        lower = torch.where((info > 0)[:, None, None], eye, lower)
        return cls(lower, torch.linalg.solve_triangular(lower, weighted, upper=False), info == 0)

    def log_det(self, diagonal: Tensor) -> Tensor:
        return diagonal.log().sum(1) + 2 * self.lower.diagonal(dim1=1, dim2=2).log().sum(1)

    def solved(self) -> Tensor:
        """T⁻¹V = D⁻¹V(I + VᵀD⁻¹V)⁻¹, (n, h, r)."""
        return torch.linalg.solve_triangular(self.lower.mT, self.explained, upper=True).mT


@final
@dataclass(frozen=True)
class _Problem:
    """Data and parameters in float64, and the inverse that all data points share."""

    x: Tensor  # x/σ, zero where it is missing (n, d)
    seen: Tensor | None  # 1 where it is not; None where nothing is missing
    parameters: Parameters
    scaled_dictionary: Tensor  # W/σ (d, h)
    own_precision: Tensor  # P_hh (h,), or (n, h) where entries are missing
    gram: Tensor  # P (h, h), on average where entries are missing
    smallest: Tensor  # lower bound of v (h,)
    inverse: Tensor  # (P + diag κ̄)⁻¹ (h, h)

    @classmethod
    def of(cls, x: Tensor, parameters: Parameters, *, missing: bool) -> "_Problem":
        p, noise = parameters.to(torch.float64), parameters.noise_variance.double().sqrt()
        scaled = p.dictionary / noise
        own = scaled.square().sum(0)
        smallest, eye = SMALLEST_DIAGONAL / (own + p.prior_scale.square().reciprocal()), torch.eye(p.h).to(own)
        if not missing:
            return cls(x.double() / noise, None, p, scaled, own, scaled.T @ scaled, smallest, eye)
        seen = (~x.isnan()).double()
        gram = scaled.T @ (scaled * seen.mean(0)[:, None]) if len(x) else scaled.T @ scaled
        return cls(x.double().nan_to_num(0.0) / noise, seen, p, scaled, seen @ scaled.square(), gram, smallest, eye)

    def __getitem__(self, rows: slice | Tensor) -> "_Problem":
        if self.seen is None:
            return replace(self, x=self.x[rows])
        return replace(self, x=self.x[rows], seen=self.seen[rows], own_precision=self.own_precision[rows])

    def as_seen(self, data: Tensor) -> Tensor:
        """Zero where nothing was seen; data (n, d) or (n, r, d)."""
        if self.seen is None:
            return data
        return data * (self.seen if data.ndim == 2 else self.seen.unsqueeze(1))

    def diagonal_start(self) -> AbstractPosterior:
        x = self.x * self.parameters.noise_variance.sqrt()
        if self.seen is None:
            return DiagonalSolver()(x, self.parameters, tol=DIAGONAL_TOLERANCE).posterior
        gaps = DiagonalSolver().with_gaps(self.parameters)
        return gaps(x.masked_fill(self.seen == 0, torch.nan), tol=DIAGONAL_TOLERANCE).posterior

    def curvature(self, mean: Tensor, std: Tensor) -> Tensor:
        """κ = k/s."""
        return folded_normal.curvature(mean, std) / self.parameters.prior_scale

    def conditioned(self, mean: Tensor, variance: Tensor) -> "_Problem":
        """The same problem with the inverse for κ averaged over these posteriors."""
        average = self.curvature(mean, variance.sqrt()).sum(0) / max(len(mean), 1)
        precision = self.gram + torch.diag(average)
        # Scaled to unit diagonal, so that the large κ of a dead atom does no harm to the others
        scale = precision.diagonal().clamp(min=1e-100).rsqrt()
        lower = torch.linalg.cholesky(scale[:, None] * precision * scale + 1e-10 * torch.eye(len(scale)).to(precision))
        return replace(self, inverse=scale[:, None] * torch.cholesky_inverse(lower) * scale)

    def codes(self, start: AbstractPosterior, rank: int) -> Tensor:
        """First point of the search, (n, h, 2 + r)."""
        if isinstance(start, LowRank) and start.factor.shape[2] == rank:
            diagonal, factor = start.diagonal.double(), start.factor.double()
        else:
            diagonal, factor = start.variance.double(), self.soft_directions(start, rank)
        own = torch.maximum(diagonal - self.smallest, 0.01 * self.smallest)
        return torch.cat([start.mean.double().unsqueeze(2), own.log().unsqueeze(2), factor], 2)

    def soft_directions(self, start: AbstractPosterior, rank: int) -> Tensor:
        """V from the softest directions of D^½(P + diag κ)D^½, (n, h, r).

        At fixed D and κ the best V is D^½ U (1/μ − 1)^½ with the r smallest eigenpairs (μ, U). Here U is taken within
        the span of a few eigenvectors for averaged D and κ.
        """
        n, h = start.mean.shape
        std = start.variance.double().sqrt()
        curvature = self.curvature(start.mean.double(), std)
        mean_std = std.log().sum(0).div(max(n, 1)).exp()
        precision = self.gram + torch.diag(curvature.sum(0) / max(n, 1))
        shared = torch.linalg.eigh(mean_std[:, None] * precision * mean_std)[1][:, : WIDER * rank]
        factor = std.new_empty(n, h, rank)
        size = _rows_at_once(self.parameters, shared.shape[1])
        for begin in range(0, n, size):
            rows = slice(begin, begin + size)
            span = std[rows].unsqueeze(2) * shared
            moved = self[rows].as_seen((self.scaled_dictionary @ span).mT).mT
            softness, vectors = torch.linalg.eigh(moved.mT @ moved + span.mT @ (curvature[rows].unsqueeze(2) * span))
            factor[rows] = (span @ vectors * reach(softness).unsqueeze(1))[:, :, :rank]
        return factor

    def posterior(self, codes: Tensor, dtype: torch.dtype) -> LowRank:
        diagonal = codes[:, :, 1].exp() + self.smallest
        return LowRank(codes[:, :, 0].to(dtype), diagonal.to(dtype), codes[:, :, 2:].to(dtype))

    def evaluate(self, codes: Tensor) -> _Point:
        """Energy |x − Wν|²/2σ² + tr(P T)/2 + Σ A(ν, s)/λ − ½ log det T, and its gradient."""
        mean, own, factor = codes[:, :, 0], codes[:, :, 1].exp(), codes[:, :, 2:]
        diagonal = own + self.smallest
        inner = _Inner.of(diagonal, factor)
        std = (diagonal + factor.square().sum(2)).sqrt()
        scale = self.parameters.prior_scale
        residual, stiff = self.as_seen(self.x - mean @ self.scaled_dictionary.T), self.stiffness(factor)
        spread = (diagonal * self.own_precision).sum(1) + (factor * stiff).sum((1, 2))
        energy = (residual.square().sum(1) + spread) / 2
        energy = energy + (folded_normal.mean(mean, std) / scale).sum(1) - inner.log_det(diagonal) / 2
        slope, k = (part / scale for part in folded_normal.slopes(mean, std))
        inverse_diagonal = 1 / diagonal - inner.explained.square().sum(1)
        gradient = torch.empty_like(codes)
        gradient[:, :, 0] = slope - residual @ self.scaled_dictionary
        gradient[:, :, 1] = own * (self.own_precision + k / std - inverse_diagonal) / 2
        gradient[:, :, 2:] = stiff + (k / std).unsqueeze(2) * factor - inner.solved()
        energy = torch.where(inner.valid & energy.isfinite(), energy, torch.inf)
        return _Point(codes, energy, gradient)

    def stiffness(self, factor: Tensor) -> Tensor:
        """P V (n, h, r), by way of the data where that is shorter, or where they have gaps."""
        d, h = self.scaled_dictionary.shape
        if self.seen is None and h < 2 * d:
            return self.gram @ factor
        return (self.as_seen(factor.mT @ self.scaled_dictionary.T) @ self.scaled_dictionary).mT

    def rounding(self, energy: Tensor) -> Tensor:
        """How well the energy is known."""
        return 1e-14 * energy.abs() + 2e-15 * self.x.norm(dim=1) * self.x.shape[1] ** 0.5

    def preconditioned(self, gradient: Tensor) -> Tensor:
        """(P + diag κ̄)⁻¹ on ν and V; the curvature in log v is about ½ everywhere."""
        result = (gradient.mT @ self.inverse).mT
        result[:, :, 1] = 2 * gradient[:, :, 1]
        return result


def reach(softness: Tensor) -> Tensor:
    """Length of a first direction of V, in units of √v, from its eigenvalue μ: (1/μ − 1)^½, within bounds."""
    return (1 / softness.clamp(SOFTEST, 1) - 1).sqrt().clamp(WEAKEST, STRONGEST)


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Inner product of two points, (n, 1, 1)."""
    return (left * right).sum((1, 2), keepdim=True)


@final
@dataclass(frozen=True)
class _Pair:
    """A step, the change of the gradient over it, and 1/⟨step, change⟩, or 0 where that is not positive."""

    step: Tensor
    change: Tensor
    weight: Tensor  # (n, 1, 1)

    @classmethod
    def of(cls, old: _Point, new: _Point) -> "_Pair":
        step, change = new.codes - old.codes, new.gradient - old.gradient
        product = _dot(step, change)
        noise = 1e-10 * (_dot(step, step) * _dot(change, change)).sqrt()
        return cls(step, change, torch.where(product > noise, 1 / product, 0.0))

    def __getitem__(self, rows: Tensor) -> "_Pair":
        return _Pair(self.step[rows], self.change[rows], self.weight[rows])


def _two_loops(problem: _Problem, gradient: Tensor, history: list[_Pair]) -> Tensor:
    """−H·gradient by the two-loop recursion (Nocedal and Wright, "Numerical Optimization", algorithm 7.4)."""
    result, shares = gradient, []
    for pair in reversed(history):
        shares.append(pair.weight * _dot(pair.step, result))
        result = result - shares[-1] * pair.change
    result = problem.preconditioned(result)
    if history:
        result = result * _first_scale(problem, history[-1])
    for pair, share in zip(history, reversed(shares), strict=True):
        result = result + (share - pair.weight * _dot(pair.change, result)) * pair.step
    return -result


def _first_scale(problem: _Problem, pair: _Pair) -> Tensor:
    """What the last pair says of the size of the preconditioner: ⟨step, change⟩/⟨change, H₀ change⟩."""
    scale = 1 / (pair.weight * _dot(pair.change, problem.preconditioned(pair.change)))
    return torch.where(pair.weight > 0, scale, 1.0).clamp(0.01, 100.0)


def _direction(problem: _Problem, point: _Point, history: list[_Pair]) -> tuple[Tensor, Tensor]:
    """A direction of descent, and the slope of the energy along it (n,)."""
    direction = _two_loops(problem, point.gradient, history)
    slope = _dot(direction, point.gradient)
    direction = torch.where(slope < 0, direction, -problem.preconditioned(point.gradient))
    largest = direction[:, :, 1].abs().amax(1)[:, None, None]
    direction = direction * (LARGEST_LOG_STEP / largest).clamp(max=1.0)
    return direction, _dot(direction, point.gradient)[:, 0, 0]


def _step(problem: _Problem, point: _Point, history: list[_Pair]) -> tuple[_Point, Tensor]:
    """One iteration of every data point; also returns the gain that the quadratic model expected, (n,)."""
    direction, slope = _direction(problem, point, history)
    length = torch.ones_like(slope)
    new, noise = problem.evaluate(point.codes + direction), problem.rounding(point.energy)
    few = gathers(slope.device)
    for _ in range(BACKTRACKS if few else BACKTRACKS_OF_ALL):
        excess = new.energy - point.energy - slope * length
        short = new.energy > point.energy + SUFFICIENT * length * slope + noise
        # The lowest point of the parabola through both energies and the slope, within bounds
        lowest = -slope * length / (2 * excess)
        length = torch.where(short, length * lowest.clamp(0.1, 0.5), length)
        if not few:
            new = problem.evaluate(point.codes + length[:, None, None] * direction)
            continue
        rows = short.nonzero().squeeze(1)
        if not len(rows):
            return new, -slope / 2
        new.write(rows, problem[rows].evaluate(point.codes[rows] + length[rows, None, None] * direction[rows]))
    return point.where(new.energy > point.energy, new), -slope / 2


def _solve(problem: _Problem, codes: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Cost]:
    """Iterate on a chunk, leaving out every data point as soon as it has stopped gaining."""
    result, n = codes.clone(), len(codes)
    active, point = torch.arange(n, device=codes.device), problem.evaluate(codes)
    history, before = [], point.energy
    iteration = converged = 0
    while iteration < max_iter and len(active):
        new, expected = _step(problem, point, history)
        history, point = [*history, _Pair.of(point, new)][-MEMORY:], new
        iteration += 1
        if tol > 0 and (iteration % LOOK_EVERY == 0 or iteration == max_iter):
            goal = tol * (1 + point.energy.abs())
            going = before - point.energy > 0.1 * goal + problem.rounding(point.energy)
            converged += int((~going & (expected < goal)).sum())
            result[active] = point.codes
            active, problem, point, history = active[going], problem[going], point[going], [p[going] for p in history]
            before = point.energy
    result[active] = point.codes
    return result, Cost(iteration, 0.0, converged, n)
