"""Two atoms that each explain half of two causes: a saddle of the bound, and the turn that leads away from it.

Take two causes of equal size, and two atoms that are their sum and their difference. Each atom then has a code that is
a mixture of both causes, and a small turn in either direction changes the bound little: learning is slow here, or
takes the place for the end. A turn by 45 degrees separates them at once. So, when learning has come to an end, all
pairs of atoms are tried, on codes of unit second moment, where turns are right angles apart; no E-step is needed to
see what a turn is worth, since it changes only the prior's part of the bound. The same test ends an independent
component analysis in Koldovský, Tichavský and Oja, "Efficient variant of algorithm FastICA ..." (IEEE TNN 2006).
"""

import math

import torch
from torch import Tensor

from sparsentropy import folded_normal
from sparsentropy.posteriors import AbstractPosterior
from sparsentropy.team import ALONE, AbstractTeam

ROWS = 1024  # of data that are looked at
CHUNK = 2**18  # elements of (n, h, h) arrays at once: they fit into a cache


def pairwise_gains(posterior: AbstractPosterior, size: Tensor, used: Tensor, team: AbstractTeam = ALONE) -> Tensor:
    """What turning a pair of atoms by 45 degrees adds to the bound if the posteriors turn with it.

    Parameters
    ----------
    posterior : AbstractPosterior
        Of some data points; the first of them are used.
    size : Tensor, shape (h,)
        Root second moments of the codes.
    used : Tensor of int, shape (u,)
        Atoms to be paired.
    team : AbstractTeam
        Other processes have other data points.

    Returns
    -------
    Tensor, shape (u, u), float64
        log λ_h + log λ_j − log λ₊ − log λ₋ in nats per data point for codes z_h and z_j in units of their sizes and
        z_± = (z_h ± z_j)/√2; symmetric. For independent posteriors an upper bound, for they cannot turn with the codes.
    """
    q, u = posterior[: min(ROWS, len(posterior))], len(used)
    totals = torch.zeros(2, u, u, dtype=torch.float64, device=size.device)
    rows = max(1, CHUNK // len(size) ** 2)
    for first in range(0, len(q), rows):
        part = q[first : first + rows]
        mean = (part.mean.double() / size)[:, used]
        covariance = (part.covariance().double() / size / size[:, None])[:, used][:, :, used]
        variance = covariance.diagonal(dim1=1, dim2=2)
        for total, sign in zip(totals, (1, -1), strict=True):
            location = (mean[:, :, None] + sign * mean[:, None]) / math.sqrt(2)
            spread = (variance[:, :, None] + variance[:, None]) / 2 + sign * covariance
            # The difference of a code with itself is exactly zero
            total += folded_normal.mean(location, spread.clamp(min=1e-30).sqrt()).sum(0)
    own = (q.abs_moment().double() / size)[:, used].sum(0)
    totals, total, n = team.sum(totals, own, torch.tensor(float(len(q)), dtype=torch.float64, device=size.device))
    scale, turned = total / n, (totals / n).log().sum(0)
    return (scale.log() + scale.log()[:, None] - turned).fill_diagonal_(0)


def turns(
    posterior: AbstractPosterior, size: Tensor, used: Tensor, team: AbstractTeam = ALONE
) -> list[tuple[int, int]]:
    """Pairs of atoms that a turn by 45 degrees would separate, no atom in two of them, the most promising first.

    Parameters
    ----------
    posterior, size, used, team
        As in `pairwise_gains`.

    Returns
    -------
    list of tuple (int, int)
        Indices of atoms.
    """
    (gains,) = team.agreed(pairwise_gains(posterior, size, used, team).triu(1))
    pairs = []
    while gains.numel() and gains.max() > 0:
        h, j = divmod(int(gains.argmax()), gains.shape[1])
        pairs.append((int(used[h]), int(used[j])))
        gains[[h, j]] = 0
        gains[:, [h, j]] = 0
    return pairs


def turn_by(pairs: list[tuple[int, int]], size: Tensor) -> Tensor:
    """V (h, h), float64, that turns each pair of codes by 45 degrees where codes have the given sizes."""
    matrix = torch.eye(len(size), dtype=torch.float64, device=size.device)
    c = math.sqrt(0.5)
    for h, j in pairs:
        matrix[h, h], matrix[h, j] = c, c * size[h] / size[j]
        matrix[j, h], matrix[j, j] = -c * size[j] / size[h], c
    return matrix
