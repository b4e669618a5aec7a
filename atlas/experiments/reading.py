"""JSON from strangers, read strictly: every field of the expected type and size, and no others.

    record = Record(parse(text, most=200_000), "The experiment")
    seed, name = record.whole("seed", 0, 99), record.text("name", 300)
    record.done()                                       # nothing unknown is left

Whatever is wrong is a `DocumentError` of one line.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from atlas.errors import DocumentError

REMEDY = "Download or copy it again."

# Tabs and line ends may stand in a prompt; what moves a terminal's cursor may not.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_MISSING = object()


def parse(text: str, *, most: int) -> Any:
    """The JSON value in a text of at most `most` bytes."""
    if len(text) > most or len(text.encode("utf-8", "replace")) > most:
        raise DocumentError(f"The text is longer than {most:,} bytes. Make it smaller.")
    try:
        return json.loads(text, parse_constant=_no_number, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"The text is no JSON: {one_line(error)}. {REMEDY}") from None


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return result


def one_line(value: object, most: int = 300) -> str:
    """What a person may have written, as part of a sentence."""
    line = _CONTROL.sub("?", " ".join(str(value).split()))
    return line if len(line) <= most else f"{line[:most]}…"


def has_control(text: str) -> bool:
    """Whether a text holds characters that no document takes."""
    return _CONTROL.search(text) is not None


class Record:
    """One object of a document; `what` opens the sentences about it."""

    def __init__(self, entry: Any, what: str) -> None:
        self.what = what
        if not isinstance(entry, dict):
            raise self.wrong("is no object")
        self._left = dict(entry)

    def wrong(self, problem: str) -> DocumentError:
        return DocumentError(f"{self.what} {problem}. {REMEDY}")

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, default: Any = _MISSING) -> Any:
        """The field as it is; `default` where it is absent or null."""
        value = self._left.pop(name, None)
        if value is None:
            if default is _MISSING:
                raise self.wrong(f"has no {name}")
            return default
        return value

    def text(self, name: str, most: int, default: Any = _MISSING) -> Any:
        value = self.take(name, default)
        return value if value is default else self._text(name, value, most)

    def _text(self, name: str, value: Any, most: int) -> str:
        if not isinstance(value, str):
            raise self.wrong(f"has a {name} that is no text")
        if len(value) > most:
            raise self.wrong(f"has a {name} of {len(value):,} characters, where {most:,} are allowed")
        if has_control(value):
            raise self.wrong(f"has control characters in its {name}")
        return value

    def whole(self, name: str, least: int, most: int, default: Any = _MISSING) -> Any:
        value = self.take(name, default)
        return value if value is default else self._whole(name, value, least, most)

    def _whole(self, name: str, value: Any, least: int, most: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(f"has a {name} that is no whole number from {least} to {most}")
        return value

    def number(self, name: str, least: float, most: float, default: Any = _MISSING) -> Any:
        value = self.take(name, default)
        return value if value is default else self._number(name, value, least, most)

    def _number(self, name: str, value: Any, least: float, most: float) -> float:
        ok = isinstance(value, int | float) and not isinstance(value, bool)
        if not ok or not least <= value <= most or not math.isfinite(value):
            raise self.wrong(f"has a {name} that is no number from {least:g} to {most:g}")
        return float(value)

    def truth(self, name: str) -> bool:
        value = self.take(name)
        if not isinstance(value, bool):
            raise self.wrong(f"has a {name} that is neither true nor false")
        return value

    def many(self, name: str, most: int) -> list[Any]:
        """A list of at most `most` entries of any kind."""
        value = self.take(name)
        if not isinstance(value, list):
            raise self.wrong(f"has {name} that are no list")
        if len(value) > most:
            raise self.wrong(f"has {len(value):,} {name}, where {most:,} are allowed")
        return value

    def texts(self, name: str, count: int, most: int) -> list[str]:
        return [self._text(name, value, most) for value in self.many(name, count)]

    def wholes(self, name: str, count: int, least: int, most: int) -> list[int]:
        return [self._whole(name, value, least, most) for value in self.many(name, count)]

    def numbers(self, name: str, count: int, least: float, most: float) -> list[float]:
        return [self._number(name, value, least, most) for value in self.many(name, count)]

    def done(self) -> None:
        """Raise where fields are left that nobody took."""
        if self._left:
            raise self.wrong(f"has a field that there is not: {one_line(sorted(self._left)[0], 40)}")
