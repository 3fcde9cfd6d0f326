"""One step of learning from a stream: every batch is seen once and then forgotten, slowly.

The statistics of a batch are added to those of the past, which are discounted so that what was inferred under old
parameters fades; scales and noise follow from the sums in closed form (online EM: Cappé and Moulines, "On-line
expectation-maximization algorithm for latent data models", JRSS B 2009). The dictionary goes a part of the way that
the gradient of the batch and the metric of the sums point to (`quasi_newton`), which is a stochastic Newton step. The
part falls with the weight of the batch among all that is remembered, to a power between ½ and 1, for which Robbins and
Monro ("A stochastic approximation method", 1951) prove convergence. So there is no rate to tune, and neither the cost
nor the memory of a step depends on how much has been seen.

What atoms gain by turning against each other is kept from being mistaken for noise: where W becomes W V⁻¹, the codes
that the past has inferred are turned by V (`rotation`), which leaves everything explained as it was.
"""

from dataclasses import replace

import torch
from torch import Tensor

from sparsentropy.learning import em, quasi_newton
from sparsentropy.learning.start import OFF
from sparsentropy.model import Parameters
from sparsentropy.objectives import Statistics

MEMORY = 0.5  # the past counts as at most this part of all data points seen so far ...
SHORTEST = 4  # ... but as at least so many batches
POWER = 0.6  # of the weight of a batch, for its part of a Newton step; 0.5 and 0.67 were about as good, 1 far slower
CAP = 0.5  # longest way an atom of unit length may point to


def absorb(past: Statistics, batch: Statistics, seen: int) -> Statistics:
    """Add a batch to the discounted past; `seen` data points have been seen, the batch included."""
    return past * (1 - _weight(float(batch.n), seen)) + batch


def update(
    statistics: Statistics, batch: Statistics, parameters: Parameters, seen: int, *, independent: bool
) -> tuple[Statistics, Parameters]:
    """The next parameters, and the statistics in their gauge.

    Parameters
    ----------
    statistics, batch : Statistics
        Of all that is remembered, the batch included, and of the batch alone.
    parameters : Parameters
        At which the posteriors of the batch were inferred.
    seen : int
        Data points seen, the batch included.
    independent : bool
        Whether posteriors are.

    Returns
    -------
    tuple of Statistics and Parameters
    """
    noise = quasi_newton.best_noise_variance(statistics, parameters)
    metric = quasi_newton.Metric.of(statistics, parameters, independent=independent)
    direction = metric(quasi_newton.gradient(batch, parameters, noise))
    direction = direction * (CAP / direction.norm(dim=0).clamp(min=CAP))
    step = _weight(float(batch.n), seen) ** POWER * direction
    turned = _turned(statistics, parameters.dictionary.double(), step)
    new, factor = em.fit(turned, parameters, parameters.dictionary.double() + step).gauged()
    return turned.rescaled(factor.double()), new


def _weight(rows: float, seen: int) -> float:
    """Of a batch among all that is remembered."""
    return min(1.0, rows / max(MEMORY * seen, SHORTEST * rows))


def _turned(statistics: Statistics, dictionary: Tensor, step: Tensor) -> Statistics:
    """V (Σ ννᵀ + T) Vᵀ and Σ xνᵀ Vᵀ with V⁻¹ = I + E and W E as near to the step as may be, for atoms in use."""
    used = (statistics.usage >= OFF).nonzero().ravel()
    if not len(used):
        return statistics
    relative = torch.linalg.pinv(dictionary[:, used]) @ step[:, used]
    matrix = torch.eye(len(statistics.usage), dtype=torch.float64, device=step.device)
    matrix[used[:, None], used] = torch.linalg.inv(matrix[used[:, None], used] + relative)
    second_moment = matrix @ statistics.second_moment @ matrix.T
    return replace(statistics, cross=statistics.cross @ matrix.T, second_moment=second_moment)
