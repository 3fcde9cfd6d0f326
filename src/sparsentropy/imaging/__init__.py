"""Images without their noise. There is no penalty to choose and no noise level to tell: both come from the image.

`denoise` removes white noise, `estimate_noise` says how much of it there is.
"""

from sparsentropy.imaging.denoising import denoise
from sparsentropy.imaging.noise import estimate_noise

__all__ = ["denoise", "estimate_noise"]
