"""Strict reading of untrusted JSON: fields of the declared types and sizes, and no others.

    @with_config(STRICT)
    @dataclass(frozen=True)
    class Point:
        name: PlainText
        weight: Annotated[StrictFloat, Field(ge=0, le=1)] = 1.0

    validate(parse_json('{"name": "a"}', most=200_000), Point, what="The point")

Any fault is a `DocumentError` of one line: "The point's weight must be at most 1, got 7."
"""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Strict, TypeAdapter, ValidationError

from atlas.errors import DocumentError
from atlas.validation import has_control, one_line, problem_of

REMEDY = "Download or copy it again."

_T = TypeVar("_T")


# Types -----------------------------------------------------------------------------------------------


def _without_control(value: Any) -> Any:
    if isinstance(value, str) and has_control(value):
        raise ValueError("must not contain control characters")
    return value


PlainText = Annotated[str, Strict(), BeforeValidator(_without_control)]


STRICT = ConfigDict(extra="forbid")


# Reading ---------------------------------------------------------------------------------------------


def parse_json(text: str, *, most: int) -> Any:
    """The JSON value in a text of at most `most` bytes; a field that is null counts as absent.

    Refuses NaN, infinity and objects that have a key twice.
    """
    if len(text) > most or len(text.encode("utf-8", "replace")) > most:
        raise DocumentError(f"The text is longer than {most:,} bytes. Make it smaller.")
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_make_object)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"The text is not JSON: {one_line(error)}. {REMEDY}") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        raise ValueError("an object has a key twice")
    if any(has_control(name) for name in entry):
        raise ValueError("a key contains control characters")
    return {name: value for name, value in entry.items() if value is not None}


def validate(value: Any, kind: type[_T], *, what: str) -> _T:
    """The parsed value as `kind`; otherwise raises a `DocumentError` that begins with `what`."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise DocumentError(f"{problem_of(error, what)}. {REMEDY}") from None
