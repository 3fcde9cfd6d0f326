"""
Noisy digits come out cleaner than with the best penalty
========================================================

Handwritten digits get noise, and every method gives back what its codes stand for. The penalty of scikit-learn's
dictionary learning and the number of principal components are those that turn out best, which only somebody with the
clean digits can know. The library finds its scales and the noise by itself. The model has no intercept, so the mean
digit is subtracted before.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, MiniBatchDictionaryLearning

from sparsentropy import SparseCoding
from sparsentropy.metrics import coverage

NOISE = 2.0

digits = load_digits().data
noisy = digits + NOISE * np.random.default_rng(0).normal(size=digits.shape)
mean = noisy.mean(axis=0)
model = SparseCoding(32, random_state=0).fit(noisy - mean)
centred, std = model.reconstruct(noisy - mean, return_std=True)
clean = mean + centred
print(f"noise {model.noise_variance_**0.5:.2f} (true {NOISE})")

# %%
# What is left of the digits that 32 atoms cannot say counts as noise, so the noise comes out a little too large.


def error(other):
    return np.sqrt(np.square(other - digits).mean())


def by_components(k):
    pca = PCA(k).fit(noisy)
    return pca.inverse_transform(pca.transform(noisy))


def by_penalty(penalty):
    options = {"transform_algorithm": "lasso_cd", "transform_alpha": penalty}
    peer = MiniBatchDictionaryLearning(
        32, alpha=penalty, fit_algorithm="cd", random_state=0, **options
    )
    return mean + peer.fit_transform(noisy - mean) @ peer.components_


penalised = {penalty: by_penalty(penalty) for penalty in (0.3, 0.6, 1.0, 2.0, 4.0)}
best = min(penalised, key=lambda penalty: error(penalised[penalty]))
projected = min((by_components(k) for k in range(5, 50)), key=error)
print(f"root mean square error {error(clean):.2f}")
print(
    f"dictionary learning with its best penalty, {best}: {error(penalised[best]):.2f}"
)
print(f"principal components, their best number: {error(projected):.2f}")

# %%

rows = {"noisy": noisy, "cleaned": clean, "std": std, "true": digits}
figure, axes = plt.subplots(4, 10, figsize=(8, 3.4), layout="constrained")
for line, (name, images) in zip(axes, rows.items(), strict=True):
    line[0].set_ylabel(name)
    most = std.max() if name == "std" else 16
    for axis, image in zip(line, images, strict=False):
        axis.imshow(image.reshape(8, 8), cmap="gray", vmin=0, vmax=most)
        axis.set(xticks=[], yticks=[])
plt.show()

# %%
# Each pixel comes with an uncertainty. Digits are not quite what the model thinks data are, so intervals contain the
# true pixel somewhat less often than they say.

print(f"90 % intervals contain {coverage(digits, clean, std, 0.9):.0%} of true pixels")
