"""Learning a dictionary, its variances in every context, and how often each context is met.

Expectation maximisation: each sweep asks in which context every data point is and what its codes are there, and takes
the closed forms. With r_nc the probability of context c and T_c the covariance of its codes,

    W = (Σ r x νᵀ)(Σ r (ννᵀ + T))⁻¹,    v_c = Σ_n r (ν² + diag T) / Σ_n r,    π_c = mean_n r.

Contexts with r below a thousandth are neglected and the others' r add up to one, so the log likelihood rises at every
sweep up to what is neglected. The noise variance is given, not learned: codes with the same variance for all
atoms of a basis cannot be told from noise, so the likelihood does not say where the one ends and the other begins.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from sparsentropy.contexts import Contexts, probable
from sparsentropy.learning import em

FEW = 3.0  # data points in a context below which it is given up
NARROW = 1e-4  # least variance of a code, in units of the noise variance
LOUD = 2.7  # noise standard deviations above which a coefficient is a signal's, to begin with
MOST, EACH = 40, 200  # contexts at most, and data points to learn from for each at least
PLAIN_SWEEPS = 5  # before the dictionary moves


@final
@dataclass(frozen=True)
class ContextSweep:
    """What a sweep led to: the model, and the mean log likelihood of the data before it, in nats."""

    contexts: Contexts
    log_likelihood: float


def learn(x: Tensor, contexts: Contexts, *, max_iter: int, tol: float) -> Iterator[ContextSweep]:
    """Learn from data x (n, d) until the likelihood gains less than `tol` nats per data point and sweep."""
    before = -float("inf")
    for sweep in range(max_iter):
        new = _sweep(x, contexts, learns=sweep >= PLAIN_SWEEPS)
        contexts = new.contexts
        yield new
        if sweep > PLAIN_SWEEPS and new.log_likelihood < before + tol:
            return
        before = new.log_likelihood


def _sweep(x: Tensor, contexts: Contexts, *, learns: bool) -> ContextSweep:
    joint = contexts.log_joint(x)
    total = torch.logsumexp(joint, 1)
    W = contexts.dictionary
    cross, moment = W.double() * 0, torch.zeros(W.shape[1], W.shape[1], dtype=torch.float64, device=W.device)
    variances, shares, few = [], [], min(FEW, len(x) / len(contexts))
    for model, rows, weight in contexts.members(probable(joint)):
        count = float(weight.sum(dtype=torch.float64))
        if count < few:
            continue
        part = x[rows]
        codes = part @ model.gain.T
        # Σ r (ννᵀ + T)
        own = ((weight * codes).T @ codes).double() + count * model.covariance
        cross, moment = cross + ((weight * part).T @ codes).double(), moment + own
        variances.append((own.diagonal() / count).clamp(min=NARROW * contexts.noise_variance))
        shares.append(count)
    variance, share = torch.stack(variances), torch.tensor(shares, dtype=torch.float64, device=x.device)
    if learns:
        solved = em.solved(cross, moment)
        length = solved.norm(dim=0)
        # An atom without any code stays as it is
        W = torch.where(length > 0, solved / length, W)
        variance = torch.where(length > 0, variance * length.square(), variance)
    new = Contexts(W.to(x.dtype), variance.to(x.dtype), contexts.noise_variance, (share / share.sum()).to(x.dtype))
    return ContextSweep(new, float(total.mean(dtype=torch.float64)))


def enough(n: int) -> int:
    """How many contexts n data points can tell apart."""
    return max(1, min(MOST, n // EACH))


def started(x: Tensor, dictionary: Tensor, noise_variance: float, k: int, seed: int) -> Contexts:
    """A first guess of k contexts: what is quiet is one, and what points in similar directions is one each.

    Parameters
    ----------
    x : Tensor, shape (n, d)
        In coordinates in which signals are sparse already, such as those of a cosine transform.
    dictionary : Tensor, shape (d, h)
        Of unit-length atoms.
    noise_variance : float
    k : int
        Contexts, at most; few data have fewer.
    seed : int
    """
    label = _clusters(x, noise_variance**0.5, k, seed)
    signal = x.shape[1] / dictionary.shape[1]  # variance is shared among more atoms than there are dimensions
    variances, shares = [], []
    for cluster in label.unique().tolist():
        part = x[label == cluster]
        along = (part @ dictionary).square().mean(0) - noise_variance
        variances.append((signal * along).clamp(min=1e-2 * noise_variance))
        shares.append(len(part) / len(x))
    return Contexts(dictionary, torch.stack(variances), noise_variance, x.new_tensor(shares))


def _clusters(x: Tensor, noise: float, k: int, seed: int) -> Tensor:
    """Which of k clusters every data point is in, (n,); 0 are those without any loud coefficient."""
    loud = x * (x.abs() > LOUD * noise)
    length = loud.norm(dim=1)
    heard = (length > 0).nonzero().ravel()
    label = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    if k < 2 or len(heard) < k:
        return label
    direction = loud[heard] / length[heard, None]
    # x and −x are alike: the largest coefficient is made positive
    largest = direction.abs().argmax(1, keepdim=True)
    direction = (direction * direction.gather(1, largest).sign()).cpu().numpy()
    kmeans = MiniBatchKMeans(k - 1, n_init="auto", batch_size=4096, random_state=seed)
    found = kmeans.fit_predict(direction)
    label[heard] = 1 + torch.as_tensor(found, dtype=torch.int64, device=x.device)
    return label
