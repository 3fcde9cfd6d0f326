"""Data sets that are fetched from the web on first use.

Olshausen and Field's ten pictures and van Hateren's photographs are what the field has compared itself on
since the 1990s, and neither may be bundled. Each file is downloaded once, beside its final place, checked,
and only then moved there, so a broken connection never leaves half a file behind. The files live in the
folder named by the environment variable SPARSENTROPY_DATA, or else in the cache folder of the operating
system.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pooch

from . import checks
from .tables import load_array

OLSHAUSEN_URL = "http://www.rctn.org/bruno/sparsenet/"
VAN_HATEREN_URL = "https://pirsquared.org/research/vhatdb/"
# Git blob identifiers: the checksums under which public repositories hold these two files.
OLSHAUSEN_BLOBS = {
    "IMAGES.mat": "18a1e3ab1363edeb6132e237dd84f6ea0a5c9cb2",
    "IMAGES_RAW.mat": "bc5042ffd6449bedd837ecf95d03cda3bf22cb7a",
}
VAN_HATEREN_SHAPE = (1024, 1536)


def load_olshausen(*, raw: bool = False, url: str = OLSHAUSEN_URL) -> np.ndarray:
    """Return the ten natural images of Olshausen and Field, downloading them on first use.

    Parameters
    ----------
    raw : bool
        False returns the images as they whitened them (IMAGES.mat); True the images before that
        (IMAGES_RAW.mat).
    url : str
        Address of the folder that holds the two files, for a mirror.

    Returns
    -------
    ndarray of shape (10, 512, 512)
        Grey images, float64, in the units of the file.

    Raises
    ------
    OSError
        When the file is not there and cannot be downloaded; the message says where to place it by hand.
    ValueError
        When a file has not the known checksum.

    Notes
    -----
    B. A. Olshausen and D. J. Field, "Emergence of simple-cell receptive field properties by learning a sparse
    code for natural images", Nature 381, 1996; files at http://www.rctn.org/bruno/sparsenet/. The checksum is
    git's (SHA-1 of header and content).

    Examples
    --------
    >>> from sparsentropy.datasets import load_olshausen
    >>> load_olshausen().shape  # doctest: +SKIP
    (10, 512, 512)
    """
    name = "IMAGES_RAW.mat" if raw else "IMAGES.mat"
    file = fetch(name, url, lambda path: check_blob(path, OLSHAUSEN_BLOBS[name]))
    images = load_array(file, key="IMAGESr" if raw else "IMAGES")
    return np.ascontiguousarray(np.moveaxis(images, -1, 0), dtype=np.float64)


def load_van_hateren(numbers: Iterable[int] = range(1, 11), *, url: str = VAN_HATEREN_URL) -> list[np.ndarray]:
    """Return photographs of van Hateren's natural image collection, downloading them on first use.

    No checksums of these files are published. So the first download of an image is checked for its size only,
    and its SHA-256 is written beside it as ``imk….iml.sha256``; from then on the file must match it.

    Parameters
    ----------
    numbers : iterable of int
        Image numbers, from 1; the default mirror offers 1 to 99 one by one (3 MB each).
    url : str
        Address of the folder that holds files named ``imk00001.iml``, for another mirror.

    Returns
    -------
    list of ndarray of shape (1024, 1536)
        Luminance in linear camera units, float64; see :func:`read_iml`.

    Raises
    ------
    OSError
        When an image is not there and cannot be downloaded; the message says where to place it by hand.
    TypeError, ValueError
        When a number is not a positive int, or a file has the wrong size or not the recorded checksum.

    Notes
    -----
    J. H. van Hateren and A. van der Schaaf, "Independent component filters of natural images
    compared with simple cells in primary visual cortex", Proceedings of the Royal Society B 265, 1998.

    Examples
    --------
    >>> from sparsentropy.datasets import load_van_hateren
    >>> [image.shape for image in load_van_hateren([1, 2])]  # doctest: +SKIP
    [(1024, 1536), (1024, 1536)]
    """
    if not isinstance(numbers, Iterable):
        raise TypeError(f"numbers must be a list of image numbers, got {numbers!r}; write [{numbers!r}]")
    names = [f"imk{checks.count('numbers', number):05d}.iml" for number in numbers]
    if not names:
        raise ValueError("numbers is empty; give at least one image number, for example [1]")
    return [read_iml(fetch(name, url, check_first_use)) for name in names]


def read_iml(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one image of van Hateren's collection (.iml or .imc).

    Parameters
    ----------
    path : path
        File of 1536 × 1024 big-endian unsigned 16-bit numbers without a header.

    Returns
    -------
    ndarray of shape (1024, 1536)
        Luminance in linear camera units, float64, not scaled.

    Raises
    ------
    FileNotFoundError
        When the file does not exist.
    ValueError
        When the file has another size.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from pathlib import Path
    >>> from sparsentropy.datasets import read_iml
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.full((1024, 1536), 258, dtype=">u2").tofile(Path(folder) / "imk00001.iml")
    ...     float(read_iml(Path(folder) / "imk00001.iml").mean())
    258.0
    """
    file = checks.file("path", path)
    check_size(file)
    return np.fromfile(file, dtype=">u2").reshape(VAN_HATEREN_SHAPE).astype(np.float64)


def data_folder() -> Path:
    """Return the folder that downloads are kept in."""
    return Path(os.environ.get("SPARSENTROPY_DATA") or pooch.os_cache("sparsentropy"))


def fetch(name: str, url: str, check: Callable[[Path], None]) -> Path:
    """Return the checked file ``name`` of the data folder, downloading it from ``url`` if it is not there."""
    target = data_folder() / name
    if not target.exists():
        address = f"{url.rstrip('/')}/{name}"
        try:
            download(address, target, check)
        except OSError as error:
            raise OSError(
                f"{address} could not be downloaded ({error}); check the connection, or place the file by "
                f"hand at {target} (the environment variable SPARSENTROPY_DATA names another folder)"
            ) from None
        except ValueError as error:
            raise ValueError(f"{address} was downloaded but not kept: {error}") from None
    check(target)
    return target


def download(address: str, target: Path, check: Callable[[Path], None]) -> None:
    """Download to a temporary folder beside ``target``, check, and only then move the file there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as folder:
        file = Path(folder) / target.name
        pooch.HTTPDownloader(timeout=30)(address, str(file), None)
        check(file)
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(file, target)


def check_blob(file: Path, expected: str) -> None:
    """Raise ValueError unless ``file`` has the git blob identifier ``expected``."""
    content = file.read_bytes()
    found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(
            f"{file} has the checksum {found}, expected {expected}: it is damaged or another file; "
            "delete it and try again, or read your own version with load_array"
        )


def check_size(file: Path) -> None:
    """Raise ValueError unless ``file`` has the size of a van Hateren image."""
    size, expected = file.stat().st_size, 2 * VAN_HATEREN_SHAPE[0] * VAN_HATEREN_SHAPE[1]
    if size != expected:
        raise ValueError(f"{file} has {size} bytes, expected {expected} (1536 × 1024 × 2 bytes); download it again")


def check_first_use(file: Path) -> None:
    """Check size and SHA-256 of an image; the first time, record the SHA-256 in the data folder."""
    check_size(file)
    record = data_folder() / f"{file.name}.sha256"
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if not record.exists():
        write_record(record, f"{found}  {file.name}\n")
    elif record.read_text(encoding="ascii", errors="replace").split(maxsplit=1)[:1] != [found]:
        raise ValueError(
            f"{file} has the SHA-256 {found}, not the one recorded at first use in {record}: damaged "
            "or changed; delete it and try again (and the record, if you trust the new file)"
        )


def write_record(record: Path, text: str) -> None:
    """Write a checksum file whole or not at all."""
    # A shared folder may be read-only; its files are then used without a record.
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=record.parent) as folder:
        file = Path(folder) / record.name
        file.write_text(text, encoding="ascii")
        os.replace(file, record)
