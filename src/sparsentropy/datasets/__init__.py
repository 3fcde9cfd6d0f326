"""Data to learn from: synthetic bars, photographs, tables, patches and whitening.

Every function returns NumPy arrays and knows nothing of models. ``make_bars`` draws data whose truth is
known; ``natural_patches`` is the usual benchmark in one call: photographs, whitened, cut into patches. The
steps of that chain are functions of their own, for your own images.
"""

from .batches import parquet_batches, parquet_files
from .download import load_olshausen, load_van_hateren, read_iml
from .images import load_images, load_photographs
from .patches import extract_patches, natural_patches
from .synthetic import Bars, make_bars
from .tables import load_array
from .whitening import ZCA, CentredPatches, remove_patch_mean, whiten_images, whiten_olshausen, zca

__all__ = [
    "ZCA",
    "Bars",
    "CentredPatches",
    "extract_patches",
    "load_array",
    "load_images",
    "load_olshausen",
    "load_photographs",
    "load_van_hateren",
    "make_bars",
    "natural_patches",
    "parquet_batches",
    "parquet_files",
    "read_iml",
    "remove_patch_mean",
    "whiten_images",
    "whiten_olshausen",
    "zca",
]
