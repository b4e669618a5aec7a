"""Experiments as JSON, for files, and as text for a URL.

    from_json(to_json(experiment)) == experiment == from_link(to_link(experiment))
    read_document(to_json(experiment, outcome.results)).results     # python -m build experiment FILE

A link is the JSON without results, through zlib and base64url. Both are untrusted: every field is checked,
and inflation stops at a bound. Any fault is a `DocumentError` of one line.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    StrictFloat,
    StrictInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from atlas.errors import AtlasError, DocumentError
from atlas.experiments.experiment import (
    MAX_DRAWS,
    MAX_PROMPTS,
    MAX_SEED,
    Experiment,
    ExperimentResults,
    Name,
    Neurons,
    PromptText,
)
from atlas.experiments.reading import REMEDY, STRICT, PlainText, one_line, parse_json, validate
from atlas.interventions import (
    INTERVENTION_KINDS,
    MAX_ACTIVATION,
    MAX_FACTOR,
    MAX_INTERVENTIONS,
    Intervention,
    Patch,
    SetTo,
    as_tuple,
    kind_of,
)
from atlas.neuron import ExperimentPrompt, Prompt

FORMAT = "knowledge-neuron-experiment"
# Version 2 added the effect of random neurons on an edit's new answer; results of version 1 lack it.
# Version 3 added `SetTo` and `Patch`; without them a document is written as version 2, for older programs.
VERSION = 3
READABLE_VERSIONS = range(1, VERSION + 1)

MAX_FILE_BYTES = 20_000_000
MAX_LIST_BYTES = 5_000_000  # of interventions alone
MAX_LINK_BYTES = 200_000  # inflated
MAX_ANSWER = 200  # of an edit

_SHA256 = re.compile(r"|[0-9a-f]{64}")
_LINK = re.compile(r"[A-Za-z0-9_-]+")


# Fields of a document --------------------------------------------------------------------------------


class _Entry(BaseModel):
    model_config = STRICT


_Answer = Annotated[PlainText, Field(max_length=MAX_ANSWER)]
_Strength = Annotated[StrictFloat, Field(ge=0, le=1000)]


class _Intervention(_Entry):
    """Any intervention; `kind` decides which of the other fields it has."""

    kind: Literal["suppress", "amplify", "set", "patch", "erase", "edit"]
    neurons: Neurons
    factor: Annotated[StrictFloat, Field(ge=-MAX_FACTOR, le=MAX_FACTOR)] = 2.0
    value: Any = "zero"
    from_prompt: PromptText = ""
    old: _Answer = ""
    new: _Answer = ""
    remove: _Strength = 1.0
    add: _Strength = 8.0

    @field_validator("value")
    @classmethod
    def _fits_its_kind(cls, value: Any, of: ValidationInfo) -> Any:
        if of.data.get("kind") != "set":
            if value not in ("zero", "unk"):
                raise ValueError("must be 'zero' or 'unk'")
        elif type(value) not in (int, float) or not abs(value) <= MAX_ACTIVATION:
            raise ValueError(f"must be a number between -{MAX_ACTIVATION} and {MAX_ACTIVATION}")
        return value

    @model_validator(mode="after")
    def _has_the_fields_of_its_kind(self) -> _Intervention:
        own = {field.name: field.default is MISSING for field in fields(INTERVENTION_KINDS[self.kind])}
        given = self.model_fields_set - {"kind"}
        if unknown := given - set(own):
            raise ValueError(f"must not have the field {min(unknown)}, as its kind is {self.kind}")
        if missing := {name for name, needed in own.items() if needed} - given:
            raise ValueError(f"must have the field {min(missing)}, as its kind is {self.kind}")
        return self

    def as_value(self) -> Intervention:
        given = {name: getattr(self, name) for name in self.model_fields_set - {"kind"}}
        try:
            return INTERVENTION_KINDS[self.kind](**given)
        except AtlasError as error:
            raise DocumentError(one_line(error)) from None


_Interventions = Annotated[tuple[_Intervention, ...], Field(max_length=MAX_INTERVENTIONS)]


class _Prompt(_Entry):
    group: Annotated[PlainText, Field(max_length=20)]
    text: PromptText
    answer: PromptText
    fact_id: Name = ""
    template_id: Name = ""

    def as_value(self) -> ExperimentPrompt:
        return ExperimentPrompt(self.group, Prompt(self.fact_id, self.template_id, self.text, self.answer))


class _Model(_Entry):
    name: Name
    weights_sha256: PlainText = ""
    config_sha256: PlainText = ""

    @model_validator(mode="after")
    def _is_named(self) -> _Model:
        if not self.name.strip() or not _SHA256.fullmatch(self.weights_sha256):
            raise ValueError("must have a name, and a weights_sha256 of 64 hexadecimal digits or none")
        if not _SHA256.fullmatch(self.config_sha256):
            raise ValueError("must have a config_sha256 of 64 hexadecimal digits or none")
        return self


def _check_version(version: int) -> int:
    if version not in READABLE_VERSIONS:
        raise DocumentError(
            f"The experiment has version {version}; this program reads versions 1 to {VERSION}. "
            "Use the program that wrote it."
        )
    return version


class _Document(_Entry):
    format: PlainText
    # Raises at once: the other fields of another version are unknown.
    version: Annotated[StrictInt, AfterValidator(_check_version)]
    model: _Model
    atlas_id: Name = ""
    fact_id: Name = ""
    interventions: _Interventions
    prompts: Annotated[tuple[_Prompt, ...], Field(max_length=MAX_PROMPTS)]
    seed: Annotated[StrictInt, Field(ge=0, le=MAX_SEED)]
    draws: Annotated[StrictInt, Field(ge=1, le=MAX_DRAWS)]
    results: ExperimentResults | None = None


# As JSON ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Document:
    """An experiment read from a file, with its results if the file has them."""

    experiment: Experiment
    results: ExperimentResults | None = None

    def __post_init__(self) -> None:
        if self.results is None:
            return
        if len(self.results.prompts) != len(self.experiment.prompts):
            raise DocumentError(
                f"The results have {len(self.results.prompts)} prompts, but the experiment has "
                f"{len(self.experiment.prompts)}. {REMEDY}"
            )
        draws = self.experiment.draws
        for number, each in enumerate(self.results.prompts):
            if len(each.random) != draws or len(each.new_random) not in (0, draws):
                raise DocumentError(
                    f"results.prompts[{number}] does not have the experiment's {draws} draws. {REMEDY}"
                )


def to_json(experiment: Experiment, results: ExperimentResults | None = None) -> str:
    """The experiment as a JSON document of this version, for people and for `from_json`."""
    plain = _experiment_dict(experiment)
    if results is not None:
        plain["results"] = _results_dict(results)
    return json.dumps(plain, ensure_ascii=False, indent=1)


def from_json(text: str, *, most: int = MAX_FILE_BYTES) -> Experiment:
    """The experiment in a text that `to_json` wrote; `DocumentError` for anything else."""
    return read_document(text, most=most).experiment


def read_document(text: str, *, most: int = MAX_FILE_BYTES) -> Document:
    """The experiment and its results in a text that `to_json` wrote; `DocumentError` for anything else."""
    entry = parse_json(text, most=most)
    if not isinstance(entry, dict) or entry.get("format") != FORMAT:
        raise DocumentError(f"The JSON is not an experiment: its format is not '{FORMAT}'. {REMEDY}")
    read = validate(entry, _Document, what="The experiment")
    try:
        experiment = Experiment(
            tuple(item.as_value() for item in read.interventions),
            tuple(item.as_value() for item in read.prompts),
            seed=read.seed,
            draws=read.draws,
            model=read.model.name,
            weights_sha256=read.model.weights_sha256,
            config_sha256=read.model.config_sha256,
            atlas_id=read.atlas_id,
            fact_id=read.fact_id,
        )
    except AtlasError as error:
        raise DocumentError(one_line(error)) from None
    return Document(experiment, read.results)


def interventions_to_json(interventions: Intervention | Sequence[Intervention]) -> str:
    """One or several interventions as a JSON list, short enough for a URL."""
    return json.dumps([_intervention_dict(item) for item in as_tuple(interventions)], ensure_ascii=False)


def interventions_from_json(text: str) -> list[Intervention]:
    """The list that `interventions_to_json` wrote; `DocumentError` for anything else."""
    read = validate(parse_json(text, most=MAX_LIST_BYTES), _Interventions, what="The list of interventions")
    return [item.as_value() for item in read]


def _experiment_dict(experiment: Experiment) -> dict[str, Any]:
    if not experiment.model:
        raise AtlasError("The experiment has no model. Set the name of its model.")
    newest = any(isinstance(item, SetTo | Patch) for item in experiment.interventions)
    return {
        "format": FORMAT,
        "version": VERSION if newest else 2,
        "model": {
            "name": experiment.model,
            "weights_sha256": experiment.weights_sha256,
            **({"config_sha256": experiment.config_sha256} if experiment.config_sha256 else {}),
        },
        **{name: value for name in ("atlas_id", "fact_id") if (value := getattr(experiment, name))},
        "interventions": [_intervention_dict(item) for item in experiment.interventions],
        "prompts": [_prompt_dict(item) for item in experiment.prompts],
        "seed": experiment.seed,
        "draws": experiment.draws,
    }


def _intervention_dict(item: Intervention) -> dict[str, Any]:
    return {"kind": kind_of(item), **vars(item), "neurons": [str(neuron) for neuron in item.neurons]}


def _prompt_dict(item: ExperimentPrompt) -> dict[str, str]:
    origin = {"fact_id": item.prompt.fact_id, "template_id": item.prompt.template_id}
    plain = {"group": item.group, "text": item.prompt.text, "answer": item.prompt.answer}
    return plain | {name: value for name, value in origin.items() if value}


def _results_dict(results: ExperimentResults) -> dict[str, Any]:
    return {
        "undo_is_exact": results.undo_is_exact,
        "device": results.device,
        "dtype": results.dtype,
        "random_neurons": [[str(neuron) for neuron in draw] for draw in results.random_neurons],
        "prompts": [
            {name: value for name, value in asdict(item).items() if value or not name.startswith("new_")}
            for item in results.prompts
        ],
    }


# As a link -------------------------------------------------------------------------------------------


def to_link(experiment: Experiment) -> str:
    """The experiment as the value of a URL's parameter."""
    plain = json.dumps(_experiment_dict(experiment), ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(zlib.compress(plain.encode(), 9)).decode().rstrip("=")


def from_link(text: str, *, most: int = MAX_LINK_BYTES) -> Experiment:
    """The experiment in a text that `to_link` wrote, inflated to at most `most` bytes."""
    # Deflate never makes a text of this size a tenth longer, and base64 makes it a third longer.
    if len(text) > 1000 + most * 3 // 2:
        raise DocumentError(
            f"The link has {len(text):,} characters, more than any experiment's link. {REMEDY}"
        )
    broken = DocumentError(f"The link is not an experiment: it is cut off or was changed. {REMEDY}")
    if not _LINK.fullmatch(text):
        raise broken
    inflate = zlib.decompressobj()
    try:
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        plain = inflate.decompress(packed, most + 1)
        if len(plain) > most:
            raise DocumentError(f"The link's experiment is larger than {most:,} bytes. Make it smaller.")
        if not inflate.eof or inflate.unused_data:
            raise broken
        return from_json(plain.decode(), most=most)
    except (binascii.Error, zlib.error, UnicodeDecodeError):
        raise broken from None
