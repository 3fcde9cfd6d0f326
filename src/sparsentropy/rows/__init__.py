"""The data points that learning passes over, wherever they are.

Learning asks little of its data: all of them in batches, always in the same order, and some of them by number. Rows in
memory and rows that are on a disk answer alike, so there is one way to learn for both. What comes as a stream of
batches is written to a temporary file first, and is then like any other file.
"""

from sparsentropy.rows.abstract import AbstractRows, drawn
from sparsentropy.rows.in_memory import InMemory, of
from sparsentropy.rows.scratch import Scratch, bytes_of, read_at
from sparsentropy.rows.shared import Shared, share, share_of
from sparsentropy.rows.sources import (
    AbstractSource,
    Between,
    File,
    Mapped,
    Sliced,
    Without,
    is_stored,
    pieces,
    source_of,
)
from sparsentropy.rows.spool import batches_of, is_stream, read_batches, spool
from sparsentropy.rows.stored import MEMORY, Stored
from sparsentropy.rows.survey import Survey, power_of_two
from sparsentropy.rows.tabular import check_dates, names_of, unmasked

__all__ = [
    "MEMORY",
    "AbstractRows",
    "AbstractSource",
    "Between",
    "File",
    "InMemory",
    "Mapped",
    "Scratch",
    "Shared",
    "Sliced",
    "Stored",
    "Survey",
    "Without",
    "batches_of",
    "bytes_of",
    "check_dates",
    "drawn",
    "is_stored",
    "is_stream",
    "names_of",
    "of",
    "pieces",
    "power_of_two",
    "read_at",
    "read_batches",
    "share",
    "share_of",
    "source_of",
    "spool",
    "unmasked",
]
