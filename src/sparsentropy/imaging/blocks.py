"""Patches as blocks: parts with the same gaps whose codes are independent once the context is known.

With cosines the blocks are colours, lightness first. The atoms of a model may have any colours, so that with these a
patch is one block. Constants are atoms of their own.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor

from sparsentropy.gaps import BlockContexts, Seen
from sparsentropy.imaging import dictionaries
from sparsentropy.imaging.cosines import cosines, transform
from sparsentropy.learning import in_contexts

if TYPE_CHECKING:
    from sparsentropy.estimator import SparseCoding


@final
@dataclass(frozen=True, eq=False)
class Blocks:
    """How patches become blocks, and what is in these to begin with.

    Parameters
    ----------
    size, channels : int
        Of a patch.
    colours : Tensor, shape (channels, channels), or None
        From channels to blocks, orthonormal; None where all channels are one block.
    constants : Tensor, shape (d, g)
        Unit-length atoms of a block.
    basis : Tensor, shape (f, d)
        What is orthogonal to them.
    atoms : Tensor, shape (f, h)
        Dictionary in the coordinates of the basis.

    Examples
    --------
    >>> blocks = Blocks.of(3, None)
    >>> patches = torch.rand(5, 192)
    >>> blocks.split(patches).shape
    torch.Size([5, 3, 64])
    >>> torch.allclose(blocks.joined(blocks.split(patches)), patches, atol=1e-6)
    True
    """

    size: int
    channels: int
    colours: Tensor | None
    constants: Tensor
    basis: Tensor
    atoms: Tensor

    @classmethod
    def of(cls, channels: int, model: "SparseCoding | None", size: int = 8) -> "Blocks":
        """For images with so many channels; a model says how large patches are."""

        def tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array, dtype=torch.float32)

        if model is None:
            flat, basis = np.ones((size**2, 1)) / size, cosines(size)
            return cls(size, channels, tensor(transform(channels)), tensor(flat), tensor(basis), torch.eye(len(basis)))
        size = dictionaries.patch_size(model, channels)
        flat, basis = np.kron(np.ones((size**2, 1)) / size, np.eye(channels)), cosines(size, channels)
        atoms = tensor(dictionaries.dictionary(model, basis))
        return cls(size, channels, None, tensor(flat), tensor(basis), atoms)

    @property
    def dictionary(self) -> Tensor:
        """All atoms of a block, constants first, (d, g + h)."""
        return torch.cat([self.constants, self.basis.T @ self.atoms], 1)

    def split(self, patches: Tensor) -> Tensor:
        """Patches (n, size² · channels) as blocks (n, b, d)."""
        if self.colours is None:
            return patches[:, None]
        return (patches.reshape(len(patches), -1, self.channels) @ self.colours.T).transpose(1, 2).contiguous()

    def joined(self, x: Tensor) -> Tensor:
        """Blocks (n, b, d) as patches."""
        return x[:, 0] if self.colours is None else (x.transpose(1, 2) @ self.colours).reshape(len(x), -1)

    def seen(self, patches: Tensor, noise_variance: Tensor) -> Seen:
        """Patches and the noise of their pixels (n, size²)."""
        if self.colours is None:
            noise_variance = noise_variance.repeat_interleave(self.channels, 1)
        return Seen(self.split(patches), noise_variance)

    def per_pixel(self, variance: Tensor) -> Tensor:
        """From the variance of blocks, summed over these (n, d), to that of a pixel's channel (n, size²)."""
        return variance.reshape(len(variance), self.size**2, -1).sum(2) / self.channels

    def started(self, x: Tensor, k: int, seed: int) -> BlockContexts:
        """A first guess of k contexts from complete blocks (n, b, d) with noise of variance 1."""
        n, b = x.shape[:2]
        fine = (x @ self.basis.T).reshape(n, -1)
        contexts = in_contexts.started(fine, torch.block_diag(*[self.atoms] * b), 1.0, k, seed)
        level = (x @ self.constants).square().mean(0).expand(len(contexts), -1, -1)
        variance = torch.cat([level, contexts.prior_variance.reshape(len(contexts), b, -1)], 2)
        return BlockContexts(self.dictionary, variance, contexts.share)
