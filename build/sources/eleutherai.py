"""EleutherAI's result files, read and written: a fact's neurons, and what changing them does.

    neurons = read_neurons(contents, shape, dataset)          # uuid → [(layer, index), …]
    results = read_results(contents, neurons)                 # uuid → Results
    write_files(folder, "pocket-bert", neurons, results)

`pararel_evaluate.py` of their `knowledge-neurons` writes two JSON files a GPU:
``MODEL_pararel_neurons_N.json``, uuid → [[layer, neuron], …], and ``MODEL_pararel_results_N.json``, uuid →
{"suppression" and "enhancement": {"related" and "unrelated": {"pct_change": [p_after / p_before - 1, …],
"correct_before": [whether the likeliest token is the answer, …], "correct_after": […]}}, "n_refined_neurons":
…}, one number a prompt: related prompts are the fact's, in the order of its templates; unrelated ones are
those of another fact, which the file does not name.

Every entry is checked; an error names the file and the entry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atlas.datasets import Dataset
from atlas.errors import DatasetError
from atlas.files import whole_file
from atlas.validation import problem_of

INTERVENTIONS = {"suppression": "suppress", "enhancement": "amplify"}
_LARGEST = 3e38  # of a 32-bit float
_MOST_SHOWN = 60

FactNeurons = dict[str, list[tuple[int, int]]]
"""Uuid of a fact → its neurons as (layer, index)."""

Contents = Mapping[Path, bytes]


@dataclass(frozen=True)
class Shape:
    """A model's name and sizes; a size that is not known is not checked."""

    model: str
    n_layers: int | None = None
    n_neurons: int | None = None


class Group(BaseModel):
    """A number a prompt: the answer's relative change, and whether it came first before and after."""

    model_config = ConfigDict(strict=True)
    pct_change: list[Annotated[float, Field(ge=-1, le=_LARGEST, allow_inf_nan=False)]] = []
    correct_before: list[bool] = []
    correct_after: list[bool] = []

    @model_validator(mode="after")
    def _as_long(self) -> Self:
        if not len(self.pct_change) == len(self.correct_before) == len(self.correct_after):
            raise ValueError("must have as many correct_before and correct_after as pct_change")
        return self


class Changes(BaseModel):
    related: Group
    unrelated: Group


class Results(BaseModel):
    """What changing a fact's neurons does to its prompts and to those of another fact."""

    suppression: Changes
    enhancement: Changes
    n_refined_neurons: Annotated[int, Field(strict=True, ge=0)]

    @property
    def n_prompts(self) -> int:
        return len(self.suppression.related.pct_change)


def find_files(folder: Path, kind: str) -> list[Path]:
    """The files of a kind, 'neurons' or 'results', in a folder."""
    return sorted(folder.glob(f"*{kind}_*.json"))


# Read ---------------------------------------------------------------------------------------------------


def read_neurons(
    contents: Contents, shape: Shape, dataset: Dataset, *, done: Callable[[int], None] = lambda place: None
) -> FactNeurons:
    """Each fact's neurons; ``done(n)`` is called before each file. Raises `DatasetError`."""
    uuids = {fact.fact_id for fact in dataset.facts}
    found: FactNeurons = {}
    for path, uuid, neurons in _entries(contents, done):
        if uuid not in uuids:
            whose = "PARAREL" if dataset.dataset_id == "pararel" else dataset.dataset_id
            raise malformed(path, f"no fact of {whose} has this uuid", uuid)
        found[uuid] = neurons_of(path, uuid, neurons, shape)
    return found


def neurons_of(path: Path, entry: Any, neurons: Any, shape: Shape) -> list[tuple[int, int]]:
    """A list of neurons of the model; raises `DatasetError` for anything else."""
    if not isinstance(neurons, list):
        raise malformed(path, f"{_shown(neurons)} is not a list of neurons", entry)
    found = [_neuron(path, entry, each, shape) for each in neurons]
    if len(set(found)) < len(found):
        raise malformed(path, "a neuron is listed twice", entry)
    return found


def _neuron(path: Path, entry: Any, pair: Any, shape: Shape) -> tuple[int, int]:
    # `type`, since true and false are ints to isinstance.
    if isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is type(pair[1]) is int:
        layer, neuron = pair
        if 0 <= layer < (shape.n_layers or 1 << 15) and 0 <= neuron < (shape.n_neurons or 1 << 31):
            return layer, neuron
    sizes = "" if shape.n_layers is None or shape.n_neurons is None else (
        f", which has layers 0 to {shape.n_layers - 1} with neurons 0 to {shape.n_neurons - 1}"
    )  # fmt: skip
    raise malformed(path, f"{_shown(pair)} is not a neuron of {shape.model}{sizes}", entry)


def read_results(
    contents: Contents,
    neurons: FactNeurons,
    n_templates: Mapping[str, int],
    *,
    done: Callable[[int], None] = lambda place: None,
) -> dict[str, Results]:
    """Each fact's results; n_templates: of each fact, no fewer than its prompts. Raises `DatasetError`."""
    found: dict[str, Results] = {}
    for path, uuid, entry in _entries(contents, done):
        try:
            results = Results.model_validate(entry)
        except ValidationError as error:
            raise malformed(path, problem_of(error, "the entry"), uuid) from error
        if uuid not in neurons:
            raise malformed(path, "no file of neurons has this uuid", uuid)
        if results.n_refined_neurons != len(neurons[uuid]):
            raise malformed(
                path,
                f"it has results of {results.n_refined_neurons} neurons, and the file of neurons lists "
                f"{len(neurons[uuid])}",
                uuid,
            )
        if len(results.enhancement.related.pct_change) != results.n_prompts:
            raise malformed(path, "suppression and enhancement have different numbers of prompts", uuid)
        if results.n_prompts > n_templates[uuid]:
            raise malformed(
                path,
                f"it has {results.n_prompts} prompts, and its relation {n_templates[uuid]} templates",
                uuid,
            )
        found[uuid] = results
    return found


def malformed(path: Path, problem: str, entry: Any = None) -> DatasetError:
    """The error for a file, and an entry of it, that is not of this form."""
    where = "" if entry is None else f", entry {_shown(entry)}"
    return DatasetError(f"{path}{where}: {problem}. Correct the file, or copy it from its publisher again.")


class _Twice(Exception):
    """A key that an object has twice."""


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for key, value in pairs:
        if key in entries:
            raise _Twice(key)
        entries[key] = value
    return entries


def _entries(contents: Contents, done: Callable[[int], None]) -> Iterator[tuple[Path, str, Any]]:
    """(file, uuid, entry) for each entry of the files."""
    file_of: dict[str, Path] = {}
    for place, (path, content) in enumerate(contents.items()):
        done(place)
        for uuid, entry in parse_json(path, content, dict).items():
            if uuid in file_of:
                raise malformed(path, f"the uuid was used before in {file_of[uuid].name}", uuid)
            file_of[uuid] = path
            yield path, uuid, entry


def parse_json(path: Path, content: bytes, kind: type, where: Any = None) -> Any:
    """A JSON object (`dict`) or list; raises `DatasetError` for anything else."""
    try:
        value = json.loads(content, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise malformed(path, f"it is not JSON ({error})", where) from None
    except _Twice as twice:
        raise malformed(path, "the key was used before", twice.args[0]) from None
    if not isinstance(value, kind):
        raise malformed(path, f"it is not a JSON {'object of uuids' if kind is dict else 'list'}", where)
    return value


def _shown(value: Any) -> str:
    """A piece of a file, short and on one line."""
    text = json.dumps(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"


def effects_rows(dataset: Dataset, results: Mapping[str, Results]) -> pd.DataFrame:
    """Rows of `effects`, with what `summarize` takes beside them.

    The unrelated prompts are asked with the fact's own neurons. Of their "enhancement" there are no rows:
    there the script suppresses, too.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _EFFECT}
    for fact in dataset.facts:
        found = results.get(fact.fact_id)
        if found is None:
            continue
        known = is_known(found.suppression.related)
        templates = [template.template_id for template in dataset.templates_of(fact.relation_id)]
        for name, group in (("suppression", "own"), ("enhancement", "own"), ("suppression", "unrelated")):
            own = group == "own"
            changes = getattr(found, name)
            changes = changes.related if own else changes.unrelated
            asked_known = is_known(changes)
            for place, (change, before, after) in enumerate(
                zip(changes.pct_change, changes.correct_before, changes.correct_after, strict=True)
            ):
                row = (
                    fact.fact_id,
                    fact.fact_id if own else None,
                    templates[place] if own else f"unnamed.{place}",
                    *(INTERVENTIONS[name], group, found.n_refined_neurons),
                    *(1 if before else None, 1 if after else None, change),
                    *(fact.relation_id, known, asked_known),
                )
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
    numbers = {"rank_before": "Int32", "rank_after": "Int32", "change": "float32"}
    return pd.DataFrame(columns).astype(numbers).assign(held_out=False)


_EFFECT = ("fact_id", "prompt_fact_id", "template_id", "intervention", "group", "n_neurons", "rank_before",
           "rank_after", "change", "relation_id", "known", "asked_known")  # fmt: skip


def is_known(asked: Group) -> bool:
    """Whether the answer comes first on more than half of the prompts."""
    return sum(asked.correct_before) * 2 > len(asked.correct_before)


# Write --------------------------------------------------------------------------------------------------


def write_files(
    folder: Path,
    model: str,
    neurons: FactNeurons,
    results: Mapping[str, Results],
    relations: Mapping[str, str],
) -> list[Path]:
    """Write the two files, the second only with results; returns their paths. relations: of each fact."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {"neurons": neurons}
    if results:
        files["results"] = {uuid: _plain(each, relations[uuid]) for uuid, each in results.items()}
    paths = []
    for kind, entries in files.items():
        paths.append(folder / f"{model}_pararel_{kind}_0.json")
        with whole_file(paths[-1]) as file:
            file.write(json.dumps(entries, indent=4).encode())
    return paths


def _plain(results: Results, relation: str) -> dict[str, Any]:
    """An entry with the fields that the original's has."""
    plain = results.model_dump()
    for name in INTERVENTIONS:
        for group in plain[name].values():
            group["n_prompts"] = len(group["pct_change"])
    return {**plain, "relation_name": relation}


def facts_without(neurons: Collection[str], dataset: Dataset) -> list[str]:
    """The facts of the data set that no entry is about."""
    return [fact.fact_id for fact in dataset.facts if fact.fact_id not in neurons]
