"""
Four of five pixels are missing
===============================

A dictionary of cosines and, for each kind of place in the picture, what its codes look like, are learned from the
pixels that are left. Then every missing one gets its mean given its neighbours, and says how sure it is.
"""

import matplotlib.pyplot as plt
import numpy as np

from sparsentropy import datasets, imaging
from sparsentropy.metrics import psnr

photograph = 255 * datasets.load_photographs(grey=False)[1][60:210, 200:390]
missing = np.random.default_rng(0).random(photograph.shape[:2]) < 0.8
left = np.where(missing[:, :, None], 255, photograph)
filled, std = imaging.inpaint(left, missing, return_std=True)
print(f"PSNR {psnr(photograph, filled, data_range=255):.1f} dB")

# %%
# What is left looks like noise, and is enough. Where petals meet the guesses are uncertain.

figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
for axis, image, title in zip(
    axes, (left, filled, std), ("what is left", "filled in", "uncertainty"), strict=True
):
    grey = {"cmap": "gray", "vmin": 0} if image.ndim == 2 else {}
    axis.imshow(
        image if image.ndim == 2 else image.clip(0, 255).astype(np.uint8), **grey
    )
    axis.set(xticks=[], yticks=[], title=title)
plt.show()

# %%
# Are the standard deviations right? Of the missing pixels, this many are not farther off than said:

error = np.abs(filled - photograph)[missing]
for share, width in ((0.5, 0.674), (0.9, 1.645)):
    inside = np.mean(error < width * std[missing][:, None])
    print(f"{share:.0%} intervals contain {inside:.0%} of the true values")
