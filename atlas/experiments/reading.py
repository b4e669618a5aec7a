"""JSON from strangers, read strictly: fields of the declared types and sizes, and no others.

    @with_config(STRICT)
    @dataclass(frozen=True)
    class Point:
        name: Text
        weight: Annotated[Number, Field(ge=0, le=1)] = 1.0

    validate(parse_json('{"name": "a"}', most=200_000), Point, what="The point")

What is wrong is a `DocumentError` of one line: "The point's weight must be at most 1, got 7."
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ConfigDict, Strict, TypeAdapter, ValidationError

from atlas.errors import DocumentError

REMEDY = "Download or copy it again."

# Tabs and line ends may stand in a prompt; what moves a terminal's cursor may not.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

T = TypeVar("T")


def has_control(text: str) -> bool:
    """Whether a text holds characters that no document may hold."""
    return _CONTROL.search(text) is not None


def one_line(value: object, most: int = 300) -> str:
    """A value that a stranger may have written, as part of a sentence of ours."""
    line = _CONTROL.sub("?", " ".join(str(value).split()))
    return line if len(line) <= most else f"{line[:most]}…"


# Types -----------------------------------------------------------------------------------------------


def _without_control(value: Any) -> Any:
    if isinstance(value, str) and has_control(value):
        raise ValueError("must not hold control characters")
    return value


Text = Annotated[str, Strict(), BeforeValidator(_without_control)]
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Truth = Annotated[bool, Strict()]


STRICT = ConfigDict(extra="forbid")


# Reading ---------------------------------------------------------------------------------------------


def parse_json(text: str, *, most: int) -> Any:
    """The JSON value in a text of at most `most` bytes; a field that is null counts as absent.

    Refuses NaN, infinity and objects that have a name twice.
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
        raise ValueError("an object has the same name twice")
    if any(has_control(name) for name in entry):
        raise ValueError("a name holds control characters")
    return {name: value for name, value in entry.items() if value is not None}


def validate(value: Any, kind: type[T], *, what: str) -> T:
    """The parsed value as `kind`; `what` opens the sentence of the `DocumentError` where it is none."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise DocumentError(_sentence(error, what)) from None


# Where pydantic speaks of Python, JSON has other words.
_PROBLEMS = {
    "missing": "is missing",
    "extra_forbidden": "is not a known field",
    "model_type": "must be an object",
    "dataclass_type": "must be an object",
    "tuple_type": "must be a list",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
}


def _sentence(error: ValidationError, what: str) -> str:
    first = error.errors(include_url=False)[0]
    kind, value = first["type"], first["input"]
    path = "".join(
        f"[{step}]" if isinstance(step, int) else f".{one_line(step, 40)}" for step in first["loc"]
    )
    where = f"{what}'s {path.lstrip('.')}" if path else what
    # "Input should be …", "Value error, must …"
    problem = _PROBLEMS.get(kind) or re.sub(r"^\w+ should|^Value error, must", "must", first["msg"])
    problem = problem.replace("greater than or equal to", "at least").replace(
        "less than or equal to", "at most"
    )
    if kind == "too_long":
        counted = "characters" if isinstance(value, str) else "items"
        problem = f"must have at most {first['ctx']['max_length']:,} {counted}, got {len(value):,}"
    elif isinstance(value, str | int | float) and kind != "extra_forbidden":
        problem += f", got {one_line(json.dumps(value, ensure_ascii=False), 60)}"
    return f"{where} {one_line(problem)}. {REMEDY}"
