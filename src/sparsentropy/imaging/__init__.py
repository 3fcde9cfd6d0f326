"""Images without their noise and their gaps. There is no penalty to choose and no noise level to tell.

`denoise` removes white noise, `estimate_noise` says how much of it there is, and `inpaint` fills in pixels that are
missing.
"""

from sparsentropy.imaging.denoising import denoise
from sparsentropy.imaging.inpainting import inpaint
from sparsentropy.imaging.noise import estimate_noise

__all__ = ["denoise", "estimate_noise", "inpaint"]
