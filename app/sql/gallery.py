"""The example queries: title, what the answer shows, and the SQL.

    GALLERY[0].title, GALLERY[0].shows, GALLERY[0].sql, GALLERY[0].values
    EXPERIMENTS[0].title            # on the tables that `python -m build evaluate` fills

Each lies in `gallery.sql` or `experiments.sql` as comments (its title, what it shows, values for its
parameters) and the query. All run on any atlas; where a table was not measured they find no rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_EXAMPLE = re.compile(
    r"-- # (?P<title>.+)\n(?P<shows>(?:-- (?!\$\w+ = ).+\n)+)(?P<values>(?:-- .+\n)*)(?P<sql>(?:.+\n)+)"
)


@dataclass(frozen=True)
class Example:
    """A query of the gallery. `values`: texts for its `$name` parameters."""

    title: str
    shows: str
    sql: str
    values: Mapping[str, str]


def _read(name: str) -> tuple[Example, ...]:
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    return tuple(
        Example(
            found["title"],
            found["shows"].replace("-- ", "").replace("\n", " ").strip(),
            found["sql"].strip(),
            dict(re.findall(r"-- \$(\w+) = (.+)", found["values"])),
        )
        for found in _EXAMPLE.finditer(text)
    )


GALLERY = _read("gallery.sql")
EXPERIMENTS = _read("experiments.sql")
