"""The neurons that the replication published for bert-base-uncased, as an atlas. Nothing is computed here.

    print(import_published(source, pararel, out=Path("out/published")))

EleutherAI's `knowledge-neurons` replicates Dai et al. (2022) and publishes the refined neurons of every
PARAREL fact: eight JSON files, uuid → [[layer, neuron], …]. Its neurons of BERT are taken after the
nonlinearity, so they are the down-projection's inputs, as everywhere in this project.

1. Files: from folders, else from the cache, else from their public repositories at a pinned commit.
2. Read: every entry is checked before anything is written; an error names the file and the entry.
3. Join: each uuid is a fact of PARAREL, and every fact has its entry. Then the files' sha256.
4. Write: the tables that follow, the manifest last.

Only the neurons were published: no scores, no probabilities, no effects. Those columns are null, those
tables absent, and the app says "not measured in this atlas".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas import cli
from atlas.datasets import Dataset
from atlas.datasets import pararel as pararel_files
from atlas.datasets.fetching import PublishedFiles, fetch_files, sha256
from atlas.datasets.pararel import load_pararel
from atlas.errors import DatasetError
from atlas.models.known import OnProgress
from atlas.refinement import MODES
from atlas.store.manifest import Manifest, MethodRecord, ModelRecord, record_files
from build.output.check import check_before_finish
from build.output.summary import describe_atlas
from build.output.tables import distinct_neurons, relations_table, text_columns
from build.output.writer import Output
from build.run import code_version, dataset_record, today

REPOSITORY = "EleutherAI/knowledge-neurons"
NEURONS_REVISION = "be1a84adafd6e973ab0ee012527ac1988632a5e8"
NEURONS_URL = f"https://raw.githubusercontent.com/{REPOSITORY}/{NEURONS_REVISION}/bert_base_uncased_neurons"
NEURONS_LICENCE = "MIT"
PUBLISHED_ATLAS_ID = "pararel-bert-base-uncased-published"
MODEL = "bert-base-uncased"
_N_LAYERS = 12
_N_NEURONS = 3072
_STEPS = 20
_MOST_SHOWN = 60

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

FactNeurons = dict[str, list[tuple[int, int]]]
"""Uuid of a fact → its neurons as (layer, index)."""


def import_published(
    source: Path | None,
    pararel: Path | None,
    *,
    out: Path,
    fresh: bool = False,
    progress: OnProgress | None = None,
) -> str:
    """Write the atlas to `out`; returns a summary in words.

    `source` and `pararel` are folders with the files; None downloads them. ``progress(fraction, message)`` is
    called as it goes. Raises an `AtlasError`, with nothing written, for a file that is not as published.
    """
    report = progress or (lambda share, text: None)
    output = Output(out)
    parameters = _parameters()
    if output.state(parameters, fresh=fresh) == "finished":
        return f"{describe_atlas(out)}\nNothing was left to do; --fresh imports it again."
    report(0.0, "read: PARAREL")
    dataset = load_pararel(
        pararel,
        option="--pararel",
        say=cli.say,
        count=_counted(report, "fetch", "files of PARAREL", 0.0, 0.15),
    )
    neurons = read_neurons(source, dataset, report)
    output.claim(parameters, fresh=fresh)
    try:
        _write(output, dataset, neurons, parameters, report)
    finally:
        output.close()
    report(1.0, "done")
    return describe_atlas(out)


def _counted(report: OnProgress, step: str, of: str, start: float, end: float) -> Callable[[int, int], None]:
    """Passes counts on to `report`, as fractions from `start` to `end`."""
    return lambda done, total: report(start + (end - start) * done / total, f"{step}: {done} of {total} {of}")


def _parameters() -> dict[str, Any]:
    return {
        "model": MODEL,
        "dataset": "pararel",
        "method": "published neurons",
        "neurons_revision": NEURONS_REVISION,
        "neurons_hash": sha256(json.dumps(HASHES).encode()),
        "dataset_revision": pararel_files.REVISION,
    }


# 1. Files, 2. Read, 3. Join -----------------------------------------------------------------------------


def read_neurons(source: Path | None, dataset: Dataset, report: OnProgress) -> FactNeurons:
    """The published neurons of every fact of the data set.

    Raises `DatasetError` naming the file, and the entry, that is malformed, foreign or missing.
    """
    if source is None:
        copy = "a folder with the replication's JSON files"
        published = PublishedFiles(
            "published-neurons", "the published neurons", copy, NEURONS_URL, NEURONS_REVISION, HASHES
        )
        of = "files of neurons"
        folder = fetch_files(published, say=cli.say, count=_counted(report, "fetch", of, 0.15, 0.35))
    else:
        folder = source.expanduser()
    uuids = {fact.fact_id for fact in dataset.facts}
    found: FactNeurons = {}
    file_of: dict[str, str] = {}
    changed: list[Path] = []
    read = _counted(report, "read", "files of neurons", 0.35, 0.6)
    for place, (name, digest) in enumerate(HASHES.items()):
        read(place, len(HASHES))
        path = folder / name
        content = _read(path)
        for uuid, neurons in _entries(path, content):
            if uuid not in uuids:
                raise _malformed(path, "no fact of PARAREL has this uuid", uuid)
            if uuid in found:
                again = "" if file_of[uuid] == name else f" in {file_of[uuid]}"
                raise _malformed(path, f"the uuid was used before{again}", uuid)
            found[uuid] = [_neuron(path, uuid, each) for each in neurons]
            file_of[uuid] = name
            if len(set(found[uuid])) < len(neurons):
                raise _malformed(path, "a neuron is listed twice", uuid)
        if sha256(content) != digest:
            changed.append(path)
    if changed:
        raise DatasetError(
            f"{changed[0]} is not the file published at commit {NEURONS_REVISION[:12]}: its sha256 differs. "
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


def _malformed(path: Path, problem: str, uuid: Any = None) -> DatasetError:
    entry = "" if uuid is None else f", entry {_shown(uuid)}"
    return DatasetError(f"{path}{entry}: {problem}. Copy the file from its publisher again.")


class _Pairs(list):
    """The (key, value) pairs of a JSON object in order, with keys that occur twice."""


def _entries(path: Path, content: bytes) -> Iterator[tuple[str, list[Any]]]:
    """(uuid, its list of neurons) for each entry of a file."""
    try:
        entries = json.loads(content, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, f"it is not JSON ({error})") from None
    if not isinstance(entries, _Pairs):
        raise _malformed(path, "it is not a JSON object of uuids and neurons")
    for uuid, neurons in entries:
        if not isinstance(neurons, list) or isinstance(neurons, _Pairs):
            raise _malformed(path, f"{_shown(neurons)} is not a list of neurons", uuid)
        yield uuid, neurons


def _neuron(path: Path, uuid: str, pair: Any) -> tuple[int, int]:
    """A neuron of the model; raises `DatasetError` for anything else."""
    # `type`, since true and false are ints to isinstance.
    if isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is type(pair[1]) is int:
        layer, neuron = pair
        if 0 <= layer < _N_LAYERS and 0 <= neuron < _N_NEURONS:
            return layer, neuron
    raise _malformed(
        path,
        f"{_shown(pair)} is not a neuron of {MODEL}, which has layers 0 to {_N_LAYERS - 1} with neurons 0 to "
        f"{_N_NEURONS - 1}",
        uuid,
    )


def _shown(value: Any) -> str:
    """A piece of a file, short and on one line."""
    text = json.dumps(dict(value) if isinstance(value, _Pairs) else value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"


# 4. Write -----------------------------------------------------------------------------------------------


def _write(
    output: Output, dataset: Dataset, neurons: FactNeurons, parameters: dict[str, Any], report: OnProgress
) -> None:
    report(0.6, "join: facts, prompts and neurons")
    knowledge = _knowledge_neurons(dataset, neurons)
    n_templates = {r.relation_id: len(dataset.templates_of(r.relation_id)) for r in dataset.relations}
    facts = pa.table(
        {
            **text_columns(dataset.facts, "fact_id", "relation_id", "subject", "object"),
            "n_prompts": [n_templates[fact.relation_id] for fact in dataset.facts],
            "n_neurons": [len(neurons[fact.fact_id]) for fact in dataset.facts],
        }
    )
    output.write_table("relations", relations_table(dataset, facts, n_templates))
    output.write_table("facts", facts)
    report(0.75, "write: prompts")
    output.write_table("prompts", _prompts(dataset))
    report(0.9, "write: neurons")
    output.write_table("knowledge_neurons", knowledge)
    output.write_table("neurons", distinct_neurons(knowledge))
    report(0.95, "check: what was written")
    manifest = _manifest(output, dataset, parameters)
    check_before_finish(output.folder, manifest, remedy="Report this.")
    output.finish(manifest)


def _prompts(dataset: Dataset) -> pa.Table:
    """The replication's prompts: every template, none of them held out."""
    prompts = [
        template.prompt(fact) for fact in dataset.facts for template in dataset.templates_of(fact.relation_id)
    ]
    columns = text_columns(prompts, "fact_id", "template_id", "text")
    return pa.table({**columns, "held_out": pa.repeat(False, len(prompts))})


def _knowledge_neurons(dataset: Dataset, neurons: FactNeurons) -> pa.Table:
    rows = [(fact, *each) for fact in dataset.facts for each in neurons[fact.fact_id]]
    return pa.table(
        {
            **text_columns((fact for fact, _, _ in rows), "fact_id", "relation_id"),
            "layer": pa.array([layer for _, layer, _ in rows], pa.int16()),
            "neuron": pa.array([neuron for _, _, neuron in rows], pa.int32()),
        }
    )


def _manifest(output: Output, dataset: Dataset, parameters: dict[str, Any]) -> Manifest:
    """What was published of the method; the rest (weights, device, time) is null."""
    return Manifest(
        atlas_id=PUBLISHED_ATLAS_ID,
        model=ModelRecord(
            name=MODEL, activation_function="gelu", family="bert", n_layers=_N_LAYERS, n_neurons=_N_NEURONS
        ),
        dataset=dataset_record(dataset),
        method=MethodRecord(
            name="integrated_gradients",
            rule="endpoints",
            max_points=_STEPS,
            refinement=MODES["replication"].to_dict(),
            stored_fraction=None,
            held_out="No template: the replication found its neurons on all of them.",
            options={
                "parameters": parameters,
                "published": {
                    "repository": REPOSITORY,
                    "revision": NEURONS_REVISION,
                    "licence": NEURONS_LICENCE,
                    "parameters_from": "the defaults of its pararel_evaluate.py",
                },
            },
        ),
        files=record_files(output.folder),
        code_version=code_version(),
        created=today(),
        notes=(
            f"Imported: the refined neurons that {REPOSITORY} published (commit {NEURONS_REVISION[:12]}, "
            f"{NEURONS_LICENCE}), "
            "joined with PARAREL's facts and prompts. Scores, probabilities and effects were not published."
        ),
    )
