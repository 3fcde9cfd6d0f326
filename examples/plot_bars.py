"""All ten bars are found by full posteriors, and not by diagonal ones.

Bars overlap, and several show in every image, so what an image says about one of them depends on the others. Full
posteriors know this. Ten bars also span only nine dimensions: diagonal posteriors do without one of them.

    python examples/plot_bars.py [bars.png]
"""

import sys

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from sparsentropy import SparseCoding, datasets
from sparsentropy.metrics import dictionary_match


def main(file: str) -> None:
    """Learn twice, print how well the bars were found, and draw them."""
    bars = datasets.make_bars(1000, noise_std=0.1, seed=0)
    figure, axes = plt.subplots(2, 10, figsize=(10, 2.6), layout="constrained")
    for row, posterior in zip(axes, ("full", "diagonal"), strict=True):
        model = SparseCoding(10, posterior=posterior, random_state=0).fit(bars.data)
        match = dictionary_match(model.components_, bars.dictionary.T)
        found = int((match.cosines >= 0.95).sum())
        print(
            f"{posterior}: {found} of 10 bars found, noise {model.noise_variance_**0.5:.3f} (true 0.1), "
            f"bound {model.lower_bound_:.2f} nats per image"
        )
        for axis, atom, sign in zip(row, match.assignment, match.signs, strict=True):
            axis.imshow(sign * model.components_[atom].reshape(5, 5), cmap="RdBu_r", vmin=-0.6, vmax=0.6)
            axis.set(xticks=[], yticks=[], title=f"λ {model.prior_scale_[atom]:.2f}")
        row[0].set_ylabel(posterior)
    figure.savefig(file, dpi=120)
    print(file)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "bars.png")
