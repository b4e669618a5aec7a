"""How much a visitor may ask for: every limit of the app, from one file.

    limits.current().prompt_length               # a number of `limits.toml`
    limits.current().check_model(name)           # ModelError where visitors may not use it
    limits.current().may_download(name)

`limits.toml` beside this module holds every limit. KNOWLEDGE_NEURON_LIMITS may name a second file that
changes some of them: it is read from the environment, which belongs to the host and never to a visitor.
A file that is missing or wrong stops the pages with a sentence: no limit is silently left out.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from atlas.errors import AtlasError, ModelError

ENVIRONMENT_VARIABLE = "KNOWLEDGE_NEURON_LIMITS"
STANDARD = Path(__file__).parents[1] / "limits.toml"


class LimitsError(AtlasError):
    """What the limits do not allow; or their file is missing or says something that cannot be."""


@dataclass(frozen=True)
class Limits:
    """Every limit; each field is a key of `limits.toml`, where it is explained."""

    demo_mode: bool
    models: tuple[str, ...]
    downloads: tuple[str, ...]
    prompts: int
    prompt_length: int
    answer_length: int
    neurons: int
    changes: int
    draws: int
    strength: float
    experiment_bytes: int
    tray: int
    sql_rows: int
    sql_seconds: float
    sql_memory_mb: int
    sql_length: int
    search_length: int

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type in ("int", "float") and not 0 < value < float("inf"):
                raise LimitsError(f"The limit {each.name} is {value}. Give a number above 0.")
        if not self.models:
            raise LimitsError("The limits offer no model. Name at least one under models.")
        astray = [name for name in self.downloads if name not in self.models]
        if astray:
            raise LimitsError(f"The model {astray[0]} may be fetched but is not offered. Add it to models.")

    def offers(self, name: str) -> bool:
        """Whether visitors may use this model at all; where it is no demo, any name or folder will do."""
        return name in self.models or not self.demo_mode

    def may_download(self, name: str) -> bool:
        """Whether visitors may have this model fetched."""
        return not self.demo_mode or name in self.downloads

    def check_model(self, name: str) -> None:
        """Raise `ModelError` where visitors may not use this model; before its name is looked up."""
        if not self.offers(name):
            raise ModelError(
                f"This host offers {' and '.join(self.models)} only. "
                "Run the app on your own computer for other models and folders."
            )

    def check_download(self, name: str) -> None:
        """Raise `ModelError` where visitors may not have this model fetched."""
        self.check_model(name)
        if not self.may_download(name):
            raise ModelError(
                f"This host does not fetch {name} for visitors. "
                "Choose another model, or run the app on your own computer."
            )

    @property
    def may_import(self) -> bool:
        """Whether visitors may have the published neurons fetched and written to this machine."""
        return not self.demo_mode

    def check_import(self) -> None:
        """Raise `LimitsError` where they may not."""
        if not self.may_import:
            raise LimitsError(
                "This host imports no atlases for visitors. Run the app on your own computer for that."
            )


def current() -> Limits:
    """The limits in force; read again when a file changes. Raises `LimitsError`."""
    named = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    files = (STANDARD, Path(named).expanduser()) if named else (STANDARD,)
    return _read(tuple((str(file), _version(file)) for file in files))


def _version(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        # Reading it says what is wrong.
        return 0, 0
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=8)
def _read(files: tuple[tuple[str, tuple[int, int]], ...]) -> Limits:
    values: dict[str, Any] = {}
    for file, _ in files:
        values |= _checked(_parsed(Path(file)), Path(file).name)
    missing = [each.name for each in fields(Limits) if each.name not in values]
    if missing:
        raise LimitsError(f"The limits lack {missing[0]}. Add it to {STANDARD.name}.")
    return Limits(**values)


def _parsed(file: Path) -> dict[str, Any]:
    # The file is named without its folder: visitors see this sentence too.
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise LimitsError(
            f"The file of limits {file.name} cannot be read. Let {ENVIRONMENT_VARIABLE} name one that can."
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise LimitsError(f"The file of limits {file.name} is not TOML ({error}). Mend it.") from None


def _checked(plain: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The values of a file, each of its field's type."""
    kinds = {each.name: each.type for each in fields(Limits)}
    values = {}
    for name, value in plain.items():
        if name not in kinds:
            raise LimitsError(f"{file} has '{name}', which is no limit. See {STANDARD.name} for all.")
        values[name] = _as(kinds[name], value)
        if values[name] is None:
            raise LimitsError(f"The limit {name} in {file} is {value!r}. Give {_KINDS[kinds[name]]}.")
    return values


_KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "tuple[str, ...]": "a list of names",
}


def _as(kind: str, value: Any) -> Any:
    """The value as the field's type, or None where it is of another."""
    match kind:
        case "bool":
            return value if isinstance(value, bool) else None
        case "int":
            return value if isinstance(value, int) and not isinstance(value, bool) else None
        case "float":
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return float(value) if number else None
    names = isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value)
    return tuple(value) if names else None
