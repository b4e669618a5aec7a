"""The neurons that the replication published for bert-base-uncased, as an atlas. Nothing is computed here.

    print(import_published(source, pararel, out=Path("out/published")))

EleutherAI's `knowledge-neurons` replicates Dai et al. (2022) and publishes the refined neurons of every
PARAREL fact: eight JSON files, uuid → [[layer, neuron], …]. Its neurons of BERT are taken after the
nonlinearity, so they are the down-projection's inputs, as everywhere in this project.

1. Files: from folders, else from the cache, else from their public repositories at a pinned commit.
2. Read: every entry is checked before anything is written; what is wrong is named with its file.
3. Join: each uuid is a fact of PARAREL, and every fact has its entry. Then the files' sha256.
4. Write: the tables that follow, the manifest last.

Only the neurons were published: no scores, no probabilities, no effects. Those columns are null, those
tables absent, and the app says "not measured in this atlas".
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.datasets import Dataset
from atlas.datasets import pararel as pararel_files
from atlas.datasets.fetching import Published, fetched, sha256
from atlas.datasets.pararel import load_pararel
from atlas.errors import BuildError, DatasetError
from atlas.refinement import MODES
from atlas.store.manifest import DatasetRecord, Manifest, MethodRecord, ModelRecord, record_files
from build.output import summary
from build.output.check import check_rows
from build.output.tables import distinct_neurons
from build.output.writer import Output
from build.run import code_version

REPOSITORY = "EleutherAI/knowledge-neurons"
REVISION = "be1a84adafd6e973ab0ee012527ac1988632a5e8"
BASE_URL = f"https://raw.githubusercontent.com/{REPOSITORY}/{REVISION}/bert_base_uncased_neurons"
LICENCE = "MIT"
ATLAS_ID = "pararel-bert-base-uncased-published"
MODEL = "bert-base-uncased"
N_LAYERS = 12
N_NEURONS = 3072
STEPS = 20
_LONGEST_SHOWN = 60

HASHES = {
    f"bert-base-uncased_pararel_neurons_{place}.json": digest
    for place, digest in enumerate(
        (
            "654e2723e9803f09e21a0c005b554e7ce8b64c227973b5d657f1c0aecc47b339",
            "275f432301ff5f601ba2b25d4e134964093a95b26c7627d7e4746fe842edf875",
            "1686e1c525164f8482b87a4a6692f67762aa3f0bef34f3347380974ba965c8ce",
            "6117c7febd328d772400041e2aa22e532a0cb58b3868af68b81e61bce9e31dcf",
            "f6121cb84a1c2e635d8aca8093b065afa0cbe4be8a4a4412442461e6dea9dcf6",
            "a2d3ca4ede2f9367e1cab083dcb4e9a120482500429da8797f99ce89310b30e9",
            "0e984f9e1c17d17bb0459c412bb1ccd79c213a856990171942d520db0d4de785",
            "47313b258663369ee5f1606bff719a21853cd97a7a61367d8de3bf234e4fc348",
        )
    )
}

Neurons = dict[str, list[tuple[int, int]]]
"""Uuid of a fact → its neurons as (layer, index)."""
Report = Callable[[float, str], None]


def import_published(
    source: Path | None,
    pararel: Path | None,
    *,
    out: Path,
    fresh: bool = False,
    progress: Report | None = None,
) -> str:
    """Write the atlas to `out`; returns a summary for a person.

    `source` and `pararel` are folders with the files, which are downloaded where None. `progress` is told how
    much is done, from 0 to 1, and what is done next. Raises an `AtlasError`, with nothing written, for
    whatever is not as published.
    """
    report = progress or (lambda share, text: None)
    output = Output(out)
    parameters = _parameters()
    if output.state(parameters, fresh=fresh) == "finished":
        return f"{summary.describe(out)}\nNothing was left to do; --fresh imports it again."
    report(0.0, "read: PARAREL")
    dataset = load_pararel(
        pararel, option="--pararel", say=_say, count=_counted(report, "fetch", "files of PARAREL", 0.0, 0.15)
    )
    neurons = read_neurons(source, dataset, report)
    output.claim(parameters, fresh=fresh)
    try:
        _write(output, dataset, neurons, parameters, report)
    finally:
        output.close()
    report(1.0, "done")
    return summary.describe(out)


def _counted(report: Report, step: str, of: str, start: float, end: float) -> Callable[[int, int], None]:
    """Tells `report` of things that are counted and take it from `start` to `end`."""
    return lambda done, total: report(start + (end - start) * done / total, f"{step}: {done} of {total} {of}")


def _parameters() -> dict[str, Any]:
    return {
        "model": MODEL,
        "dataset": "pararel",
        "method": "published neurons",
        "neurons_revision": REVISION,
        "neurons_hash": sha256(json.dumps(HASHES).encode()),
        "dataset_revision": pararel_files.REVISION,
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# 1. Files, 2. Read, 3. Join -----------------------------------------------------------------------------


def read_neurons(source: Path | None, dataset: Dataset, report: Report) -> Neurons:
    """The published neurons of every fact of the data set.

    Raises `DatasetError` naming the file, and the entry, that is malformed, foreign or missing.
    """
    if source is None:
        copy = "a folder with the replication's JSON files"
        published = Published("published-neurons", "the published neurons", copy, BASE_URL, REVISION, HASHES)
        of = "files of neurons"
        folder = fetched(published, say=_say, count=_counted(report, "fetch", of, 0.15, 0.35))
    else:
        folder = source.expanduser()
    uuids = {fact.fact_id for fact in dataset.facts}
    found: Neurons = {}
    file_of: dict[str, str] = {}
    changed: list[Path] = []
    read = _counted(report, "read", "files of neurons", 0.35, 0.6)
    for place, (name, digest) in enumerate(HASHES.items()):
        read(place, len(HASHES))
        path = folder / name
        content = _read(path)
        for uuid, neurons in _entries(path, content):
            if uuid not in uuids:
                raise DatasetError(
                    f"{path}, entry {_shown(uuid)}: no fact of PARAREL has this uuid. "
                    "Copy the file from its publisher again."
                )
            if uuid in found:
                again = "" if file_of[uuid] == name else f" in {file_of[uuid]}"
                raise DatasetError(
                    f"{path}, entry {_shown(uuid)}: the uuid was used before{again}. "
                    "Copy the file from its publisher again."
                )
            found[uuid] = [_neuron(path, uuid, each) for each in neurons]
            file_of[uuid] = name
            if len(set(found[uuid])) < len(neurons):
                raise DatasetError(
                    f"{path}, entry {_shown(uuid)}: a neuron is listed twice. "
                    "Copy the file from its publisher again."
                )
        if sha256(content) != digest:
            changed.append(path)
    if changed:
        raise DatasetError(
            f"{changed[0]} is not the file published at commit {REVISION[:12]}: its sha256 differs. "
            "Copy it from there again."
        )
    missing = next((fact.fact_id for fact in dataset.facts if fact.fact_id not in found), None)
    if missing is not None:
        raise DatasetError(
            f"No file of {folder} has an entry for PARAREL's fact {missing}. "
            "Pass the PARAREL that the neurons were found on."
        )
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}). "
            "Point --source at a folder with the replication's eight JSON files."
        ) from None


class _Pairs(list):
    """The (key, value) pairs of a JSON object in order; a key that is written twice is there twice."""


def _entries(path: Path, content: bytes) -> list[tuple[str, list[Any]]]:
    """(uuid, its list of neurons) for each entry of a file."""
    try:
        entries = json.loads(content, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is no JSON ({error}). Copy the file from its publisher again.") from None
    if not isinstance(entries, _Pairs):
        raise DatasetError(
            f"{path} is no JSON object of uuids and neurons. Copy the file from its publisher again."
        )
    for uuid, neurons in entries:
        if not isinstance(neurons, list) or isinstance(neurons, _Pairs):
            raise DatasetError(
                f"{path}, entry {_shown(uuid)}: {_shown(neurons)} is no list of neurons. "
                "Copy the file from its publisher again."
            )
    return entries


def _neuron(path: Path, uuid: str, pair: Any) -> tuple[int, int]:
    """A neuron of the model; raises `DatasetError` for anything else."""
    # `type`, since true and false are ints to isinstance.
    if isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is type(pair[1]) is int:
        layer, neuron = pair
        if 0 <= layer < N_LAYERS and 0 <= neuron < N_NEURONS:
            return layer, neuron
    raise DatasetError(
        f"{path}, entry {_shown(uuid)}: {_shown(pair)} is no neuron of {MODEL}, which has layers 0 to "
        f"{N_LAYERS - 1} with neurons 0 to {N_NEURONS - 1}. Copy the file from its publisher again."
    )


def _shown(value: Any) -> str:
    """A piece of a file, short and on one line."""
    text = json.dumps(dict(value) if isinstance(value, _Pairs) else value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"


# 4. Write -----------------------------------------------------------------------------------------------


def _write(
    output: Output, dataset: Dataset, neurons: Neurons, parameters: dict[str, Any], report: Report
) -> None:
    report(0.6, "join: facts, prompts and neurons")
    knowledge = _knowledge_neurons(dataset, neurons)
    output.write_table("relations", _relations(dataset))
    output.write_table("facts", _facts(dataset, neurons))
    report(0.75, "write: prompts")
    output.write_table("prompts", _prompts(dataset))
    report(0.9, "write: neurons")
    output.write_table("knowledge_neurons", knowledge)
    output.write_table("neurons", distinct_neurons(knowledge))
    report(0.95, "check: what was written")
    manifest = _manifest(output, dataset, parameters)
    problems = check_rows(output.folder, manifest).problems
    if problems:
        raise BuildError(
            f"The tables contradict themselves, so the atlas is not finished: {'; '.join(problems)}. "
            "Report this."
        )
    output.finish(manifest)


def _relations(dataset: Dataset) -> list[dict[str, Any]]:
    counts: dict[str, int] = {}
    for fact in dataset.facts:
        counts[fact.relation_id] = counts.get(fact.relation_id, 0) + 1
    return [
        {
            "relation_id": relation.relation_id,
            "label": relation.label,
            "n_facts": counts[relation.relation_id],
            "n_templates": len(dataset.templates_of(relation.relation_id)),
        }
        for relation in dataset.relations
        if relation.relation_id in counts
    ]


def _facts(dataset: Dataset, neurons: Neurons) -> list[dict[str, Any]]:
    n_templates = {r.relation_id: len(dataset.templates_of(r.relation_id)) for r in dataset.relations}
    return [
        {
            "fact_id": fact.fact_id,
            "relation_id": fact.relation_id,
            "subject": fact.subject,
            "object": fact.object,
            "n_prompts": n_templates[fact.relation_id],
            "n_neurons": len(neurons[fact.fact_id]),
        }
        for fact in dataset.facts
    ]


def _prompts(dataset: Dataset) -> pa.Table:
    """What the replication asked: every template, none of them held out."""
    columns: dict[str, list[Any]] = {"fact_id": [], "template_id": [], "text": []}
    for fact in dataset.facts:
        for template in dataset.templates_of(fact.relation_id):
            prompt = template.prompt(fact)
            columns["fact_id"].append(fact.fact_id)
            columns["template_id"].append(template.template_id)
            columns["text"].append(prompt.text)
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    return table.append_column("held_out", pa.repeat(False, table.num_rows))


def _knowledge_neurons(dataset: Dataset, neurons: Neurons) -> pa.Table:
    pairs = [(fact, *each) for fact in dataset.facts for each in neurons[fact.fact_id]]
    return pa.table(
        {
            "fact_id": pa.array([fact.fact_id for fact, _, _ in pairs], pa.string()),
            "relation_id": pa.array([fact.relation_id for fact, _, _ in pairs], pa.string()),
            "layer": pa.array([layer for _, layer, _ in pairs], pa.int16()),
            "neuron": pa.array([neuron for _, _, neuron in pairs], pa.int32()),
        }
    )


def _manifest(output: Output, dataset: Dataset, parameters: dict[str, Any]) -> Manifest:
    """What was published of the method; what was not (weights, device, time) stays null."""
    return Manifest(
        atlas_id=ATLAS_ID,
        model=ModelRecord(
            name=MODEL, activation_function="gelu", family="bert", n_layers=N_LAYERS, n_neurons=N_NEURONS
        ),
        dataset=DatasetRecord(
            id=dataset.dataset_id,
            revision=dataset.revision,
            hash=dataset.dataset_hash,
            licence=dataset.licence,
        ),
        method=MethodRecord(
            name="integrated_gradients",
            rule="endpoints",
            max_points=STEPS,
            refinement=MODES["replication"].to_dict(),
            stored_fraction=None,
            held_out="No template: the replication found its neurons on all of them.",
            options={
                "parameters": parameters,
                "published": {
                    "repository": REPOSITORY,
                    "revision": REVISION,
                    "licence": LICENCE,
                    "parameters_from": "the defaults of its pararel_evaluate.py",
                },
            },
        ),
        files=record_files(output.folder),
        code_version=code_version(),
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        notes=(
            f"Imported: the refined neurons that {REPOSITORY} published (commit {REVISION[:12]}, {LICENCE}), "
            "joined with PARAREL's facts and prompts. Scores, probabilities and effects were not published."
        ),
    )
