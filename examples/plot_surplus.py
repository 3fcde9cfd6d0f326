"""
The scale of an atom says whether the data need it
==================================================

Give the model three times as many atoms as there are bars. It learns a scale λ for every atom, and those that the data
do not need end near zero. So the number of atoms need not be known beforehand, and the noise level still comes out
right.
"""

import matplotlib.pyplot as plt
import numpy as np

from sparsentropy import SparseCoding, datasets, plotting

NOISE = 0.1

bars = datasets.make_bars(2000, noise_std=NOISE, seed=0)
model = SparseCoding(30, random_state=0).fit(bars.data)
order = np.argsort(-model.prior_scale_)
scales = model.prior_scale_[order]

# %%
# Where does the largest step down lie, in the logarithm of the scale? Ten bars span nine dimensions, since the
# horizontal ones have the same sum as the vertical ones. Diagonal posteriors, which are the default, need no more atoms
# than that.

needed = int(np.argmax(scales[:-1] / scales[1:])) + 1
print(f"{needed} atoms above the gap, the smallest with λ = {scales[needed - 1]:.2f}")
print(
    f"{len(scales) - needed} atoms below it, the largest with λ = {scales[needed]:.1e}"
)
print(f"noise found {model.noise_variance_**0.5:.4f}, true {NOISE}")

# %%
# The picture shows the scales at the left, and at the right the atoms in the same order.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
plotting.prior_scales(scales, left)
left.axvline(needed + 0.5, color=plotting.MUTED, linestyle="--", linewidth=1)
plotting.dictionary(
    model.components_, right, patch_shape=(5, 5), order=order, columns=10
)
right.set_title("atoms, by decreasing scale", fontsize=10)
plt.show()
