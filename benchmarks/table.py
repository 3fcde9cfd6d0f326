"""One table of results: rows are printed as they come and end up in a Markdown file."""

from dataclasses import dataclass, field


@dataclass
class Table:
    """A heading, what is compared, and rows of strings.

    Parameters
    ----------
    title : str
    notes : str
        What was measured and how, in a few sentences.
    columns : tuple of str
    """

    title: str
    notes: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def begin(self) -> "Table":
        """Print the heading."""
        print(f"\n{self.title}\n  " + " | ".join(self.columns), flush=True)
        return self

    def add(self, *cells: str) -> None:
        """Add a row and print it."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{self.title}: a row has {len(self.columns)} cells, got {len(cells)}")
        self.rows.append(cells)
        print("  " + " | ".join(cells), flush=True)

    def markdown(self) -> str:
        """The table with its heading and notes."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        return "\n".join([f"### {self.title}", "", self.notes, "", *("| " + " | ".join(row) + " |" for row in lines)])


def progress(text: str) -> None:
    """Print a line that does not go into the table."""
    print(f"    {text}", flush=True)
