"""From a file to the rows a model learns from, and the same way again for the next file.

Images are whitened if wished and cut into patches; tables are taken row by row. Then the mean of every row
may be removed, and the rows whitened together. A `Preparation` remembers these steps, so that data which
come after learning are treated as those before. It is stored beside the model as ``preparation.safetensors``.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, final, get_args, overload

import numpy as np
from numpy.typing import NDArray

from sparsentropy import datasets, storage
from sparsentropy.datasets import ZCA, checks
from sparsentropy.datasets.images import SUFFIXES, Errors, NamedImages, named_images
from sparsentropy.visible import word

if TYPE_CHECKING:
    from sparsentropy.rows import AbstractSource

Array = NDArray[Any]
Whitening = Literal["olshausen", "zca", "none"]

_WIDEST = 2**15  # side of a patch in pixels
_LARGEST = 1e150  # number in a file, whose square still is one
_ROUNDING = 1e-5  # of the largest number of a matrix; zca keeps directions down to 1e-8 of the widest


@final
@dataclass(frozen=True)
class Preparation:
    """The steps from images or a table to rows.

    Parameters
    ----------
    patch_size : int, optional
        Height and width of a patch in pixels; None if a row is not a patch.
    colour : bool, optional
        Whether images keep their three channels.
    whiten : {"none", "olshausen", "zca"}, optional
        The filter of Olshausen and Field on whole images, ZCA on the rows, or neither.
    remove_mean : bool, optional
        Whether every row loses its own mean; it then has one entry less (`datasets.without_row_means`).
    zca : ZCA, optional
        The map that `fit` found, for ``whiten="zca"``.
    columns : tuple of str, optional
        Names of the columns of the table, in the order in which the model knows them.

    Examples
    --------
    >>> prepared = Preparation(remove_mean=True)
    >>> rows = prepared.apply(np.array([[1.0, 3.0, 5.0], [4.0, 4.0, 4.0]]))
    >>> rows.shape
    (2, 2)
    >>> prepared.restored(rows).round(9) + 0.0
    array([[-2.,  0.,  2.],
           [ 0.,  0.,  0.]])
    """

    patch_size: int | None = None
    colour: bool = False
    whiten: Whitening = "none"
    remove_mean: bool = False
    zca: ZCA | None = None
    columns: tuple[str, ...] | None = None

    def read(
        self,
        path: str | os.PathLike[str],
        *,
        key: str | None = None,
        columns: Sequence[str] | None = None,
        errors: Errors = "raise",
    ) -> "Sequence[Array] | Array | AbstractSource":
        """Read images as a list, or a table as a matrix; what is large is opened and not read.

        Parameters
        ----------
        path : path
            An image, a folder with images, or a ``.npy``, ``.npz``, ``.mat``, ``.csv`` or ``.parquet`` file, a folder
            of ``.parquet`` files, or one that is an array of zarr.
            An array with three axes is a stack of grey images, counted by the last axis in a ``.mat`` file
            and by the first elsewhere.
        key : str, optional
            Which array of a ``.npz`` or ``.mat`` file.
        columns : sequence of str, optional
            Which columns of a ``.csv`` or ``.parquet`` file, and in which order; all of them by default.
        errors : {"raise", "warn"}
            Whether images of a folder that cannot be read are left out with a warning.

        Returns
        -------
        sequence of ndarray, ndarray of shape (n, d), or rows.AbstractSource
            Images, or a table, in which NaN is what is missing.

        Raises
        ------
        OSError, TypeError, ValueError
            If there is nothing to read, or not numbers.
        """
        found = checks.path("DATA", path)
        from sparsentropy import large, large_images  # imported late: a report needs no torch

        if (source := large.opened(found, columns)) is not None:
            return source
        if found.is_dir() or found.suffix.lower() in SUFFIXES:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                many = large_images.Images.of(found, grey=not self.colour, errors=errors)
            if not many.large:
                return named_images(found, grey=not self.colour, errors=errors)  # with all warnings, once more
            for warning in caught:
                warnings.warn(warning.message, stacklevel=2)
            return many
        array = datasets.load_array(found, key=key, columns=columns)
        if array.ndim == 3:
            stack = list(np.moveaxis(array, -1, 0) if found.suffix.lower() == ".mat" else array)
            of = f"{found} (an array with three axes is a stack of grey images)"
            return NamedImages(stack, [f"image {number} of {of}" for number in range(1, len(stack) + 1)])
        return checks.table(str(found), array, gaps=True)

    @property
    def changes_rows(self) -> bool:
        """Whether rows are whitened or lose their means, so that they are not what was given."""
        return self.remove_mean or self.whiten != "none"

    @overload
    def rows(self, data: list[Array] | Array, *, n: int | None = None, seed: int = 0) -> Array: ...
    @overload
    def rows(self, data: Any, *, n: int | None = None, seed: int = 0) -> "Array | AbstractSource": ...
    def rows(self, data: Any, *, n: int | None = None, seed: int = 0) -> "Array | AbstractSource":
        """Make rows of images or a table, up to ZCA.

        Parameters
        ----------
        data : list of ndarray, or ndarray of shape (n, d)
            Images or a table.
        n : int, optional
            Number of random patches if the data are images; if None, neighbouring patches in reading order.
        seed : int, optional
            Source of randomness for the patches.

        Returns
        -------
        ndarray, shape (n, d)
            The rows.

        Raises
        ------
        TypeError, ValueError
            If images are smaller than a patch or cannot be whitened, or rows have another size.

        Examples
        --------
        >>> image = np.random.default_rng(0).normal(size=(20, 20))
        >>> Preparation(patch_size=4, whiten="olshausen").rows([image], n=500).shape
        (500, 16)
        """
        rows = self._patches(data, n, seed) if is_images(data) else data
        self.patch_shape(rows.shape[1])
        return _changed(rows, datasets.without_row_means) if self.remove_mean else rows

    def restored(self, rows: Array) -> Array:
        """Give rows, or atoms, the number of entries that rows had before they lost their means.

        Parameters
        ----------
        rows : ndarray, shape (n, d − 1), or (n, d) if means are kept

        Returns
        -------
        ndarray, shape (n, d)
            With mean 0 if means are removed; whitening is not undone.
        """
        return datasets.with_zero_means(rows) if self.remove_mean else rows

    @property
    def log_det(self) -> float:
        """What is to be added to the log likelihood of a row that the model sees to have that of the row before ZCA."""
        return 0.0 if self.zca is None else self.zca.log_det

    @property
    def space(self) -> str:
        """In words, what likelihoods are of once `log_det` is added."""
        what = "the table" if self.patch_size is None else "image patches"
        if self.whiten == "olshausen":
            what = "patches of images whitened by the filter of Olshausen and Field"
        return f"{what} without the mean of each row" if self.remove_mean else what

    def fit(self, rows: "Array | AbstractSource") -> "Preparation":
        """Find the ZCA map of rows, if there is to be one.

        Parameters
        ----------
        rows : ndarray, shape (n, d), or rows.AbstractSource
            The rows that the model will learn from; of those that are not in memory a random part is looked at.

        Returns
        -------
        Preparation
            The steps, now complete.

        Raises
        ------
        ValueError
            If the rows cannot be whitened.

        Examples
        --------
        >>> rows = np.random.default_rng(0).normal(size=(200, 2)) @ [[2.0, 0.0], [1.0, 0.5]]
        >>> prepared = Preparation(whiten="zca").fit(rows)
        >>> np.allclose(np.cov(prepared.apply(rows).T, bias=True), np.eye(2))
        True
        """
        if self.whiten != "zca":
            return self
        if isinstance(rows, np.ndarray):
            return replace(self, zca=datasets.zca(rows))
        from sparsentropy import large  # imported late: a report needs no torch

        return replace(self, zca=datasets.zca(large.sample(rows)))

    @overload
    def whitened(self, rows: Array) -> Array: ...
    @overload
    def whitened(self, rows: "Array | AbstractSource") -> "Array | AbstractSource": ...
    def whitened(self, rows: "Array | AbstractSource") -> "Array | AbstractSource":
        """Apply the ZCA map, if there is one.

        Parameters
        ----------
        rows : ndarray, shape (n, d)
            Rows as `rows` makes them.

        Returns
        -------
        ndarray, shape (n, d)
            Rows as the model learns from them.
        """
        return rows if self.zca is None else _changed(rows, self.zca.transform)

    def apply(self, data: Any) -> Any:
        """Make rows of new data; images are cut into neighbouring patches in reading order.

        Parameters
        ----------
        data : list of ndarray, or ndarray of shape (n, d)
            Images or a table.

        Returns
        -------
        ndarray, shape (n, d)
            Rows as the model learned from them.

        Raises
        ------
        TypeError, ValueError
            As `rows`.
        """
        return self.whitened(self.rows(data))

    def patch_shape(self, d: int) -> tuple[int, ...] | None:
        """Return (height, width) or (height, width, 3) of a row with d entries, or None if it is not a patch.

        Parameters
        ----------
        d : int
            Length of a row.

        Returns
        -------
        tuple of int, or None
            The shape of the patch.

        Raises
        ------
        ValueError
            If rows of this length are not patches of the given size.
        """
        p = self.patch_size
        if p is None:
            return None
        if d not in (p * p, 3 * p * p):
            raise ValueError(
                f"a row with {d} entries is not a patch of {p} × {p} pixels; "
                f"expected {p * p} entries, or {3 * p * p} in colour: give another patch size"
            )
        return (p, p) if d == p * p else (p, p, 3)

    def _patches(self, images: Sequence[Array], n: int | None, seed: int) -> "Array | AbstractSource":
        size = self.patch_size
        if size is None:
            raise ValueError("these are images, but the model was learned from a table; give a table of numbers")
        if self.whiten == "olshausen" and self.colour:
            raise ValueError("olshausen whitening needs grey images; whiten colour images by zca or not at all")
        from sparsentropy import large_images  # imported late: a report needs no torch

        large_images.check_sizes(images, size)
        if large_images.too_many(images, size, n):
            return large_images.cut(images, size, n, seed, whiten=self.whiten == "olshausen")
        if self.whiten == "olshausen":
            images = datasets.whiten_images(images)
        if n is None:
            return datasets.extract_patches(images, size=size, stride=size)
        return datasets.extract_patches(images, size=size, n=n, seed=seed)


def is_images(found: Any) -> bool:
    """Whether what was read is images, and no table."""
    return isinstance(found, Sequence)


def _changed(rows: "Array | AbstractSource", change: Callable[[Array], Array]) -> "Array | AbstractSource":
    """Rows after a change of each, which is made when they are read if they are not in memory."""
    if isinstance(rows, np.ndarray):
        return change(rows)
    from sparsentropy.rows import Mapped  # imported late: a report needs no torch

    return Mapped(rows, change)


def save(preparation: Preparation, path: str | os.PathLike[str]) -> None:
    """Write a preparation to one file, wholly or not at all.

    Parameters
    ----------
    preparation : Preparation
        The steps.
    path : path
        File to write.

    Raises
    ------
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Preparation(patch_size=8), f"{folder}/preparation.safetensors")
    ...     load(f"{folder}/preparation.safetensors")
    Preparation(patch_size=8, colour=False, whiten='none', remove_mean=False, zca=None, columns=None)
    """
    steps = {name: value for name, value in vars(preparation).items() if name != "zca"}
    steps["columns"] = None if preparation.columns is None else list(preparation.columns)
    arrays = {} if preparation.zca is None else vars(preparation.zca)
    storage.save(path, arrays, steps, kind="preparation")


def load(path: str | os.PathLike[str]) -> Preparation:
    """Read back what `save` wrote.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    Preparation
        The steps.

    Raises
    ------
    OSError, ValueError
        If the file is missing, damaged or of another kind.
    """
    arrays, steps = storage.load(path, kind="preparation")
    try:
        columns = steps.pop("columns")
        if columns is not None and not isinstance(columns, list):
            raise TypeError("the names of columns must be a list")
        columns = None if columns is None else tuple(columns)
        found = Preparation(**steps, zca=ZCA(**arrays) if arrays else None, columns=columns)
        _check(found)
    except (KeyError, TypeError, ValueError, np.linalg.LinAlgError) as error:
        raise ValueError(f"{path} does not hold the steps of a preparation: {word(error)}") from None
    return found


def _check(found: Preparation) -> None:
    """Refuse what no preparation can be: anybody may have written the file."""
    if found.patch_size is not None and not 0 < checks.count("patch_size", found.patch_size) <= _WIDEST:
        raise ValueError(f"patch_size is {word(found.patch_size)}, expected at most {_WIDEST}")
    if found.whiten not in get_args(Whitening):
        raise ValueError(f"whiten is {found.whiten!r}, expected one of {', '.join(get_args(Whitening))}")
    columns = found.columns
    if columns is not None and not (columns and all(isinstance(name, str) for name in columns)):
        raise TypeError("the names of columns must be text")
    if columns is not None and len(set(columns)) < len(columns):
        raise ValueError("two columns have the same name")
    if not isinstance(found.colour, bool) or not isinstance(found.remove_mean, bool):
        raise TypeError("colour and remove_mean must be true or false")
    if (found.zca is not None) != (found.whiten == "zca"):
        raise ValueError(f"whiten is {found.whiten}, and there is {'no' if found.zca is None else 'a'} ZCA map")
    if found.zca is not None:
        _check_zca(found.zca)


def _check_zca(zca: ZCA) -> None:
    """Refuse a map that whitens nothing, or whose inverse is another one's."""
    d = zca.mean.size
    for name, array in vars(zca).items():
        shape = (d,) if name == "mean" else (d, d)
        if d == 0 or array.shape != shape or array.dtype != np.float64 or not np.isfinite(array).all():
            raise ValueError(f"{name} of the ZCA map must be finite numbers in float64 of shape {shape}")
        if (largest := np.abs(array).max()) > _LARGEST or (name != "mean" and largest < 1 / _LARGEST):
            raise ValueError(f"{name} of the ZCA map has sizes beyond {1 / _LARGEST:g} and {_LARGEST:g}")
    for name, array in (("matrix", zca.matrix), ("inverse", zca.inverse)):
        unit = np.abs(array).max()
        if np.abs(array - array.T).max() > _ROUNDING * unit:
            raise ValueError(f"{name} of the ZCA map must be symmetric")
        if np.linalg.eigvalsh(array / unit)[0] < -_ROUNDING:
            raise ValueError(f"{name} of the ZCA map must not have negative eigenvalues")
    # Divided by their sizes, so that products are numbers. It is a pseudo-inverse where data have no variance
    matrix, inverse = zca.matrix / np.abs(zca.matrix).max(), zca.inverse / np.abs(zca.inverse).max()
    factor = float(np.abs(zca.matrix).max()) * float(np.abs(zca.inverse).max())
    if not np.abs(factor * (matrix @ inverse @ matrix) - matrix).max() <= _ROUNDING:
        raise ValueError("inverse of the ZCA map is not that of its matrix")
