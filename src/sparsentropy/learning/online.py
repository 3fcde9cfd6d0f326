"""One step of learning from a stream: every batch is seen once and then forgotten, slowly.

The statistics of a batch are added to those of the past, which are discounted so that what was inferred under old
parameters fades; the closed forms then give the next parameters (online EM: Cappé and Moulines, "On-line
expectation-maximization algorithm for latent data models", JRSS B 2009). The cost and the memory of a step do not
depend on how much has been seen.
"""

import torch

from sparsentropy.learning import em
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics

MEMORY = 0.5  # the past counts as at most this part of all data points seen so far ...
SHORTEST = 4  # ... but as at least so many batches


def absorb(past: Statistics, batch: Statistics, seen: int) -> Statistics:
    """Add a batch to the discounted past; `seen` data points have been seen, the batch included."""
    horizon = max(MEMORY * seen, SHORTEST * float(batch.n))
    return past * float(torch.clamp(1 - batch.n / horizon, min=0.0)) + batch


def update(statistics: Statistics, parameters: Parameters) -> tuple[Statistics, Parameters]:
    """The closed-form M-step, and the statistics in its gauge."""
    new, factor = em.update(statistics, parameters)
    return statistics.rescaled(factor.double()), new
