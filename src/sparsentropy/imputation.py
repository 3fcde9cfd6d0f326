"""Tables in files, written again with their gaps filled in.

What is there stays as it is: of a .csv file every character, of a .parquet file every value in its own type, of an
array every bit. Tables may be larger than memory; they are read, filled in and written a part at a time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from sparsentropy import columns, datasets
from sparsentropy.datasets import checks
from sparsentropy.datasets.tables import csv_columns, frame_values, indices

if TYPE_CHECKING:
    from sparsentropy.estimator import SparseCoding
    from sparsentropy.preparation import Preparation

Array = NDArray[Any]


@final
class Filling:
    """Gaps of one table that are filled in.

    Parameters
    ----------
    model : SparseCoding
    data : Path
        The table.
    names : sequence of str, optional
        Of the columns that the model learned from, in this order; by default the table holds these and no others.
    std : bool
        Whether standard deviations are written beside the data.
    tell : callable
        Hears the name of the file and which share of it is done.
    """

    def __init__(
        self,
        model: "SparseCoding",
        data: Path,
        names: Sequence[str] | None,
        *,
        std: bool,
        tell: Callable[[str, float], None],
    ) -> None:
        self.model, self.data, self.names, self.std, self.tell = model, data, names, std, tell
        self.rows, self.gaps = 0, 0

    def write(self, output: Path, preparation: "Preparation", key: str | None) -> None:
        """Write the table; then `rows` and `gaps` say what there was.

        Raises
        ------
        OSError, TypeError, ValueError
            If the table cannot be read, does not fit the model, or cannot be written.
        """
        text = output.suffix.lower() == ".csv"
        if text and self.data.suffix.lower() == ".csv" and self.data.is_file():
            self._write_csv(output)
        elif text and (files := datasets.parquet_files(self.data)):
            columns.write_text(output, self._parquet(files))
        else:
            self._write_arrays(output, preparation, key)

    def check_width(self, d: int) -> None:
        """Refuse a table with more or fewer columns than the model learned from."""
        if d != self.model.n_features_in_:
            raise ValueError(
                f"{self.data} has {d:,} features, but the model learned from {self.model.n_features_in_:,}; give data "
                "of the same kind"
            )

    def _fill(self, known: Array) -> tuple[Array, Array]:
        """Rows with their gaps filled in, and standard deviations."""
        known = checks.table(str(self.data), known, gaps=True)
        self.rows += len(known)
        self.gaps += (gaps := int(np.isnan(known).sum()))
        if not gaps:
            return known, np.zeros_like(known)
        return self.model.impute(known, return_std=True)

    def _write_csv(self, output: Path) -> None:
        table = datasets.CsvTable.open(checks.file("DATA", self.data))
        chosen = csv_columns(table, self.names)
        self.check_width(len(chosen))
        pieces = table.filled(chosen, self._fill, std=self.std)
        encoding = table.dialect.encoding
        columns.write_text(output, self._counted(pieces, encoding), encoding)

    def _counted(self, pieces: Iterable[str], encoding: str) -> Iterator[str]:
        done, size = 0, self.data.stat().st_size
        for piece in pieces:
            done += len(piece.encode(encoding))
            self.tell(self.data.name, min(1.0, done / size))
            yield piece

    def _parquet(self, files: list[Path]) -> Iterator[str]:
        """Pieces of the text for the frames of .parquet files."""
        import pandas as pd  # imported late: it is slow and only tables need it
        import pyarrow.parquet

        total = 0
        for file in files:
            with checks.reading(file, "a .parquet table"):
                total += pyarrow.parquet.read_metadata(file).num_rows
        if total == 0:
            raise ValueError(f"{self.data} holds no rows; expected a table with one row or more")
        for number, (file, frame) in enumerate(datasets.parquet_frames(files)):
            names = [str(name) for name in frame.columns]
            chosen = indices(file, names, self.names)
            self.check_width(len(chosen))
            known = frame_values(file, frame, self.names)
            new, spread = self._fill(known)
            gaps = np.isnan(known)
            whole = {name: frame.iloc[:, j] for j, name in enumerate(names)}
            for at, j in enumerate(chosen):
                if gaps[:, at].any():
                    cells = whole[names[j]].astype(object)
                    whole[names[j]] = cells.mask(gaps[:, at], pd.Series(new[:, at], cells.index, dtype=object))
            if self.std:
                places = sorted(range(len(chosen)), key=chosen.__getitem__)
                more = {f"std_{names[chosen[at]]}": pd.Series(spread[:, at], frame.index) for at in places}
                checks.new_names(file, names, more)
                whole |= more
            index = not isinstance(frame.index, pd.RangeIndex)
            yield pd.DataFrame(whole, index=frame.index).to_csv(index=index, header=number == 0, lineterminator="\n")
            self.tell(self.data.name, self.rows / total)

    def _write_arrays(self, output: Path, preparation: "Preparation", key: str | None) -> None:
        """Numbers alone, in the order that the columns of the table have."""
        found = datasets.columns_of(self.data)
        if found is not None and self.names is not None and found.text:
            raise ValueError(
                f"{self.data} has columns that are not numeric: {checks.listed(found.text)}; write a .csv file, which "
                "keeps them"
            )
        data = preparation.apply(preparation.read(self.data, key=key, columns=self.names))
        if isinstance(data, np.ndarray) and self.data.suffix.lower() in (".npy", ".npz", ".mat"):
            given = datasets.load_array(self.data, key=key)
            data = given if given.ndim == 2 else data  # integers stay integers
        self.check_width(data.shape[1])
        order = slice(None) if found is None else np.argsort(indices(self.data, found.names, self.names))

        def parts() -> Iterator[dict[str, Array]]:
            for filled, std in self.model.impute_parts(data):
                self.rows += len(filled)
                self.gaps += int((std > 0).sum())
                self.tell(self.data.name, self.rows / len(data))
                yield {"data": filled[:, order]} | ({"std": std[:, order]} if self.std else {})

        columns.write(output, len(data), parts(), exact=True)
