"""
Photographs teach edges, and the noise level is found along the way
===================================================================

Noise of known size is added to whitened patches of two photographs. Nobody tells the model how large it is.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA

from sparsentropy import SparseCoding, datasets, plotting

NOISE = 0.1

patches = datasets.natural_patches(12_000, size=8)
patches += NOISE * np.random.default_rng(0).normal(size=patches.shape).astype(
    np.float32
)
model = SparseCoding(48, max_iter=60, tol=1e-2, random_state=0).fit(patches)
found = model.noise_variance_**0.5
print(f"noise added {NOISE}, noise found {found:.3f}, {model.n_iter_} sweeps")

# %%
# The estimate begins too high and settles near the noise that was added. It comes with the dictionary: what 48 atoms
# can explain is not noise, and what they cannot is.

figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 3.2), width_ratios=(1, 1.4), layout="constrained"
)
plotting.noise(model.noise_variances_**0.5, left)
left.axhline(NOISE, color=plotting.MUTED, linestyle="--", linewidth=1)
left.set_title("noise, and what was added (dashed)", fontsize=10)
order = np.argsort(-model.prior_scale_)
plotting.dictionary(
    model.components_, right, patch_shape=(8, 8), order=order, columns=12
)
right.set_title("atoms, by decreasing scale", fontsize=10)
plt.show()

# %%
# scikit-learn's dictionary learning would have to be told a penalty that goes with the noise. Its principal components
# estimate the noise, too, as the variance of the directions that are left over; where these are not free of signal, it
# comes out too large.

pca = PCA(48).fit(patches)
print(f"principal components: noise found {pca.noise_variance_**0.5:.3f}")
