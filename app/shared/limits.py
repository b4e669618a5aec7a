"""What a visitor may ask for: every limit of the app, from one file.

    limits.current().prompt_length               # a number of `limits.toml`
    limits.current().check_model(name)           # ModelError where visitors may not use it
    limits.current().may_download(name)

`limits.toml` holds every limit. KNOWLEDGE_NEURON_LIMITS may name a second file that changes some of them: it
is read from the environment, which belongs to the host and never to a visitor. A file that is missing or
wrong stops every page with a sentence, so that no limit is silently left out.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints, ValidationError
from pydantic.dataclasses import dataclass

from atlas.errors import AtlasError, ModelError

LIMITS_VARIABLE = "KNOWLEDGE_NEURON_LIMITS"
STANDARD = Path(__file__).parents[1] / "limits.toml"

_Names = tuple[Annotated[str, StringConstraints(pattern=r"\S")], ...]
_ABOVE_0 = Field(gt=0, allow_inf_nan=False)


class LimitsError(AtlasError):
    """What the limits do not allow; or their file is missing or wrong."""


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Limits:
    """Every limit; each field is a key of `limits.toml`, which explains it."""

    demo_mode: bool
    model_process: bool
    models: _Names = Field(strict=False)
    downloads: _Names = Field(strict=False)
    prompts: int = Field(gt=0)
    prompt_length: int = Field(gt=0)
    answer_length: int = Field(gt=0)
    neurons: int = Field(gt=0)
    changes: int = Field(gt=0)
    draws: int = Field(gt=0)
    strength: float = _ABOVE_0
    experiment_bytes: int = Field(gt=0)
    experiment_size: int = Field(gt=0)
    tokens: int = Field(gt=0)
    model_seconds: float = _ABOVE_0
    sweep_mb: int = Field(gt=0)
    model_threads: int = Field(gt=0)
    tray: int = Field(gt=0)
    lists_length: int = Field(gt=0)
    atlas_memory_mb: int = Field(gt=0)
    sql_rows: int = Field(gt=0)
    sql_columns: int = Field(gt=0)
    sql_values: int = Field(gt=0)
    sql_megabytes: int = Field(gt=0)
    sql_seconds: float = _ABOVE_0
    sql_memory_mb: int = Field(gt=0)
    sql_processes: int = Field(gt=0)
    sql_length: int = Field(gt=0)
    search_length: int = Field(gt=0)
    visitors: int = Field(gt=0)
    gone_seconds: float = _ABOVE_0
    session_characters: int = Field(gt=0)
    connections: int = Field(gt=0)
    arrivals: int = Field(gt=0)
    uploads: int = Field(gt=0)

    def __post_init__(self) -> None:
        if not self.models:
            raise LimitsError("models must name at least one model, got none.")
        for name in self.downloads:
            if name not in self.models:
                raise LimitsError(f"downloads must be among models, got {name}.")

    def offers(self, name: str) -> bool:
        """Whether visitors may use this model; outside a demo, any name or folder."""
        return name in self.models or not self.demo_mode

    def may_download(self, name: str) -> bool:
        """Whether visitors may have this model fetched."""
        return not self.demo_mode or name in self.downloads

    def check_model(self, name: str) -> None:
        """Raise `ModelError` where visitors may not use this model; called before its name is looked up."""
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
                "This host imports no atlases for visitors. Run the app on your own computer to import one."
            )


def current() -> Limits:
    """The limits in force; read again when a file changes. Raises `LimitsError`."""
    named = os.environ.get(LIMITS_VARIABLE, "").strip()
    files = (STANDARD, Path(named).expanduser()) if named else (STANDARD,)
    return _read(tuple((file, _version(file)) for file in files))


def _version(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return 0, 0  # reading the file raises the error
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=8)
def _read(files: tuple[tuple[Path, tuple[int, int]], ...]) -> Limits:
    values, origin = {}, {}
    for file, _ in files:
        parsed = _parsed(file)
        values |= parsed
        origin |= dict.fromkeys(parsed, file.name)
    try:
        return Limits(**values)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
    if name not in values:
        raise LimitsError(f"{STANDARD.name} lacks {name}. Add it.")
    expected = {field.name: _EXPECTED[str(field.type)] for field in fields(Limits)}.get(name)
    if expected is None:
        raise LimitsError(f"{origin[name]}: {name} is not a limit. See {STANDARD.name} for all of them.")
    raise LimitsError(f"{origin[name]}: {name} must be {expected}, got {values[name]!r}.")


_EXPECTED = {
    "bool": "true or false",
    "_Names": "a list of names",
    "int": "a whole number above 0",
    "float": "a number above 0",
}


def _parsed(file: Path) -> dict:
    # Visitors see these sentences too, so they leave out the folder.
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise LimitsError(f"{file.name} cannot be read. Set {LIMITS_VARIABLE} to a readable file.") from None
    except tomllib.TOMLDecodeError as error:
        raise LimitsError(f"{file.name} is not valid TOML: {error}. Correct it.") from None
