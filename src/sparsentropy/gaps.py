"""Data of many kinds that were seen in part: which context each data point is in, and what is in its gaps.

The model is that of `contexts`: one dictionary, and in every context variances of its own. Each dimension of each data
point has a noise variance of its own as well, infinite where nothing was seen, so that guesses can be used for what
they are worth. With o the dimensions that were seen, R their noise variances and C_oo = W_o V W_oᵀ + R = L Lᵀ,

    log p(x_o) = −½ |L⁻¹ x_o|² − log det L + const,    ν = V W_oᵀ L⁻ᵀ L⁻¹ x_o,    T = V − V W_oᵀ L⁻ᵀ L⁻¹ W_o V.

Some data come in blocks that are independent given the context and have the same gaps, as the colours of an image do:
then each block has a small problem of its own instead of all together a large one.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

AT_ONCE = 2**22  # numbers in a stack of matrices that is worked on
COMMON = 16  # data points that share a pattern from which on it is solved once for all


@final
@dataclass(frozen=True)
class Seen:
    """Data points, and how well each of their dimensions was seen.

    Parameters
    ----------
    x : Tensor, shape (n, b, d)
        In b blocks; anything finite where nothing was seen.
    noise_variance : Tensor, shape (n, d)
        The same in all blocks; infinite where nothing was seen.
    """

    x: Tensor
    noise_variance: Tensor

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def _order(self) -> Tensor:
        """Dimensions, (n, d): those that were seen first."""
        return torch.argsort(self.noise_variance.isinf().to(torch.uint8), dim=1, stable=True)

    @cached_property
    def _kind(self) -> tuple[Tensor, list[int]]:
        """Which data points can be stacked, (n,), and how many dimensions each kind has seen.

        The first kinds have seen so many dimensions, whichever these are; each of the rest shares one pattern.
        """
        patterns, member, size = torch.unique(self.noise_variance, dim=0, return_inverse=True, return_counts=True)
        count, d = patterns.isfinite().sum(1), self.x.shape[2]
        common = size >= COMMON
        number = torch.where(common, d + torch.cumsum(common, 0), count)
        return number[member], [*range(d + 1), *count[common].tolist()]

    def stacks(self, rows: Tensor) -> "Iterator[Stack]":
        """These data points, in stacks that have seen equally many dimensions."""
        kind, counts = self._kind
        mine = kind[rows]
        for number in mine.unique().tolist():
            alike, count, shared = rows[mine == number], counts[number], number > self.x.shape[2]
            for part in alike.split(max(1, AT_ONCE // self.x.shape[2] ** 2)):
                yield self._stack(part, count, shared=shared)

    def _stack(self, rows: Tensor, count: int, *, shared: bool) -> "Stack":
        owner, x = rows[:1] if shared else rows, self.x[rows]
        seen = self._order[owner, :count]
        return Stack(
            rows,
            seen,
            self.noise_variance[owner].gather(1, seen),
            x.gather(2, seen[:, None].expand(*x.shape[:2], count)),
        )


@final
@dataclass(frozen=True)
class Stack:
    """Data points that have seen equally many dimensions, or the same ones.

    Parameters
    ----------
    rows : Tensor, shape (m,)
        Which data points.
    seen : Tensor, shape (m, o) or (1, o)
        Which dimensions; one row if they are the same for all.
    noise_variance : Tensor, shape (m, o) or (1, o)
    x : Tensor, shape (m, b, o)
        What was seen.
    """

    rows: Tensor
    seen: Tensor
    noise_variance: Tensor
    x: Tensor

    def factor(self, covariance: Tensor) -> Tensor:
        """L, (m, o, o) or (1, o, o), for the covariance (d, d) that data have without noise."""
        m, o = self.seen.shape
        # Rows, then columns: several times as quick as both at once
        rows = covariance.index_select(0, self.seen.ravel()).reshape(m, o, len(covariance))
        part = rows.gather(2, self.seen[:, None].expand(m, o, o))
        part.diagonal(dim1=1, dim2=2).add_(self.noise_variance)
        return torch.linalg.cholesky(part)

    def white(self, factor: Tensor, block: int) -> Tensor:
        """L⁻¹ x_o, (m, o)."""
        x = self.x[:, block]
        if len(factor) == 1:
            return torch.linalg.solve_triangular(factor[0], x.T, upper=False).T
        return torch.linalg.solve_triangular(factor, x[:, :, None], upper=False)[:, :, 0]


@final
@dataclass(frozen=True)
class Codes:
    """The codes of some data points in one context.

    Parameters
    ----------
    rows : Tensor, shape (m,)
        Which data points.
    weight : Tensor, shape (m,)
        Probability that each is in this context.
    mean : Tensor, shape (m, h)
    root : Tensor, shape (m, o, h) or (1, o, h)
        L⁻¹ W_o V: the covariance is V − rootᵀ root.
    """

    rows: Tensor
    weight: Tensor
    mean: Tensor
    root: Tensor


@final
@dataclass(frozen=True)
class BlockContexts:
    """Gaussian models with the same dictionary in every block.

    Parameters
    ----------
    dictionary : Tensor, shape (d, h)
    prior_variance : Tensor, shape (k, b, h)
        Of every code in every context and block, data units squared.
    share : Tensor, shape (k,)
        Prior probability of every context.

    Examples
    --------
    >>> variances = torch.tensor([[[0.01, 0.01]], [[4.0, 4.0]]])  # silence and speech
    >>> contexts = BlockContexts(torch.eye(2), variances, torch.tensor([0.5, 0.5]))
    >>> noise = torch.tensor([[0.01, 0.01], [0.01, torch.inf]])
    >>> seen = Seen(torch.tensor([[[0.1, -0.1]], [[2.0, 0.0]]]), noise)
    >>> contexts.log_joint(seen).argmax(1)
    tensor([0, 1])
    """

    dictionary: Tensor
    prior_variance: Tensor
    share: Tensor

    def __len__(self) -> int:
        return len(self.share)

    def covariance(self, context: int, block: int) -> Tensor:
        """W V Wᵀ, (d, d)."""
        W = self.dictionary
        return (W * self.prior_variance[context, block]) @ W.T

    def log_joint(self, data: Seen, among: Tensor | None = None, step: Callable[[], object] | None = None) -> Tensor:
        """Log π_c p(x_o | c), (n, k) in nats; −∞ for contexts that are not among those asked for, (n, few).

        `step` is called after every context.
        """
        scores, every = data.x.new_full((len(data), len(self)), -math.inf), torch.arange(len(data))
        for context, share in enumerate(self.share.log().tolist()):
            rows = every if among is None else (among == context).any(1).nonzero().ravel()
            for stack in data.stacks(rows):
                scores[stack.rows, context] = share + self._log_prob(stack, context)
            if step is not None:
                step()
        return scores

    def _log_prob(self, stack: Stack, context: int) -> Tensor:
        total = stack.x.new_zeros(len(stack.rows))
        for block in range(stack.x.shape[1]):
            factor = stack.factor(self.covariance(context, block))
            total -= stack.white(factor, block).square().sum(1) / 2
            total -= factor.diagonal(dim1=1, dim2=2).log().sum(1)
        return total - stack.x.shape[1] * stack.seen.shape[1] / 2 * math.log(2 * math.pi)

    def codes(self, data: Seen, probability: Tensor, context: int, block: int) -> Iterator[Codes]:
        """The codes of the data points that may be in a context, given the probabilities (n, k)."""
        covariance, v = self.covariance(context, block), self.prior_variance[context, block]
        for stack in data.stacks(probability[:, context].nonzero().ravel()):
            factor = stack.factor(covariance)
            root = torch.linalg.solve_triangular(factor, self.dictionary[stack.seen], upper=False) * v
            white = stack.white(factor, block)
            mean = white @ root[0] if len(root) == 1 else (white[:, None] @ root)[:, 0]
            yield Codes(stack.rows, probability[stack.rows, context], mean, root)

    def filled(
        self, data: Seen, probability: Tensor, step: Callable[[], object] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean of Wz (n, b, d) and its variance (n, d), summed over blocks; `step` is called after every context."""
        W = self.dictionary
        mean, square = torch.zeros_like(data.x), torch.zeros_like(data.noise_variance)
        for context in range(len(self)):
            for block in range(data.x.shape[1]):
                own = self.covariance(context, block).diagonal()
                for codes in self.codes(data, probability, context, block):
                    clean, weight = codes.mean @ W.T, codes.weight[:, None]
                    mean[:, block].index_add_(0, codes.rows, weight * clean)
                    # diag W T Wᵀ, and the variance of a mixture: mean of variances, plus the variance of means
                    variance = own - (codes.root @ W.T).square().sum(1)
                    square.index_add_(0, codes.rows, weight * (variance + clean.square()))
            if step is not None:
                step()
        return mean, (square - mean.square().sum(1)).clamp_(min=0)
