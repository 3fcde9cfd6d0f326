"""Commands that apply a model to a table or to images: codes, gaps filled in, and how likely the data are.

Where the model and the table have names for their columns, names decide which column is which.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from sparsentropy import progress, terminal
from sparsentropy.options import Data, Key, Model, Output, PerRow, RowOutput, Std

if TYPE_CHECKING:
    from sparsentropy.estimator import SparseCoding
    from sparsentropy.preparation import Preparation

ARRAYS = (".npy", ".npz", ".csv")
TWO = (".npz", ".csv")  # that hold two arrays


def encode(model: Model, data: Data, output: Output, std: Std = False, key: Key = None) -> None:
    """Write the codes of data: posterior means, one row per data point.

    Data are prepared as they were for learning; columns are known by their names, if they have any.
    Images are cut into neighbouring patches in reading order.

    Example: [bold]sparsentropy encode runs/photos new.png -o codes.npz --std[/bold]
    """
    from sparsentropy import columns

    columns.check(output, TWO if std else ARRAYS, (model, data))
    _check_inputs(model, data)
    with _names_compared():
        opened, rows = _opened_and_rows(model, data, key)
        fitted = opened.model
        answers = ({"mean": q.mean} | ({"std": q.variance.sqrt()} if std else {}) for q in fitted.infer_parts(rows))
        parts = ({name: value.cpu().numpy() for name, value in answer.items()} for answer in answers)
        with progress.share(terminal.console()) as tell:
            columns.write(output, len(rows), progress.counted(parts, len(rows), data.name, tell))
    opened.say_order()
    terminal.say(f"codes of {len(rows):,} data points written to {output}")


def impute(model: Model, data: Data, output: Output, std: Std = False, key: Key = None) -> None:
    """Write a table with its missing values filled in, one row per data point.

    What is there is left as it is: of a .csv file that is written as one, every character, and columns of text, too.
    With --std, standard deviations are written beside: 0 for what was there.

    Example: [bold]sparsentropy impute runs/table gaps.csv -o filled.csv[/bold]
    """
    from sparsentropy import columns
    from sparsentropy.imputation import Filling

    columns.check(output, TWO if std else ARRAYS, (model, data))
    _check_inputs(model, data)
    opened = _Opened.of(model, data, text=True)
    if opened.preparation.changes_rows:
        raise ValueError(
            f"{model} was learned from rows that were whitened or lost their means, and gaps cannot be filled in "
            "there; learn without --whiten and --remove-mean"
        )
    with _names_compared(), progress.share(terminal.console()) as tell:
        filling = Filling(opened.model, data, opened.names, std=std, tell=tell)
        filling.write(output, opened.preparation, key)
    opened.say_order()
    terminal.say(f"{filling.gaps:,} missing values of {filling.rows:,} data points filled in and written to {output}")


def score(model: Model, data: Data, per_row: PerRow = False, output: RowOutput = None, key: Key = None) -> None:
    """Say how well a model predicts data: the mean lower bound in nats per data point.

    Higher is better. Compare models on the same data only, prepared in the same way.
    Columns are known by their names, if they have any.

    Example: [bold]sparsentropy score runs/photos test-photos/[/bold]
    """
    from sparsentropy import columns

    if output is not None:
        if not per_row:
            raise ValueError("-o writes one bound per data point; add --per-row, or leave out -o")
        columns.check(output, ARRAYS, (model, data))
    _check_inputs(model, data)
    with _names_compared():
        opened, rows = _opened_and_rows(model, data, key)
        bounds = opened.model.score_samples(rows) + opened.preparation.log_det
    opened.say_order()
    if not per_row:
        print(f"{bounds.mean():.6g} nats per data point, of {opened.preparation.space}, mean of {len(bounds):,}")
    elif output is None:
        print("\n".join(f"{bound:.9g}" for bound in bounds))
    else:
        columns.write(output, len(bounds), [{"lower_bound": bounds.reshape(-1, 1)}])
        terminal.say(f"bounds of {len(rows):,} data points written to {output}")


def check_stack(data: Path, found: Any, size: int | None) -> None:
    """Refuse an array with three axes, which is a stack of images, if these are smaller than a patch.

    Raises
    ------
    ValueError
    """
    from sparsentropy.preparation import is_images

    if size is None or not is_images(found) or data.suffix.lower() not in (".npy", ".npz", ".mat"):
        return
    height, width = found[0].shape[:2]
    if min(height, width) < size:
        raise ValueError(
            f"{data} has three axes, so it is taken for {len(found):,} grey images of {height} × {width} pixels, which "
            f"are smaller than a patch of {size} × {size}; give a smaller --patch-size, or a table with two axes"
        )


def _check_inputs(model: Path, data: Path) -> None:
    """Refuse what is not there before time is spent on imports."""
    from sparsentropy import folders
    from sparsentropy.datasets import checks

    folders.model(model)
    checks.path("DATA", data)


@final
@dataclass(frozen=True)
class _Opened:
    """A model, how its data were prepared, and the columns it needs of a table, if both have names for them."""

    model: "SparseCoding"
    preparation: "Preparation"
    names: list[str] | None
    order: str  # what is to be said of the order of the columns

    @classmethod
    def of(cls, path: Path, data: Path, *, text: bool = False) -> "_Opened":
        """Compare the names of a table with those that a model knows; with `text` it may have columns of text, too."""
        from sparsentropy import datasets, runs
        from sparsentropy.datasets import checks

        model, preparation = runs.read(path)
        found = datasets.columns_of(data)
        names = [str(name) for name in preparation.columns or getattr(model, "feature_names_in_", ())]
        if not names:
            return cls(model, preparation, None, "")
        if found is None:
            order = f"have no names; they are taken in the order of the model, {checks.listed(names)}"
            return cls(model, preparation, None, f"note: the columns of {data} {order}")
        needed, there, words = set(names), set(found.names), set(found.text) if text else set()
        absent = [name for name in names if name not in there]
        others = [name for name in found.names if name not in needed and name not in words]
        if absent or others:
            what = [f"lacks the columns {checks.listed(absent)}"] if absent else []
            what += [f"has other columns: {checks.listed(others)}"] if others else []
            raise ValueError(
                f"{data} {' and '.join(what)}; the model was learned from {checks.listed(names)}: give these columns, "
                "in any order"
            )
        if [name for name in found.names if name in needed] == names:
            return cls(model, preparation, names, "")
        order = f"note: the columns of {data} are put in the order of the model, {checks.listed(names)}"
        return cls(model, preparation, names, order)

    def say_order(self) -> None:
        """Say so where columns were put in another order, or have no names by which that could be seen."""
        if self.order:
            terminal.say(self.order)


def _opened_and_rows(path: Path, data: Path, key: str | None) -> tuple[_Opened, Any]:
    from sparsentropy.preparation import is_images

    opened = _Opened.of(path, data)
    d, preparation = opened.model.components_.shape[1], opened.preparation
    found = preparation.read(data, key=key, columns=opened.names)
    if is_images(found) and preparation.patch_size is None:
        axes = ", having three axes," if data.suffix.lower() in (".npy", ".npz", ".mat") else ""
        raise ValueError(
            f"{data}{axes} is taken for images, but the model was learned from a table with {d:,} columns; give a "
            "table with these"
        )
    check_stack(data, found, preparation.patch_size)
    rows = preparation.apply(found)
    if rows.shape[1] != d:
        raise ValueError(
            f"{data} has {rows.shape[1] + preparation.remove_mean:,} features, but the model learned from "
            f"{d + preparation.remove_mean:,}; give data of the same kind"
        )
    return opened, rows


@contextmanager
def _names_compared() -> Iterator[None]:
    """Hear no warning of scikit-learn that rows have no names: those of their columns were compared before."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X (does not have valid|has) feature names", UserWarning)
        yield
