"""Learning the variances of every context, and how often each is met, from data that were seen in part.

Expectation maximisation as in `in_contexts`, with what was seen alone; the dictionary stays as it is, since half of
the data rarely say enough to better it. Most contexts are out of the question for a data point, so only a few are asked
about, those that suit it best as it was guessed: any choice gives a lower bound of the likelihood, and it still rises
at every sweep, up to what is neglected of contexts that are hardly probable.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sparsentropy.contexts import probable
from sparsentropy.gaps import BlockContexts, Seen

FEW = 3.0  # data points in a context below which it is given up
NARROW = 1e-4  # least variance of a code, in units of the least noise variance
BEST = 6  # contexts that are asked about for a data point


@final
@dataclass(frozen=True)
class GapSweep:
    """What a sweep led to: the model, and the mean log likelihood of what was seen before it, at least, in nats."""

    contexts: BlockContexts
    log_likelihood: float


def learn(
    data: Seen, contexts: BlockContexts, *, max_iter: int, step: Callable[[], object] | None = None
) -> Iterator[GapSweep]:
    """Learn for so many sweeps from data with guesses where nothing was seen.

    `step` is called once for every context before the first sweep, and twice in every sweep.
    """
    among = likely(data, contexts, step)
    for _ in range(max_iter):
        joint = contexts.log_joint(data, among, step)
        total = torch.logsumexp(joint, 1)
        contexts, kept = _fitted(data, contexts, probable(joint), step)
        among = joint[:, kept].topk(min(BEST, len(contexts)), 1).indices
        yield GapSweep(contexts, float(total.mean(dtype=torch.float64)))


def likely(data: Seen, contexts: BlockContexts, step: Callable[[], object] | None = None) -> Tensor:
    """The few contexts (n, few) in which each data point would most likely be, were its guesses right."""
    guessed = Seen(data.x, torch.ones_like(data.noise_variance))
    return contexts.log_joint(guessed, step=step).topk(min(BEST, len(contexts)), 1).indices


def _fitted(
    data: Seen, contexts: BlockContexts, probability: Tensor, step: Callable[[], object] | None
) -> tuple[BlockContexts, Tensor]:
    """v_c = Σ r (ν² + diag T) / Σ r and π_c = Σ r / n, and which contexts (k,) are still met."""
    k, b, h = contexts.prior_variance.shape
    second_moment = torch.zeros(k, b, h, dtype=torch.float64, device=data.x.device)
    for context in range(k):
        for block in range(b):
            v = contexts.prior_variance[context, block]
            for codes in contexts.codes(data, probability, context, block):
                variance = v - codes.root.square().sum(1)
                second_moment[context, block] += (codes.weight[:, None] * (codes.mean.square() + variance)).sum(0)
        if step is not None:
            step()
    count = probability.sum(0, dtype=torch.float64)
    kept = count >= min(FEW, len(data) / k)
    least = NARROW * float(data.noise_variance.min())
    variance = (second_moment[kept] / count[kept, None, None]).clamp(min=least).to(data.x.dtype)
    share = (count[kept] / count[kept].sum()).to(data.x.dtype)
    return BlockContexts(contexts.dictionary, variance, share), kept
