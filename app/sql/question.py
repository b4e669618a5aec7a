"""A question to the atlas: a query and the texts of its `$name`s, as they stand in the URL.

    Question.of("SELECT $a::INTEGER", {"a": "9"}).values          # {"a": 9}

Not in the page, whose classes are made anew whenever it runs: then no question would equal the one before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from app.sql.parameters import parameters
from atlas.store.sql import PendingQuery

# Servers and mail programs cut longer links.
LONGEST_LINK = 6_000


@dataclass(frozen=True)
class Question:
    """A query and the texts of its parameters, as they stand in the URL."""

    sql: str
    texts: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, sql: str, texts: Mapping[str, str | None]) -> Question:
        """With the texts of the query's own parameters, in their order."""
        names = [each.name for each in parameters(sql)]
        return cls(sql, tuple((name, texts[name]) for name in names if texts.get(name) not in (None, "")))

    @property
    def fits_a_link(self) -> bool:
        return sum(len(quote(text)) for text in (self.sql, *dict(self.texts).values())) <= LONGEST_LINK

    @property
    def values(self) -> dict[str, str | int | float | bool | None]:
        given = dict(self.texts)
        return {each.name: each.value(given.get(each.name)) for each in parameters(self.sql)}


@dataclass(frozen=True)
class Run:
    """A question that was put to an atlas."""

    atlas_id: str
    question: Question
    asked: PendingQuery
