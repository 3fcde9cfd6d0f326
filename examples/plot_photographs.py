"""Patches of two photographs teach edges, and the noise level is found along the way.

Noise of known size is added to whitened patches. Nobody tells the model how large it is.

    python examples/plot_photographs.py [photographs.png]
"""

import sys

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from sparsentropy import SparseCoding, datasets

NOISE = 0.1


def main(file: str) -> None:
    """Learn, print the noise that was found, and draw the atoms with the largest prior scales."""
    patches = datasets.natural_patches(12_000, size=8)
    patches += NOISE * np.random.default_rng(0).normal(size=patches.shape).astype(np.float32)
    model = SparseCoding(48, max_iter=60, tol=1e-2, random_state=0).fit(patches)
    found = model.noise_variance_**0.5
    print(f"noise added {NOISE}, noise found {found:.3f}, {model.n_iter_} sweeps")
    figure, axes = plt.subplots(4, 12, figsize=(9, 3.4), layout="constrained")
    figure.suptitle(f"noise: added {NOISE}, found {found:.3f}")
    for axis, atom in zip(axes.flat, np.argsort(-model.prior_scale_), strict=True):
        image = model.components_[atom].reshape(8, 8)
        axis.imshow(image, cmap="gray", vmin=-abs(image).max(), vmax=abs(image).max())
        axis.set(xticks=[], yticks=[])
    figure.savefig(file, dpi=120)
    print(file)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "photographs.png")
