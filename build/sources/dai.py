"""The files of Dai et al.'s code (ACL 2022): scores of every prompt, and the knowledge neurons of every fact.

    found = read_folder(Path("results"), None, Shape("bert-base-cased", 12, 3072))

`1_analyze_mlm.py` reads `data_all.json` (`atlas.datasets.dai`) and writes ``TREx-all-P36.rlt.jsonl``: a line
a fact, for each of its prompts [{"tokens": …, "gold_obj": …, "pred_obj": …}, {"ig_gold": [[layer, neuron,
score], …], …}], the scores from a tenth of the prompt's largest up, as here. `2_get_kn.py` writes
``kn_bag-P36.json``: for each fact a list of [layer, neuron]. Lines and lists stand in the order of the
relation's facts.

1. Read `data_all.json`, then every list and every line; an error names the file and the place.
2. Facts: those with a list or a line. Scores become `attributions`; a fact is known where the model's first
   answer, `pred_obj`, is right on most of its prompts.
3. Neurons: the lists; where no file has lists, the mode `paper` finds them in the scores.

The baseline's files (`base_kn_bag-*.json`) and the neurons of relations (`kn_rel-*.json`) are not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.datasets import Dataset
from atlas.datasets.dai import FILE, REPOSITORY, load_dai
from atlas.errors import DatasetError
from atlas.neuron import Fact
from atlas.refinement import MODES, STORED_FRACTION, refine
from build.output.tables import text_columns
from build.sources.eleutherai import FactNeurons, Shape, malformed, neurons_of, parse_json

__all__ = ["MODEL", "REPOSITORY", "DaiFiles", "is_there", "read_folder"]

MODEL = "bert-base-cased"
_LISTS, _LINES = "kn_bag-*.json", "*.rlt.jsonl"
_Key = tuple[str, str]
"""(fact_id, template_id) of a prompt."""


@dataclass
class DaiFiles:
    """What the files hold. contents: by their names; note: where the neurons come from."""

    dataset: Dataset
    shape: Shape
    contents: dict[str, bytes]
    neurons: FactNeurons = field(default_factory=dict)
    known: dict[str, bool] = field(default_factory=dict)
    prompt_columns: dict[str, dict[_Key, Any]] = field(
        default_factory=lambda: {"top_token": {}, "max_score": {}}
    )
    attributions: list[dict[str, Any]] = field(default_factory=list)
    knowledge_neurons: pa.Table | None = None
    refinement: Mapping[str, Any] = field(default_factory=dict)
    note: str = "Neurons: as listed."


def is_there(folder: Path) -> bool:
    """Whether a folder, or its `kn`, has files of this form."""
    return bool(_paths(folder, _LISTS) or _paths(folder, _LINES))


def _paths(folder: Path, pattern: str) -> list[Path]:
    return sorted([*folder.glob(pattern), *folder.glob(f"kn/{pattern}")])


def read_folder(folder: Path, data: Path | None, shape: Shape) -> DaiFiles:
    """Everything in the folder. data: `data_all.json`, or its folder, where it lies elsewhere.

    Raises `DatasetError` naming the file and the place.
    """
    dataset = load_dai(data or folder)
    files = DaiFiles(dataset, shape, {})
    for path in _paths(folder, _LISTS):
        bags = parse_json(path, _content(files, path), list)
        for place, (fact, bag) in enumerate(_facts_of(path, dataset, len(bags), bags)):
            files.neurons[fact.fact_id] = neurons_of(path, place, bag, shape)
    has_lists = bool(files.neurons)
    for path in _paths(folder, _LINES):
        lines = _content(files, path).rstrip(b"\n").split(b"\n")
        for place, (fact, line) in enumerate(_facts_of(path, dataset, len(lines), lines)):
            _read_line(files, path, place, fact, parse_json(path, line, list, place))
    read = {*files.neurons, *files.known}
    files.dataset = replace(
        dataset, facts=tuple(fact for fact in dataset.facts if fact.fact_id in read)
    ).restricted()
    if not has_lists:
        _refine(files)
    for fact in files.dataset.facts:
        files.neurons.setdefault(fact.fact_id, [])
    return files


def _content(files: DaiFiles, path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}). Give a folder you may read.") from None
    files.contents[path.name] = content
    return content


def _facts_of(path: Path, dataset: Dataset, count: int, items: list[Any]) -> list[tuple[Fact, Any]]:
    """(fact, item) in the order of the relation that the file's name ends with."""
    relation_id = path.name.partition(".")[0].rpartition("-")[2]
    if relation_id not in {relation.relation_id for relation in dataset.relations}:
        raise malformed(path, f"{FILE} has no relation {relation_id}, which its name says")
    facts = dataset.facts_of(relation_id)
    if count > len(facts):
        raise malformed(path, f"it is about {count} facts, and {FILE} has {len(facts)} of {relation_id}")
    return list(zip(facts, items, strict=False))


def _read_line(files: DaiFiles, path: Path, place: int, fact: Fact, rows: list[Any]) -> None:
    templates = files.dataset.templates_of(fact.relation_id)
    if len(rows) != len(templates):
        raise malformed(path, f"it has {len(rows)} prompts, and the fact {len(templates)}", place)
    n_right = 0
    for number, (row, template) in enumerate(zip(rows, templates, strict=True)):
        where = f"{place}, prompt {number}"
        try:
            tokens, results = row
            gold, first, scores = tokens["gold_obj"], tokens["pred_obj"], results["ig_gold"]
        except (TypeError, ValueError, KeyError, IndexError):
            raise malformed(path, "it has no gold_obj, pred_obj and ig_gold", where) from None
        if gold != fact.object:
            raise malformed(path, f"gold_obj is not the fact's answer '{fact.object}'", where)
        if not isinstance(first, str) or not isinstance(scores, list):
            raise malformed(path, "pred_obj must be text and ig_gold a list", where)
        n_right += first == gold
        key = (fact.fact_id, template.template_id)
        files.prompt_columns["top_token"][key] = first
        found = _scores(path, where, scores, files.shape)
        if found:
            largest = max(found.values())
            files.prompt_columns["max_score"][key] = largest
            files.attributions += [
                {"fact_id": key[0], "template_id": key[1], "layer": layer, "neuron": neuron, "score": score}
                for (layer, neuron), score in found.items()
                if score > 0 and score >= STORED_FRACTION * largest
            ]
    files.known[fact.fact_id] = n_right * 2 > len(templates)


def _scores(path: Path, where: str, scores: list[Any], shape: Shape) -> dict[tuple[int, int], float]:
    """(layer, neuron) → score."""
    for each in scores:
        if not (isinstance(each, list) and len(each) == 3 and type(each[2]) in (int, float)):
            raise malformed(path, "ig_gold must be a list of [layer, neuron, score]", where)
        if not abs(each[2]) <= 1e30 or not math.isfinite(each[2]):
            raise malformed(path, "a score is not a finite number", where)
    neurons = neurons_of(path, where, [each[:2] for each in scores], shape)
    return {neuron: float(each[2]) for neuron, each in zip(neurons, scores, strict=True)}


def _refine(files: DaiFiles) -> None:
    """Step 3, from scores alone."""
    rule = MODES["paper"]
    keys = list(files.prompt_columns["max_score"])
    columns = {name: pa.array([key[place] for key in keys], pa.string())
               for place, name in enumerate(("fact_id", "template_id"))}  # fmt: skip
    largest = pa.array(files.prompt_columns["max_score"].values(), pa.float32())
    prompts = pa.table({**columns, "held_out": pa.repeat(False, len(keys)), "max_score": largest})
    facts = pa.table(text_columns(files.dataset.facts, "fact_id", "relation_id", "object"))
    if not files.attributions:
        return
    found = refine(pa.Table.from_pylist(files.attributions), prompts, facts, rule)
    rows = (found.rows[name].to_pylist() for name in ("fact_id", "layer", "neuron"))
    for fact_id, layer, neuron in zip(*rows, strict=True):
        files.neurons.setdefault(fact_id, []).append((layer, neuron))
    files.knowledge_neurons = found.rows
    files.refinement = {**rule.to_dict(), "shares": dict(found.shares)}
    files.note = "Neurons: found in the scores by the mode 'paper', since no file lists them."
