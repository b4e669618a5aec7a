"""How large an answer may be: its rows say little where one value is a list of millions.

    tally = Tally(AnswerSize(values=200_000), schema)      # raises TooLarge
    tally.add(batch)                                       # raises TooLarge

Every value is counted, those in lists and structs too: each may become an object in Python or in a browser.
The values themselves are never looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

# A file of JSON repeats the names in every row; it may be so many times larger than the answer.
_NAMES_REPEATED = 4
_LONGEST_NAMES = 100_000


class TooLarge(Exception):
    """An answer over a limit; the text says which, and what to do."""


@dataclass(frozen=True)
class AnswerSize:
    """What an answer may have besides rows. `prefix` begins the limits' names where an error gives them."""

    columns: int = 10_000
    values: int = 5_000_000
    megabytes: int = 32
    prefix: str = "max_"


class Tally:
    """Counts what an answer has so far."""

    def __init__(self, most: AnswerSize, schema: pa.Schema) -> None:
        self._most = most
        self._values = self._bytes = self._names = 0
        names = [name for field in schema for name in _names(field)]
        if len(names) > most.columns:
            raise TooLarge(
                f"The answer has more than {most.columns:,} columns and fields ({most.prefix}columns). "
                "Select fewer columns."
            )
        if sum(map(len, names)) > _LONGEST_NAMES:
            raise TooLarge(
                f"The answer's columns have names of more than {_LONGEST_NAMES:,} characters. Shorten them."
            )

    def add(self, batch: pa.RecordBatch) -> None:
        """Count some rows."""
        self._bytes += batch.nbytes
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self._count(name, column)
        if self._values > self._most.values:
            raise TooLarge(
                f"The answer has more than {self._most.values:,} values ({self._most.prefix}values). "
                "Select fewer rows or columns."
            )
        self.check_bytes(self._bytes)
        if self._names > _NAMES_REPEATED * 1_000_000 * self._most.megabytes:
            raise TooLarge(
                "The answer's names, repeated in every row as in a file of JSON, are larger than "
                f"{_NAMES_REPEATED * self._most.megabytes} MB. Shorten them."
            )

    def check_bytes(self, n_bytes: int) -> None:
        """Refuse an answer that takes more bytes than allowed."""
        if n_bytes > 1_000_000 * self._most.megabytes:
            raise TooLarge(
                f"The answer is larger than {self._most.megabytes} MB ({self._most.prefix}megabytes). "
                "Select fewer rows or shorter values."
            )

    def _count(self, name: str, values: pa.Array) -> None:
        self._values += len(values)
        self._names += len(name) * len(values)
        if pa.types.is_struct(values.type):
            for place, field in enumerate(values.type):
                self._count(field.name, values.field(place))
        elif pa.types.is_nested(values.type):
            self._count("", values.flatten())


def _names(field: pa.Field) -> list[str]:
    """The name of a column and those of its parts."""
    kind = field.type
    parts = [kind.field(place) for place in range(kind.num_fields)] if pa.types.is_nested(kind) else []
    return [field.name, *(name for part in parts for name in _names(part))]
