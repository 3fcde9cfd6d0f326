"""Photographs as arrays.

The two photographs that come with scikit-learn need no download and serve every example; any other picture
is read by Pillow. Whatever the file holds, the result is a floating point array with values between 0 and
1, grey or colour, and a file that cannot be read is named in the error.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, final, overload

import numpy as np
from PIL import ExifTags, Image, ImageOps
from tifffile import TiffPage

from . import checks, tiff

# The files taken from a folder; a file that is named directly may have any suffix.
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".pnm", ".jp2"}
)
Errors = Literal["raise", "warn"]
T = TypeVar("T")
# ITU-R 601 luma, the weights of Pillow's "L" mode, here without its rounding to 8 bits.
LUMA = np.array([0.299, 0.587, 0.114])


@final
@dataclass(frozen=True, eq=False)
class NamedImages(Sequence[np.ndarray]):
    """Images, and where each is from.

    Parameters
    ----------
    images : sequence of ndarray
    names : sequence of str
        For messages: the file, and which image in it.
    """

    images: Sequence[np.ndarray]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> "NamedImages": ...
    def __getitem__(self, index: int | slice) -> "np.ndarray | NamedImages":
        if isinstance(index, slice):
            return NamedImages(self.images[index], self.names[index])
        return self.images[index]


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
        Files in any format Pillow reads, and TIFF files with up to 32 bits a sample or with floating point
        numbers. A folder is searched recursively in sorted order; hidden files and files without a usual
        image suffix are passed over.
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
    return list(named_images(path, grey=grey))


def named_images(
    path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, grey: bool = True, errors: Errors = "raise"
) -> NamedImages:
    """Do the same as `load_images`, and name the images.

    With ``errors="warn"`` a file that cannot be read is left out with a warning, unless it is the only one.
    """
    found = of_files(path, lambda file: read_image(file, grey=grey), errors)
    names = [name for file, images in found for name in image_names(file, len(images))]
    return NamedImages([image for _, images in found for image in images], names)


def of_files(path: Any, read: Callable[[Path], T], errors: Errors) -> list[tuple[Path, T]]:
    """Return the files behind ``path``, each with what ``read`` makes of it.

    With ``errors="warn"`` a file of which it makes nothing is left out with a warning, unless that is so of all.
    """
    found, failed = [], []
    for file in image_files(path):
        try:
            found.append((file, read(file)))
        except (OSError, ValueError) as error:
            if errors == "raise":
                raise
            failed.append(error)
    if failed and not found:
        raise failed[0] if len(failed) == 1 else ValueError(f"none of {len(failed)} images can be read; {failed[0]}")
    for error in failed:
        warnings.warn(f"left out: {error}", stacklevel=3)
    return found


def image_names(file: Path, count: int) -> list[str]:
    """Return names for the images in one file."""
    return [str(file)] if count == 1 else [f"image {number} of {file}" for number in range(1, count + 1)]


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
    inside = [Path(place, name) for place, _, names in os.walk(folder, onerror=_refuse) for name in names]
    # Names that begin with a dot are thumbnails and resource forks, not pictures. A link that leads nowhere would be
    # missed without a word; what is no regular file, but a pipe, for example, would be waited for.
    files = [
        file
        for file in sorted(inside)
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and (file.is_file() or not file.exists())
    ]
    if not files:
        raise ValueError(f"{folder} holds no image files; expected names ending in {', '.join(sorted(SUFFIXES))}")
    return files


def _refuse(error: OSError) -> NoReturn:
    raise PermissionError(f"{error.filename} cannot be opened ({error.strerror}); allow reading it") from None


def read_image(file: Path, *, grey: bool, number: int | None = None) -> list[np.ndarray]:
    """Return the images in one file, scaled to [0, 1]; with ``number`` only this one."""
    checks.file("path", file)
    with checks.reading(file, "an image"):
        if tiff.is_tiff(file):
            pages = tiff.pages(file)
            images = [of_page(page) for page in (pages if number is None else [pages[number]])]
        else:
            with Image.open(file) as picture:
                images = [unit_range(ImageOps.exif_transpose(picture), picture.format)]
    images = [checks.floats(f"the image {file}", image) for image in images]
    return [to_grey(image) if grey else to_colour(image) for image in images]


def image_shapes(file: Path) -> list[tuple[int, int]]:
    """Return rows and columns of the images in one file, without reading their pixels."""
    checks.file("path", file)
    with checks.reading(file, "an image"):
        if tiff.is_tiff(file):
            return [tiff.shape(page) for page in tiff.pages(file)]
        with Image.open(file) as picture:
            return [upright(picture)]


def of_page(page: TiffPage) -> np.ndarray:
    """Return the colours of a page, floating point ones as they are, others divided by the largest of their type."""
    array = tiff.read(page)
    pixels = array[:, :, 0] if array.shape[2] < 3 else array[:, :, :3]
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
