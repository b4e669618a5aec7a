"""Turn pydantic's errors and untrusted texts into one plain line."""

from __future__ import annotations

import json
import re

from pydantic import ValidationError

# Prompts may contain tabs and line ends, but no characters that move a terminal's cursor.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
# Those, and the marks that reverse the direction of writing.
_COMMANDS = re.compile(f"{_CONTROL.pattern[:-1]}\u202a-\u202e\u2066-\u2069]")


def has_control(text: str) -> bool:
    """Whether a text has control characters, which documents must not contain."""
    return _CONTROL.search(text) is not None


def printable(text: str) -> str:
    """The text with control characters, except tabs and line ends, as JSON writes them: \\u001b."""
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(value: object, most: int = 300) -> str:
    """An untrusted value as part of a sentence."""
    line = _CONTROL.sub("?", " ".join(str(value).split()))
    return line if len(line) <= most else f"{line[:most]}…"


# JSON's terms for pydantic's errors, which use Python's.
_PROBLEMS = {
    "missing": "is missing",
    "extra_forbidden": "is not a known field",
    "model_type": "must be an object",
    "dataclass_type": "must be an object",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "string_type": "must be text",
    "string_unicode": "must be text of whole characters",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
}


def problem_of(error: ValidationError, what: str) -> str:
    """The first error, without a full stop: "The point's weight must be at most 1, got 7"."""
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
    if kind == "json_invalid":
        problem = f"is not JSON ({first['ctx']['error']})"
    elif kind == "too_long":
        counted = "characters" if isinstance(value, str) else "items"
        problem = f"must have at most {first['ctx']['max_length']:,} {counted}, got {len(value):,}"
    elif isinstance(value, str | int | float) and kind != "extra_forbidden":
        problem += f", got {one_line(json.dumps(value, ensure_ascii=False), 60)}"
    return f"{where} {one_line(problem)}"
