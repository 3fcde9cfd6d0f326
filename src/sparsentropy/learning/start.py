"""Where learning begins: the best linear model with Gaussian codes, turned at random.

Probabilistic principal component analysis has a closed form (Tipping and Bishop, "Probabilistic Principal Component
Analysis", JRSS B 1999): the noise variance is the mean of the discarded eigenvalues of the data's second moment, and
the dictionary spans the kept ones, up to a rotation that Gaussian codes cannot see; how many are kept is found by the
Bayesian information criterion. Started there, turned at random, sparse coding has the scale of everything right from
the first sweep and need only find the directions; and no atom begins its life in a place without data, where it would
be switched off before it could learn. Directions are turned only among those of similar size: one that is a thousand
times smaller than the others but still above the noise would otherwise take very long to be told apart from them.

With more atoms than kept directions there are two places to begin. A *frame* spreads all atoms over the directions. A
*basis* gives one atom to each direction and switches the others off. Independent posteriors cannot afford a frame
where the noise is small: each atom more than there are directions costs about log(λ/σ) nats. With atoms for every
dimension there is a third place, a basis of all of them and hardly any noise: to Gaussian codes, data that vary by the
same in all directions are nothing but noise, while sparse codes may explain them to the end.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from sparsentropy import rows
from sparsentropy.learning import em
from sparsentropy.model import Parameters
from sparsentropy.rows import AbstractRows, drawn
from sparsentropy.team import AbstractTeam

# Nats per dimension by which a later start must be better: with fewer atoms in use, for a Gaussian direction that is
# taken for a Laplacian costs 0.05, and so does an atom that is off; and with as many or more
FEWER, MORE = 0.02, 0.005
LEARNED = 0.6  # part of what unknowns are expected to learn by heart that a little learning has come to
ROWS = 8192  # of data that are made float64 together
OFF = 0.05  # usage below which an atom is off
SIMILAR = 4.0  # ratio of variances
MISSED = 2.0  # times what sampling alone would show
SMALLEST_NOISE = 1e-8  # of the squared typical size of the data; they may lie in a subspace exactly
# Of the covariance of data with gaps: most operations of an iteration, data points per dimension that it needs,
# elements of the matrices that are inverted together, iterations, and the change after which it has settled
EM_WORK, EM_LEAST, EM_CHUNK = 5e10, 4, 2**21
EM_ITERATIONS, EM_ENOUGH, EM_RIDGE = 100, 1e-3, 1e-8
MOST_ATOMS, OF_DIRECTIONS = 100, (2, 3)  # where nobody says how many; 2/3 leaves a third to tell the noise from
SHARE = 0.01  # of the smallest eigenvalue that is noise where no direction is left for it


def random_starts(x: Tensor | AbstractRows, h: int, generator: torch.Generator) -> list[Parameters]:
    """Parameters to start from, in the dtype of `x`: a frame and, where these are others, a basis and a whole basis.

    Parameters
    ----------
    x : Tensor or AbstractRows, shape (n, d)
        Data; NaN is what is missing.
    h : int
        Atoms.
    generator : torch.Generator
        Draws the rotations.

    Returns
    -------
    list of Parameters
        With unit-length atoms, and prior scales such that the model has the second moment of the data.

    Raises
    ------
    ValueError
        If the data are zero, as those may be that are left when others were set aside.
    """
    data = rows.of(x)
    n, d = data.shape
    eigenvalues, eigenvectors = torch.linalg.eigh(_moment(data, generator))  # ascending
    eigenvalues = eigenvalues.clamp(min=_least_noise(eigenvalues, data.typical_size()))
    kept = max(1, _rank(eigenvalues, n, h))
    places = [(kept, h), (kept, kept), (d, d)] if h >= d else [(kept, h), (kept, kept)]
    eigenvalues, eigenvectors = eigenvalues.flip(0), eigenvectors.flip(1)
    starts = [_start(eigenvalues, eigenvectors, rank, used, h, generator) for rank, used in dict.fromkeys(places)]
    return [start.to(data.dtype) for start in starts]


def suitable_number(x: Tensor | AbstractRows, generator: torch.Generator) -> int:
    """Return a number of atoms that suits the data.

    As many as there are directions that stand out of the noise, by the Bayesian information criterion of probabilistic
    PCA; but at most two thirds of the directions in which data vary at all, since the noise is told by the others, and
    at most 100. Where no direction stands out, as in whitened data, two thirds of them.

    Parameters
    ----------
    x : Tensor or AbstractRows, shape (n, d)
        Data; NaN is what is missing.
    generator : torch.Generator
        Draws the rows that stand for all where values are missing.

    Returns
    -------
    int
        From 1 to `most_atoms(n, d)`.

    Raises
    ------
    ValueError
        If the data are zero.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> x = torch.randn(1000, 3, generator=draw) @ torch.randn(3, 10, generator=draw)
    >>> suitable_number(x + 0.1 * torch.randn(1000, 10, generator=draw), draw)
    3
    """
    data = rows.of(x)
    n, d = data.shape
    eigenvalues = torch.linalg.eigvalsh(_moment(data, generator))
    least = _least_noise(eigenvalues, data.typical_size())
    part, whole = OF_DIRECTIONS
    vary = part * int((eigenvalues > least).sum()) // whole
    found = min(_rank(eigenvalues.clamp(min=least), n, d) or vary, vary, most_atoms(n, d))
    return data.team.told(max(1, found))[0]


def most_atoms(n: int, d: int) -> int:
    """Return the largest number of atoms that `suitable_number` gives for n data points of d entries."""
    part, whole = OF_DIRECTIONS
    return max(1, min(MOST_ATOMS, n, part * d // whole))


def _moment(data: AbstractRows, generator: torch.Generator) -> Tensor:
    """Return the mean of x xᵀ (d, d), completed where values are missing."""
    return completed_second_moment(data, generator) if data.has_gaps else _second_moment_of_any(data)


def second_moment(x: Tensor | AbstractRows, team: AbstractTeam | None = None) -> Tensor:
    """Mean of x xᵀ (d, d), float64; each entry over the data points of which both values are known.

    Where values are missing (NaN) the matrix may have negative eigenvalues, and two that are never known together count
    as unrelated. Where these are data points of one process alone, `team` has the others.
    """
    data = rows.of(x)
    d = data.shape[1]
    moment, known = (torch.zeros(d, d, dtype=torch.float64, device=data.device) for _ in range(2))
    for part in data.split(ROWS):
        missing, values = part.isnan(), part.double()
        if missing.any():
            values, seen = values.masked_fill(missing, 0.0), (~missing).to(part.dtype)
            known += (seen.T @ seen).double()
        else:
            known += len(part)
        moment += values.T @ values
    moment, known = (team or data.team).sum(moment, known)
    return moment / known.clamp(min=1.0)


def _second_moment_of_any(data: AbstractRows) -> Tensor:
    """The same, if there is anything in the data whose square can be computed with."""
    moment = second_moment(data)
    if not moment.diagonal().mean() > torch.finfo(data.dtype).tiny ** 0.5:
        raise ValueError(
            f"X is zero in all {len(data)} rows that are left to learn from, or far smaller there than in those that "
            "were set aside: give more rows that vary, or set validation_fraction=0."
        )
    return moment


def completed_second_moment(x: Tensor | AbstractRows, generator: torch.Generator) -> Tensor:
    """What the mean of x xᵀ (d, d) would be without gaps: the most likely covariance of Gaussian data.

    Found by EM (Dempster, Laird and Rubin, JRSS B 1977, section 4.1.3): with K the inverse of the covariance C and m
    the gaps of a data point, these have the covariance (K_mm)⁻¹ and the mean −(K_mm)⁻¹ K_mo x_o. (As the difference
    C_mm − C_mo (C_oo)⁻¹ C_om the covariance would lose all its digits where data lie in a subspace.) Each iteration
    inverts a matrix for every data point, so a random part of them serves; where even that would be too few, the
    moments of pairs do. Unlike those it does not leave directions without data what sampling makes of them.
    """
    data = rows.of(x)
    pairs, (n, d) = _second_moment_of_any(data), data.shape
    most = min(data.affordable(4 * d), int(EM_WORK / d**3))
    if most < EM_LEAST * d and most < n:
        return pairs
    x = data.take(drawn(n, most, generator) if most < n else torch.arange(n))
    (count,) = data.team.sum(torch.tensor(float(len(x)), dtype=torch.float64, device=x.device))
    ridge = EM_RIDGE * pairs.diagonal().mean() * torch.eye(d).to(pairs)  # where a value never varies, too
    C = torch.diag(pairs.diagonal()) + ridge
    for _ in range(EM_ITERATIONS):
        before, total = C, torch.zeros_like(C)
        K = torch.cholesky_inverse(torch.linalg.cholesky(C))
        for part in x.double().split(max(1, EM_CHUNK // d**2)):
            gaps, values = part.isnan().to(C), part.nan_to_num(0.0)
            both = gaps.unsqueeze(2) * gaps.unsqueeze(1)
            spread = torch.cholesky_inverse(torch.linalg.cholesky(both * K + torch.diag_embed(1 - gaps))) * both
            mean = values - (spread @ (values @ K * gaps).unsqueeze(2)).squeeze(2)
            total += mean.T @ mean + spread.sum(0)
        (total,) = data.team.sum(total)
        C = total / count + ridge
        if (C - before).norm() < EM_ENOUGH * C.norm():
            break
    return C


def _start(
    eigenvalues: Tensor, directions: Tensor, rank: int, used: int, h: int, generator: torch.Generator
) -> Parameters:
    """Codes for so many directions, eigenvalues descending, with so many of the atoms."""
    noise = eigenvalues[rank:].mean() if rank < len(eigenvalues) else SHARE * eigenvalues[-1]
    signal, directions = (eigenvalues[:rank] - noise).clamp(min=0.01 * noise), directions[:, :rank]
    dictionary = _atoms(signal, directions, used, generator)
    if used < h:
        spare = directions @ torch.randn(rank, h - used, dtype=torch.float64, generator=generator).to(directions)
        dictionary = torch.cat([dictionary, 0.01 * noise.sqrt() * spare / spare.norm(dim=0)], 1)
    # A Laplace code of scale λ has variance 2λ²
    scale = torch.full((h,), math.sqrt(0.5), dtype=torch.float64, device=noise.device)
    return Parameters(dictionary, scale, noise).gauged()[0]


def revive(
    error: Tensor, n: int, parameters: Parameters, usage: Tensor, generator: torch.Generator
) -> Parameters | None:
    """Give atoms that have been switched off a new start where the model still misses something.

    An atom whose scale has become small grows back only as slowly as it shrank, even where it is needed. If noise is
    all that is left, the expected error has the same variance in all directions, up to sampling (the edge of the
    Marchenko-Pastur law); directions beyond that are what the atoms are started from again, in the same way as all
    were at the beginning.

    Parameters
    ----------
    error : Tensor, shape (d, d)
        mean_n E[(x − Wz)(x − Wz)ᵀ], float64.
    n : int
        Data points it was averaged over.
    parameters : Parameters
    usage : Tensor, shape (h,)
        `Statistics.usage`.
    generator : torch.Generator

    Returns
    -------
    Parameters or None
        None when no atom is off, or nothing is missing.
    """
    off = torch.nonzero(usage < OFF).ravel()
    eigenvalues, eigenvectors = torch.linalg.eigh(error)
    noise = eigenvalues.quantile(0.25).clamp(min=_least_noise(eigenvalues, 0.0))
    edge = noise * (1 + math.sqrt(parameters.d / n)) ** 2
    missed = int((eigenvalues > MISSED * edge).sum())
    if len(off) == 0 or missed == 0:
        return None
    off = off[: min(len(off), missed)]
    fresh = _rotated(eigenvalues[-len(off) :] - noise, eigenvectors[:, -len(off) :], len(off), generator)
    scale, length = torch.full_like(fresh[0], math.sqrt(0.5)), fresh.norm(dim=0)
    dictionary, prior_scale = parameters.dictionary.clone(), parameters.prior_scale.clone()
    dictionary[:, off] = (fresh / length).to(dictionary.dtype)
    prior_scale[off] = (scale * length).to(prior_scale.dtype)
    return replace(parameters, dictionary=dictionary, prior_scale=prior_scale)


def margin(first: Parameters, later: Parameters, n: int) -> float:
    """Nats per data point by which a later start must be better after a little learning from n data points.

    An unknown is expected to raise their bound by 1/2n, and to lower that of others by as much (Akaike, "A new look at
    the statistical model identification", IEEE Transactions on Automatic Control 1974); each atom in use has d. But the
    directions of a start are those of Gaussian codes, which have half as many, and little has been learned since.
    """
    more = em.in_use(later) - em.in_use(first)
    return first.d * (FEWER if more < 0 else MORE + LEARNED * more / n)


def _least_noise(eigenvalues: Tensor, size: float) -> float:
    """Return the variance below which a direction has none, for ascending eigenvalues and data of a typical size.

    Rounding leaves directions without any variance with one that may be negative. The largest eigenvalue says how far
    rounding can reach, and nothing else: a single outlier may have made it 10¹⁰ times that of all other directions.
    """
    rounding = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * float(eigenvalues[-1])
    return max(SMALLEST_NOISE * rows.power_of_two(size) ** 2, rounding) if size else rounding


def _rank(eigenvalues: Tensor, n: int, most: int) -> int:
    """Directions that stand out of the noise, by the Bayesian information criterion of probabilistic PCA.

    The maximal log likelihood of q directions is −n/2 [Σ_{i≤q} log e_i + (d − q) log ē_q] up to a constant, where ē_q
    is the mean of the discarded eigenvalues (Tipping and Bishop 1999, equation 8); each parameter costs ½ log n.
    """
    d = len(eigenvalues)
    e = eigenvalues.flip(0)
    q = torch.arange(min(most, d - 1) + 1, dtype=e.dtype, device=e.device)
    kept = torch.cat([e.new_zeros(1), e.log().cumsum(0)])[: len(q)]
    rest = (e.sum() - torch.cat([e.new_zeros(1), e.cumsum(0)])[: len(q)]) / (d - q)
    unknown = d * q - q * (q - 1) / 2 + 1
    return int((-n / 2 * (kept + (d - q) * rest.log()) - unknown / 2 * math.log(n)).argmax())


def _atoms(signal: Tensor, eigenvectors: Tensor, h: int, generator: torch.Generator) -> Tensor:
    """Atoms (d, h) with W Wᵀ = Σ signal_i v_i v_iᵀ, turned at random among directions of similar size.

    A rotation among all of them would put into every atom what belongs to the largest direction, and to single out
    directions a thousand times smaller takes learning very long.
    """
    parts, first = [], 0
    q = len(signal)
    while first < q:
        after = first + int((signal[first:] >= signal[first] / SIMILAR).sum())
        share = round(h * (after - first) / (q - first))
        rows = slice(first, after)
        parts.append(_rotated(signal[rows], eigenvectors[:, rows], share, generator))
        h, first = h - share, after
    return torch.cat(parts, 1)


def _rotated(signal: Tensor, eigenvectors: Tensor, h: int, generator: torch.Generator) -> Tensor:
    """Atoms (d, h) with W Wᵀ = Σ signal_i v_i v_iᵀ, turned at random."""
    shape = (h, signal.shape[0])
    directions = torch.randn(shape, dtype=torch.float64, generator=generator, device=generator.device)
    # R Rᵀ = I: a rotation for as many atoms as directions, a random frame for more
    frame = torch.linalg.qr(directions.to(signal.device)).Q.T
    return eigenvectors @ (signal.sqrt()[:, None] * frame)
