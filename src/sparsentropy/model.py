"""The generative model: codes from the prior, data from the codes.

`Parameters` is all there is to know about it: the dictionary, the scale of every atom and the noise variance.
Multiplying an atom by c and dividing its codes by c changes nothing that can be observed; the *gauge* used everywhere
is that atoms have unit length, so that the scale of an atom lives in the prior alone and can be read off as its
relevance.
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from sparsentropy import likelihoods, priors
from sparsentropy.team import AbstractTeam

LAPLACE = priors.Laplace()
GAUSSIAN = likelihoods.Gaussian()


@final
@dataclass(frozen=True)
class Parameters:
    """A sparse-coding model: x = W z + noise.

    Parameters
    ----------
    dictionary : Tensor, shape (d, h)
        W; data units per code unit. Its columns are the atoms.
    prior_scale : Tensor, shape (h,)
        λ > 0, code units.
    noise_variance : Tensor, shape ()
        σ² > 0, data units squared.
    prior : AbstractPrior
    likelihood : AbstractLikelihood

    Examples
    --------
    >>> import torch
    >>> parameters = Parameters(torch.eye(2), torch.ones(2), torch.tensor(0.01))
    >>> data, codes = parameters.sample(5, seed=0)
    >>> data.shape, codes.shape
    (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    dictionary: Tensor
    prior_scale: Tensor
    noise_variance: Tensor
    prior: priors.AbstractPrior = LAPLACE
    likelihood: likelihoods.AbstractLikelihood = GAUSSIAN

    @property
    def d(self) -> int:
        """Observed dimensions."""
        return self.dictionary.shape[0]

    @property
    def h(self) -> int:
        """Atoms."""
        return self.dictionary.shape[1]

    def sample(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Draw data (n, d) and the codes (n, h) they were made from."""
        generator = torch.Generator(self.dictionary.device).manual_seed(seed)
        codes = self.prior.sample(n, self.prior_scale, generator)
        data = self.likelihood.sample(codes, self.dictionary, self.noise_variance, generator)
        return data, codes

    def gauged(self) -> tuple["Parameters", Tensor]:
        """The same model with atoms of unit length.

        Returns
        -------
        tuple of Parameters and Tensor (h,)
            The model, and the lengths c that the atoms had; codes are to be multiplied by c. An atom of length zero
            keeps its place with scale factor 1, since no direction can be given to it.
        """
        length = self.dictionary.norm(dim=0)
        length = torch.where(length > 0, length, torch.ones_like(length))
        model = replace(self, dictionary=self.dictionary / length, prior_scale=self.prior_scale * length)
        return model, length

    def rescaled(self, factor: float) -> "Parameters":
        """The model of `factor` · x."""
        return replace(self, prior_scale=self.prior_scale * factor, noise_variance=self.noise_variance * factor**2)

    def agreed(self, team: AbstractTeam) -> "Parameters":
        """Those of the first process of a team."""
        dictionary, scale, noise = team.agreed(self.dictionary, self.prior_scale, self.noise_variance)
        return replace(self, dictionary=dictionary, prior_scale=scale, noise_variance=noise)

    def to(self, dtype: torch.dtype) -> "Parameters":
        """The same numbers in another floating-point type."""
        return replace(
            self,
            dictionary=self.dictionary.to(dtype),
            prior_scale=self.prior_scale.to(dtype),
            noise_variance=self.noise_variance.to(dtype),
        )
