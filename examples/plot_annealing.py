"""
Annealing is a detour that ends where the straight way ends
===========================================================

Annealing changes the weights γ and δ of two entropies in the first sweeps and goes back to 1, where learning ends in
any case. The paper uses it to avoid bad optima. Here learning begins at probabilistic PCA and takes Newton steps, so on
patches of photographs there is nothing to avoid: all schedules end at nearly the same bound, and only cost sweeps.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np

from sparsentropy import SparseCoding, datasets, schedules
from sparsentropy.metrics import gini

patches = datasets.natural_patches(6_000, size=8)
train, test = patches[:5_000], patches[5_000:]

ways = {
    "none": None,
    "prior": schedules.prior(),
    "likelihood": schedules.likelihood(),
    "beta": schedules.beta(),
}
with warnings.catch_warnings():
    # Atoms that are lost on the way are started again, and a warning says how many.
    warnings.simplefilter("ignore")
    models = {
        name: SparseCoding(32, annealing=way, tol=1e-2, random_state=0).fit(train)
        for name, way in ways.items()
    }

# %%
# The bound of rows that were not learned from says which end is better, and the Gini coefficient says how sparse the
# codes are.

for name, model in models.items():
    print(
        f"{name:10s} {model.n_iter_} sweeps, "
        f"held out {model.score(test):.2f} nats per patch, "
        f"Gini coefficient {gini(model.transform(test)):.3f}"
    )

# %%
# Below, the weights by sweep, and at the right how far the bound is from the best end of the four. Bounds are those at
# γ = δ = 1, also while other weights lead, so the detour shows as a hill.

figure, axes = plt.subplots(
    1, 3, figsize=(10, 3.2), width_ratios=(1, 1, 1.6), layout="constrained"
)
best = max(model.lower_bounds_.max() for model in models.values())
steps = np.arange(1, 9)
for (name, model), style in zip(
    models.items(), ("k-", "C0-", "C1-", "C2--"), strict=True
):
    way = ways[name] or schedules.Schedule(())
    weights = np.array([way(step - 1) for step in steps])
    for axis, values in zip(axes, weights.T, strict=False):
        axis.plot(steps, values, style, drawstyle="steps-mid")
    axes[2].plot(
        np.arange(1, model.n_iter_ + 1),
        best - model.lower_bounds_ + 0.01,
        style,
        label=name,
    )
axes[0].set(xlabel="sweep", ylabel="γ", title="weight of the prior")
axes[1].set(xlabel="sweep", ylabel="δ", title="weight of the likelihood")
axes[2].set(
    xlabel="sweep",
    ylabel="nats below the best + 0.01",
    yscale="log",
    title="distance from the best end",
)
axes[2].legend(title="annealing", frameon=False)
plt.show()
