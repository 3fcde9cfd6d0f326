"""
Full posteriors find all ten bars
=================================

Bars overlap, and several show in every image, so what an image says about one of them depends on the others. Full
posteriors know this. Ten bars also span only nine dimensions: diagonal posteriors do without one of them.
"""

import matplotlib.pyplot as plt

from sparsentropy import SparseCoding, datasets
from sparsentropy.metrics import dictionary_match

bars = datasets.make_bars(1000, noise_std=0.1, seed=0)
models = {
    posterior: SparseCoding(10, posterior=posterior, random_state=0).fit(bars.data)
    for posterior in ("full", "diagonal")
}

# %%
# A bar counts as found if the atom that is matched with it has a cosine of at least 0.95 with it.

matches = {
    name: dictionary_match(model.components_, bars.dictionary.T)
    for name, model in models.items()
}
for name, model in models.items():
    print(
        f"{name}: {(matches[name].cosines >= 0.95).sum()} of 10 bars found, "
        f"noise {model.noise_variance_**0.5:.3f} (true 0.1), "
        f"bound {model.lower_bound_:.2f} nats per image"
    )

# %%
# The scale λ of every atom stands above it; bars of the strength that the data were made with have λ = √5 = 2.24, five
# pixels of 1 being the length of a bar. Diagonal posteriors switch one atom off, and turn others to make up for it.

figure, axes = plt.subplots(2, 10, figsize=(10, 2.6), layout="constrained")
for row, (name, model) in zip(axes, models.items(), strict=True):
    match = matches[name]
    for axis, atom, sign in zip(row, match.assignment, match.signs, strict=True):
        axis.imshow(
            sign * model.components_[atom].reshape(5, 5),
            cmap="RdBu_r",
            vmin=-0.6,
            vmax=0.6,
        )
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"λ {model.prior_scale_[atom]:.2f}", fontsize=9)
    row[0].set_ylabel(name)
plt.show()
