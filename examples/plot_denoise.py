"""
Noise is measured, then removed
===============================

Nobody tells how noisy the photograph is, and there is no penalty to choose. The noise level comes out of the image, and
so do a dictionary and, for each kind of place in the picture, what its codes look like.
"""

import matplotlib.pyplot as plt
import numpy as np

from sparsentropy import datasets, imaging
from sparsentropy.metrics import psnr

photograph = 255 * datasets.load_photographs(grey=False)[1][60:210, 200:390]
noisy = photograph + np.random.default_rng(0).normal(scale=25, size=photograph.shape)
clean, sigma, std = imaging.denoise(noisy, return_sigma=True, return_std=True)
print(
    f"noise {sigma:.1f} (true 25.0), "
    f"PSNR {psnr(photograph, noisy, data_range=255):.1f} dB before, "
    f"{psnr(photograph, clean, data_range=255):.1f} dB after"
)

# %%
# Each pixel comes with a standard deviation: small where petals are smooth, larger where they meet.

figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
for axis, image, title in zip(
    axes, (noisy, clean, std), ("noisy", "denoised", "uncertainty"), strict=True
):
    grey = {"cmap": "gray", "vmin": 0} if image.ndim == 2 else {}
    axis.imshow(
        image if image.ndim == 2 else image.clip(0, 255).astype(np.uint8), **grey
    )
    axis.set(xticks=[], yticks=[], title=title)
plt.show()

# %%
# Does the standard deviation say how wrong a pixel is? Here are ten groups of pixels, from the surest to the least
# sure, and how wrong they are.

edges = np.quantile(std, np.linspace(0, 1, 11))
group = np.clip(np.searchsorted(edges, std) - 1, 0, 9)
said = [std[group == k].mean() for k in range(10)]
seen = [np.sqrt(np.mean(np.square(clean - photograph)[group == k])) for k in range(10)]
figure, axis = plt.subplots(figsize=(4, 3.5), layout="constrained")
axis.plot(said, seen, "o-")
axis.plot(said, said, color="gray", linewidth=1)
axis.set(xlabel="standard deviation that is said", ylabel="root mean square error")
plt.show()
