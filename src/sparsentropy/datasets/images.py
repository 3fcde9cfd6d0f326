"""Photographs as arrays.

The two photographs that come with scikit-learn need no download and serve every example; any other picture
is read by Pillow. Whatever the file holds, the result is a floating point array with values between 0 and
1, grey or colour, and a file that cannot be read is named in the error.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from . import checks, tiff

# The files taken from a folder; a file that is named directly may have any suffix.
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".pnm", ".jp2"}
)
# ITU-R 601 luma, the weights of Pillow's "L" mode, here without its rounding to 8 bits.
LUMA = np.array([0.299, 0.587, 0.114])


def load_photographs(*, grey: bool = True) -> list[np.ndarray]:
    """Return the photographs that come with scikit-learn: a temple and a flower.

    Parameters
    ----------
    grey : bool
        True for grey images, False for colour.

    Returns
    -------
    list of ndarray
        Two float64 images with values in [0, 1], of shape (427, 640) or (427, 640, 3).

    Notes
    -----
    china.jpg by danielbuechele and flower.jpg by vultilion, both CC BY 2.0; see
    :func:`sklearn.datasets.load_sample_images`.

    Examples
    --------
    >>> from sparsentropy.datasets import load_photographs
    >>> [image.shape for image in load_photographs()]
    [(427, 640), (427, 640)]
    """
    from sklearn.datasets import load_sample_images  # imported late: it is slow and few callers need it

    return [to_grey(image / 255) if grey else image / 255 for image in load_sample_images().images]


def load_images(
    path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, grey: bool = True
) -> list[np.ndarray]:
    """Read one image, several images, or every image in a folder and its subfolders.

    Parameters
    ----------
    path : path, list of paths, or folder
        Files in any format Pillow reads, and TIFF files with whole bytes per sample, floating point ones
        too. A folder is searched recursively in sorted order; hidden files and
        files without a usual image suffix are passed over.
    grey : bool
        True returns (rows, columns); False returns (rows, columns, 3). Transparency is dropped.

    Returns
    -------
    list of ndarray
        float64 images scaled to [0, 1] by the largest number of the stored type (255, 65,535, …).
        Floating point images keep their values. Every page of a TIFF is an image of its own, but for masks
        and for small copies of other pages; other formats give their first frame. Photographs are turned
        upright as their camera recorded. PNG and PPM files in colour with 16 bits per channel are read with
        8, which is all that Pillow offers.

    Raises
    ------
    FileNotFoundError
        When a path does not exist.
    ValueError
        When a file is not a readable image, or a folder holds none.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from sparsentropy.datasets import load_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.fromarray(np.full((2, 3), 51, dtype=np.uint8)).save(Path(folder) / "grey.png")
    ...     images = load_images(folder)
    >>> images[0]
    array([[0.2, 0.2, 0.2],
           [0.2, 0.2, 0.2]])
    """
    return [image for file in image_files(path) for image in read_image(file, grey=grey)]


def image_files(path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the files behind ``path``: the file itself, those listed, or those in the folder."""
    if isinstance(path, str | os.PathLike):
        found = checks.path("path", path)
        return folder_files(found) if found.is_dir() else [checks.file("path", found)]
    try:
        listed = list(path)
    except TypeError:
        raise TypeError(f"path must be a path or a list of paths, got {type(path).__name__}") from None
    if not listed:
        raise ValueError("path is an empty list; give at least one image file")
    return [checks.file(f"path[{i}]", item) for i, item in enumerate(listed)]


def folder_files(folder: Path) -> list[Path]:
    """Return the image files under ``folder`` in sorted order."""
    if not os.access(folder, os.R_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be opened (permission denied); allow reading it")
    # Names that begin with a dot are thumbnails and resource forks, not pictures.
    files = [
        checks.file("path", file)
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]
    if not files:
        raise ValueError(f"{folder} holds no image files; expected names ending in {', '.join(sorted(SUFFIXES))}")
    return files


def read_image(file: Path, *, grey: bool) -> list[np.ndarray]:
    """Return the images in one file, scaled to [0, 1]."""
    with checks.reading(file, "an image"):
        if tiff.is_tiff(file):
            images = [of_page(page) for page in tiff.pages(file)]
        else:
            with Image.open(file) as picture:
                images = [unit_range(ImageOps.exif_transpose(picture), picture.format)]
    images = [checks.floats(f"the image {file}", image) for image in images]
    return [to_grey(image) if grey else to_colour(image) for image in images]


def image_shapes(file: Path) -> list[tuple[int, int]]:
    """Return rows and columns of the images in one file, without reading their pixels."""
    with checks.reading(file, "an image"):
        if tiff.is_tiff(file):
            return [page.shape for page in tiff.pages(file)]
        with Image.open(file) as picture:
            return [upright(picture)]


def of_page(page: tiff.Page) -> np.ndarray:
    """Return the pixels of a page, floating point ones as they are, others divided by the largest of their type."""
    pixels = page.read().pixels
    return pixels if pixels.dtype.kind == "f" else pixels / np.iinfo(pixels.dtype).max


def upright(picture: Image.Image) -> tuple[int, int]:
    """Return rows and columns as they are once the image is turned as its camera recorded."""
    columns, rows = picture.size
    on_its_side = picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (columns, rows) if on_its_side else (rows, columns)


def unit_range(picture: Image.Image, file_format: str | None) -> np.ndarray:
    """Return the pixels of ``picture`` in [0, 1], as (rows, columns) or (rows, columns, 3)."""
    if picture.mode == "F":
        return np.asarray(picture, dtype=np.float64)
    if picture.mode.startswith("I"):
        # Pillow keeps 16-bit PNG and PNM files in 32-bit pixels in some versions; their range stays 16 bits.
        sixteen_bits = picture.mode != "I" or file_format in ("PNG", "PPM")
        return np.asarray(picture, dtype=np.float64) / (65_535 if sixteen_bits else 2**31 - 1)
    grey = picture.mode in ("1", "L", "LA", "La")
    return np.asarray(picture.convert("L" if grey else "RGB"), dtype=np.float64) / 255


def to_grey(image: np.ndarray) -> np.ndarray:
    """Return the luma of a colour image; a grey image is returned as it is."""
    return image @ LUMA if image.ndim == 3 else image


def to_colour(image: np.ndarray) -> np.ndarray:
    """Return a grey image three times; a colour image is returned as it is."""
    return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
