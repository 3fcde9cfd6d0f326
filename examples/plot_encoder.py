"""
An unrolled encoder answers at once, at little cost in nats
===========================================================

With ``inference="amortized"`` an encoder learns along with the dictionary and gives every posterior in one pass. The
default encoder is the E-step itself, broken off early. What that costs is the *amortisation gap*: by how many nats the
bound of a data point lies below that of its best posterior, at the same dictionary. A few iterations of the E-step
after the encoder close it.
"""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch

from sparsentropy import SparseCoding, datasets, diagnostics, plotting
from sparsentropy.inference import AmortizedSolver, DiagonalSolver
from sparsentropy.model import Parameters

patches = datasets.natural_patches(6_000, size=8)
train, test = patches[:5_000], torch.from_numpy(patches[5_000:])
model = SparseCoding(
    32, inference="amortized", encoder="unrolled", tol=1e-2, random_state=0
).fit(train)
print(f"{model.n_iter_} sweeps, held out {model.score(test):.2f} nats per patch")

# %%
# The gap needs the parts of the model: data and parameters in the units that the encoder works in.

x = test / model.data_scale_
parameters = Parameters(
    torch.from_numpy(model.components_.T.copy()),
    torch.from_numpy(model.prior_scale_ / model.data_scale_),
    torch.tensor(model.noise_variance_ / model.data_scale_**2, dtype=x.dtype),
)
solver = AmortizedSolver(model.encoder_, DiagonalSolver())
gaps = {}
for refine in (0, 1, 2, 3, 5):
    posterior = replace(solver, refine=refine)(x, parameters).posterior
    gaps[refine] = diagnostics.amortization_gap(
        x, posterior, parameters, DiagonalSolver()
    )
    largest = float(gaps[refine].rows.max())
    print(
        f"refine={refine}: mean gap {gaps[refine].mean:.1e} nats, largest {largest:.1e}"
    )

# %%
# Left: the gap of every held-out patch, encoder alone. Right: mean and largest gap with iterations after it.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
rows = gaps[0].rows.clamp(min=1e-6).numpy()
left.hist(rows, bins=np.geomspace(rows.min(), rows.max(), 40), color=plotting.ACCENT)
left.set(xscale="log", xlabel="gap (nats)", ylabel="patches", title="encoder alone")
right.plot(
    list(gaps),
    [float(gap.rows.max()) for gap in gaps.values()],
    "o-",
    color=plotting.INK,
    label="largest",
)
right.plot(
    list(gaps),
    [gap.mean for gap in gaps.values()],
    "o-",
    color=plotting.ACCENT,
    label="mean",
)
right.set(
    yscale="log",
    xlabel="iterations after the encoder",
    ylabel="gap (nats)",
    title="refined",
)
right.legend(frameon=False)
plt.show()
