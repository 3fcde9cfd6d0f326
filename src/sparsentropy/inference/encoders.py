"""Amortised inference: networks that answer at once what an E-step finds by iterating.

An encoder is a network and a head. The network turns data into a first guess, a mean and a standard deviation for every
code, and into features; the head makes a posterior of them, a diagonal one from the guess alone or a low-rank one with
directions that the features scale. Any network goes with any head.

Three networks are there. `MLP` and `Residual` see the data only and must learn everything; the second is the one of
Velychko et al. (AISTATS 2024). `Unrolled` is the E-step itself, broken off after a few proximal maps (Gregor and LeCun,
"Learning fast approximations of sparse coding", ICML 2010): its matrices follow from the dictionary, and what it learns
are gains of its steps and thresholds. So it needs no training to be good, and remains so when the dictionary changes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from sparsentropy import folded_normal, rows
from sparsentropy.folded_normal import SQRT_2
from sparsentropy.inference.diagonal import DiagonalSolver, iterated
from sparsentropy.inference.low_rank import reach
from sparsentropy.inference.problem import Problem, units
from sparsentropy.inference.splitting import PLAIN_STEPS, Gains, Splitting
from sparsentropy.model import Parameters
from sparsentropy.posteriors import AbstractPosterior, Diagonal, LowRank
from sparsentropy.rows import AbstractRows
from sparsentropy.team import ALONE, AbstractTeam

WIDTH, BLOCKS = 512, 2  # of the paper's network
DEPTH = 1  # proximal maps of the unrolled E-step
NARROWEST = 1e-6  # standard deviation of a code in units of σ/|w|; below it the network would not come back
ROWS = 512  # of data that a low-rank head looks at when it begins


@final
@dataclass(frozen=True)
class Guess:
    """What a network makes of data: posteriors as if codes were independent, and features (n, k)."""

    mean: Tensor  # (n, h)
    std: Tensor  # (n, h)
    features: Tensor


class AbstractNetwork(nn.Module, ABC):
    """Data to a guess."""

    features: int
    """How many there are."""
    follows: bool
    """Whether the guess changes with the dictionary by itself."""

    @abstractmethod
    def forward(self, x: Tensor, parameters: Parameters) -> Guess:
        """The guess for data x (n, d)."""

    def begin(self, parameters: Parameters) -> None:
        """Take units from a model."""


class AbstractHead(nn.Module, ABC):
    """A guess to a posterior."""

    @abstractmethod
    def forward(self, guess: Guess) -> AbstractPosterior:
        """The posterior."""

    def begin(self, x: Tensor, parameters: Parameters, team: AbstractTeam = ALONE) -> None:
        """Take first values from data (n, d), of which other processes have others, and the model of them."""


@final
class MLP(AbstractNetwork):
    """Two hidden layers, and a linear map each for means and log standard deviations.

    Parameters
    ----------
    d, h : int
        Observed dimensions and atoms.
    width : int
        Of the hidden layers.
    """

    follows = False

    def __init__(self, d: int, h: int, width: int = WIDTH) -> None:
        super().__init__()
        self.features = width
        self.hidden = nn.Sequential(nn.Linear(d, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.output = _Output(width, h)

    def forward(self, x: Tensor, parameters: Parameters) -> Guess:
        """See `AbstractNetwork`."""
        del parameters
        return self.output(self.hidden(x))

    def begin(self, parameters: Parameters) -> None:
        """See `AbstractNetwork`."""
        self.output.begin(parameters)


@final
class Residual(AbstractNetwork):
    """The network of the paper: a linear map, blocks that add to it, and a linear map each for the two outputs.

    Parameters
    ----------
    d, h : int
        Observed dimensions and atoms.
    width, blocks : int
    """

    follows = False

    def __init__(self, d: int, h: int, width: int = WIDTH, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.features = width
        self.first = nn.Linear(d, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.output = _Output(width, h)

    def forward(self, x: Tensor, parameters: Parameters) -> Guess:
        """See `AbstractNetwork`."""
        del parameters
        hidden = self.first(x)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.output(hidden)

    def begin(self, parameters: Parameters) -> None:
        """See `AbstractNetwork`."""
        self.output.begin(parameters)


def _small(layer: nn.Linear) -> nn.Linear:
    """A layer that begins near zero: codes at zero, as uncertain as the noise makes them."""
    with torch.no_grad():
        layer.weight.mul_(0.1)
        layer.bias.zero_()
    return layer


@final
class _Output(nn.Module):
    """A linear map each for means and log standard deviations.

    Their units, λ and σ/|w|, are those of the model that training began with: were they to move with the model, every
    step of λ would change all codes.
    """

    scale: Tensor
    unit: Tensor

    def __init__(self, width: int, h: int) -> None:
        super().__init__()
        self.mean, self.log_std = _small(nn.Linear(width, h)), _small(nn.Linear(width, h))
        self.register_buffer("scale", torch.ones(h))
        self.register_buffer("unit", torch.ones(h))

    def forward(self, features: Tensor) -> Guess:
        std = self.unit * (self.log_std(features).exp() + NARROWEST)
        return Guess(self.scale * self.mean(features), std, features)

    def begin(self, parameters: Parameters) -> None:
        self.scale.copy_(parameters.prior_scale)
        self.unit.copy_(units(parameters)[0])


@final
class Unrolled(AbstractNetwork):
    """The E-step of a diagonal posterior, broken off; see `splitting` for its formulas.

    Parameters
    ----------
    h : int
        Atoms.
    depth : int
        Proximal maps; the first acts on the codes of a Gaussian prior, each further one follows an iteration.
    """

    follows = True

    def __init__(self, h: int, depth: int = DEPTH) -> None:
        super().__init__()
        self.features = h
        self.log_start, self.log_threshold = nn.Parameter(torch.zeros(h)), nn.Parameter(torch.zeros(h))
        self.log_steps = nn.Parameter(torch.zeros(depth - 1))

    def forward(self, x: Tensor, parameters: Parameters) -> Guess:
        """See `AbstractNetwork`."""
        return self.through(x, Splitting.of(Problem.of(parameters, exact=False)))

    def gains(self) -> Gains:
        """What was learned, as factors."""
        return Gains(self.log_start.exp(), self.log_threshold.exp(), tuple(self.log_steps.detach().exp().tolist()))

    def through(self, x: Tensor, plain: Splitting) -> Guess:
        """The guess at constants without gains, with derivatives; what `splitting` computes in place."""
        own = plain.with_gains(self.gains())
        assert own.start is not None
        anchor = (x.to(own.anchor.dtype) @ own.anchor).to(own.dtype)
        ahead = anchor * own.precision if own.quick else own.proximal.pulled(anchor)
        target = anchor + own.start * ahead
        z = own.proximal.first_root(target)
        drift = own.relaxation / 2 * (anchor + anchor * own.relative) + own.turn(anchor * own.relative)
        for number, gain in enumerate(self.log_steps.exp(), start=1):
            held = number <= PLAIN_STEPS and not own.quick
            code = z * own.proximal.scale(z)[1]
            moved = (1 - own.relaxation / 2) * target + own.turn(2 * code - target - anchor) + drift
            target = target + gain / (own.relaxation if held else 1.0) * (moved - target)
            for _ in range(2 if held else 1):
                z = own.proximal.newton(z, target)
        return self._of_all(x, z, own.problem)

    def _of_all(self, x: Tensor, z: Tensor, problem: Problem) -> Guess:
        """From z of the atoms that are heard (n, h') to a guess for all."""
        scale, unit = problem.best_scale(z), problem.unit.to(z.dtype)
        code, h = z * scale, len(unit)
        every = torch.arange(h, device=z.device)
        if problem.silent is not None:
            quiet = problem.silent.codes(x, code)
            order = torch.cat([problem.heard, every[problem.silent.out]]).argsort()
            scale = torch.cat([scale, problem.silent.scales(quiet)], 1)[:, order]
            code = torch.cat([code, quiet], 1)[:, order]
        return Guess(SQRT_2 * unit * code, unit * scale, scale)


def _guess_of(q: Diagonal, problem: Problem) -> Guess:
    std = q.std
    return Guess(q.mean, std, std / problem.unit.to(std.dtype))


@final
class DiagonalHead(AbstractHead):
    """Independent codes, as they were guessed."""

    def forward(self, guess: Guess) -> Diagonal:
        """See `AbstractHead`."""
        return Diagonal(guess.mean, guess.std.square())


@final
class LowRankHead(AbstractHead):
    """Directions V_n = diag(s_n) B diag(g_n): shared ones, B (h, r), in units of the guessed standard deviation.

    How far codes vary along them, g_n from 0 to 2, depends on the features.

    Parameters
    ----------
    h, rank, features : int
    """

    def __init__(self, h: int, rank: int, features: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(h, rank) / h**0.5)
        self.gate = nn.Linear(features, rank)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, guess: Guess) -> LowRank:
        """See `AbstractHead`."""
        gate = 2 * torch.sigmoid(self.gate(guess.features))
        factor = guess.std.unsqueeze(2) * self.directions * gate.unsqueeze(1)
        return LowRank(guess.mean, guess.std.square(), factor)

    @torch.no_grad()
    def begin(self, x: Tensor, parameters: Parameters, team: AbstractTeam = ALONE) -> None:
        """The softest directions of D^½(P + diag κ)D^½, averaged over data; see `LowRankSolver`."""
        p, x = parameters.to(torch.float64), x.double()
        q = DiagonalSolver()(x, p).posterior
        bend = folded_normal.curvature(q.mean, q.std) / p.prior_scale * q.std.square()
        bends, logs, n = team.sum(bend.sum(0), q.std.log().sum(0), bend.new_tensor(float(len(x))))
        curvature, scaled = bends / n, p.dictionary * (logs / n).exp() / p.noise_variance.sqrt()
        softness, vectors = torch.linalg.eigh(scaled.T @ scaled + torch.diag(curvature))
        rank = self.directions.shape[1]
        (directions,) = team.agreed(vectors[:, :rank] * reach(softness[:rank]))
        self.directions.copy_(directions)


@final
class Encoder(nn.Module):
    """A network and a head.

    Parameters
    ----------
    network : AbstractNetwork
    head : AbstractHead

    Examples
    --------
    >>> parameters = Parameters(torch.eye(2), torch.ones(2), torch.tensor(0.01))
    >>> encoder = Encoder(Unrolled(2), DiagonalHead())
    >>> encoder(torch.tensor([[3.0, 0.0]]), parameters).mean.detach().round(decimals=2)
    tensor([[2.9900, 0.0000]])
    """

    def __init__(self, network: AbstractNetwork, head: AbstractHead) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, x: Tensor, parameters: Parameters) -> AbstractPosterior:
        """The posterior of data x (n, d), with derivatives."""
        return self.head(self.network(x, parameters))

    def begin(self, x: Tensor | AbstractRows, parameters: Parameters) -> None:
        """Take first values from data (n, d) and the model of them."""
        data = rows.of(x)
        self.network.begin(parameters)
        self.head.begin(data.first(ROWS), parameters, data.team)

    def learned(self) -> list[Tensor]:
        """All numbers that it has, in an order of its own; `take` puts them into another one of its kind."""
        return list(self.state_dict().values())

    def take(self, learned: Sequence[Tensor]) -> None:
        """Take what another one has learned."""
        self.load_state_dict(dict(zip(self.state_dict(), learned, strict=True)))

    def prepared(self, parameters: Parameters) -> Callable[[Tensor], AbstractPosterior]:
        """The same at given parameters, for many calls; what depends on them alone is made once."""
        if not isinstance(self.network, Unrolled):
            return partial(self, parameters=parameters)
        network, splitting = self.network, Splitting.of(Problem.of(parameters, exact=False))
        return lambda x: self.head(network.through(x, splitting))

    @torch.no_grad()
    def fast(self, parameters: Parameters) -> Callable[[Tensor], AbstractPosterior]:
        """The same without derivatives, in place where that is known how."""
        if not isinstance(self.network, Unrolled):
            return torch.no_grad()(self.prepared(parameters))
        network, head = self.network, self.head
        splitting = Splitting.of(Problem.of(parameters, exact=False)).with_gains(network.gains())

        @torch.no_grad()
        def encode(x: Tensor) -> AbstractPosterior:
            q = iterated(splitting, x, len(splitting.steps))
            return q if isinstance(head, DiagonalHead) else head(_guess_of(q, splitting.problem))

        return encode


def build(network: str, d: int, h: int, rank: int = 0) -> Encoder:
    """An encoder of a named kind, for diagonal posteriors or, with a rank, for low-rank ones.

    Parameters
    ----------
    network : {'mlp', 'residual', 'unrolled'}
    d, h : int
    rank : int

    Raises
    ------
    KeyError
        If there is no such network.
    """
    made = {"mlp": lambda: MLP(d, h), "residual": lambda: Residual(d, h), "unrolled": lambda: Unrolled(h)}[network]()
    return Encoder(made, LowRankHead(h, rank, made.features) if rank else DiagonalHead())
