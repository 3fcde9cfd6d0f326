"""Data to learn from: synthetic bars, photographs, tables, patches and whitening.

Every function returns NumPy arrays and knows nothing of models. ``make_bars`` draws data whose truth is
known; ``natural_patches`` is the usual benchmark in one call: photographs, whitened, cut into patches. The
steps of that chain are functions of their own, for your own images.
"""

from .batches import csv_batches, parquet_batches, parquet_frames
from .csv_files import CsvTable
from .download import load_olshausen, load_van_hateren, read_iml
from .images import load_images, load_photographs
from .patches import extract_patches, natural_patches
from .synthetic import Bars, make_bars
from .tables import Columns, columns_of, load_array, parquet_files
from .whitening import (
    ZCA,
    CentredPatches,
    remove_patch_mean,
    whiten_images,
    whiten_olshausen,
    with_zero_means,
    without_row_means,
    zca,
)

__all__ = [
    "ZCA",
    "Bars",
    "CentredPatches",
    "Columns",
    "CsvTable",
    "columns_of",
    "csv_batches",
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
    "parquet_frames",
    "read_iml",
    "remove_patch_mean",
    "whiten_images",
    "whiten_olshausen",
    "with_zero_means",
    "without_row_means",
    "zca",
]
