"""Results of the originals, published or people's own, as an atlas. Nothing is computed here.

    print(import_published(source, pararel, out=Path("out/published")))

EleutherAI's `knowledge-neurons` replicates Dai et al. (2022) and publishes, for every PARAREL fact, the
refined neurons and what suppressing and enhancing them does: eight JSON files of each kind. Its neurons of
BERT are taken after the nonlinearity, so they are the down-projection's inputs, as everywhere here. Files of
the same form that other people made, and those of Dai et al.'s code, are read, too
(`build.sources.eleutherai`, `build.sources.dai`); the manifest says that they are not the published ones.

1. Files: from folders, else from the cache, else from their public repositories at a pinned commit.
2. Read: every entry is checked before anything is written; an error names the file and the entry.
3. Join: each uuid is a fact of PARAREL. Published neurons cover every fact; of people's own, the facts that
   have an entry make up the atlas.
4. Write: the tables that follow, the manifest last.

The map that comes with the project, `pararel-bert-base-uncased`, is made with `own_templates`: PARAREL's
facts and this project's templates, without prompts and effects, so that no sentence of PARAREL's is in it.

Scores and probabilities are not in EleutherAI's files: those columns are null, and the app says "not measured
in this atlas". Its results are relative changes (`effects.change`); its unrelated "enhancement" is left out:
there the script suppresses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from atlas import cli
from atlas.datasets import Dataset, load_dataset
from atlas.datasets.dataset import NOT_PUBLISHED
from atlas.datasets.fetching import PublishedFiles, as_published, fetch_files, git_blob_id, sha256
from atlas.datasets.pararel import load_pararel, with_own_templates
from atlas.errors import BuildError, DatasetError
from atlas.models.known import OnProgress
from atlas.neuron import Template
from atlas.refinement import MODES
from atlas.store.atlas import bundled
from atlas.store.manifest import Manifest, MethodRecord, ModelRecord, record_files
from build.evidence.effects import summarize
from build.output.check import check_before_finish
from build.output.summary import describe_atlas
from build.output.tables import (
    distinct_neurons,
    mark_columns,
    relations_table,
    templates_table,
    text_columns,
)
from build.output.writer import Output
from build.plan import model_shape
from build.run import code_version, dataset_record, today
from build.sources import dai, eleutherai
from build.sources.eleutherai import FactNeurons, Results, Shape

REPOSITORY = "EleutherAI/knowledge-neurons"
NEURONS_REVISION = "be1a84adafd6e973ab0ee012527ac1988632a5e8"
NEURONS_URL = f"https://raw.githubusercontent.com/{REPOSITORY}/{NEURONS_REVISION}/bert_base_uncased_neurons"
NEURONS_LICENCE = "MIT"
PUBLISHED_ATLAS_ID = "pararel-bert-base-uncased-published"
MAP_ATLAS_ID = "pararel-bert-base-uncased"
MODEL = "bert-base-uncased"
_PUBLISHED_SHAPE = Shape(MODEL, 12, 3072)
_STEPS = 20

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
# The ids that git gives these files.
RESULT_BLOBS = {
    f"bert-base-uncased_pararel_results_{place}.json": blob
    for place, blob in enumerate(
        (
            "2aac35a563a171e5177a5a0d64f71679409f10a1",
            "69b57373981b60a1b2267bdfe935f2f30e11e86f",
            "917e1fadb55162d4ebac31186b5efed3217049e4",
            "96130e6b4e25626f3409768b677db36691925303",
            "822e3b9d7760d74215ae3fe7d1be39c5a8789dda",
            "d2da62e79b99e718b1f3594475051adea53bf169",
            "4ad6b9cc8d4dafedb8c5aac891c3d81798d5a28e",
            "8d8e8a48c0743d6c297f5395362231b8f5363567",
        )
    )
}
NONE_HELD_OUT = "No template: the replication found its neurons on all of them."
OWN_HELD_OUT = (
    "Every second template. All are this project's: the replication found its neurons on PARAREL's, which "
    "are not in this atlas."
)
LEFT_OUT = (
    "Left out of the results: the enhancement of unrelated facts, where the script suppresses instead of "
    "enhancing. Its unrelated facts have another uuid, but may have the same relation or answer; the files "
    "do not name them."
)


@dataclass
class Imported:
    """What was read, ready to be written. known: of facts where it was measured.

    templates: relation id → (template, held out). own_templates: they are this project's, and nothing else
    of the files tells this atlas from another one of theirs: its bytes are always the same.
    """

    dataset: Dataset
    neurons: FactNeurons
    shape: Shape
    method: MethodRecord
    atlas_id: str
    notes: str
    n_prompts: Mapping[str, int]
    templates: Mapping[str, Sequence[tuple[Template, bool]]]
    own_templates: bool = False
    known: Mapping[str, bool] = field(default_factory=dict)
    prompt_columns: Mapping[str, Mapping[tuple[str, str], Any]] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)


def import_published(
    source: Path | None,
    pararel: Path | None,
    *,
    out: Path,
    results: Path | None = None,
    model: str | None = None,
    dataset: str = "pararel",
    own_templates: bool = False,
    fresh: bool = False,
    progress: OnProgress | None = None,
) -> str:
    """Write the atlas to `out`; returns a summary in words.

    `source` is a folder with files of EleutherAI's or of Dai et al.'s code, `results` one with EleutherAI's
    results where they lie elsewhere, `pararel` a folder of the data set; None downloads what is published.
    `model` is the model's name where the files' names do not say it. `own_templates` takes this project's
    templates in place of PARAREL's, and leaves out prompts and results. ``progress(fraction, message)`` is
    called as it goes. Raises an `AtlasError`, with nothing written, for a file that cannot be read.
    """
    report = progress or (lambda share, text: None)
    of_dai = source is not None and dai.is_there(source.expanduser())
    if own_templates and (dataset != "pararel" or results is not None or of_dai):
        raise BuildError(
            "--own-templates is for EleutherAI's neurons of PARAREL's facts, without results. Leave it out, "
            "or --dataset and --results."
        )
    if of_dai:
        report(0.0, "read: files of Dai et al.'s code")
        imported = _read_dai(source.expanduser(), pararel, model)
    else:
        if source is not None:
            _find(source, "neurons", "--source")  # before anything is fetched
        data = _load(dataset, pararel, report)
        if own_templates:
            data = with_own_templates(data)
        imported = _read_eleutherai(source, results, model, data, report, own_templates=own_templates)
    parameters = imported.method.options["parameters"]
    output = Output(out)
    if output.claim(parameters, fresh=fresh) == "finished":
        return f"{describe_atlas(out)}\nNothing was left to do; --fresh imports it again."
    try:
        _write(output, imported, report)
    finally:
        output.close()
    report(1.0, "done")
    return f"{describe_atlas(out)}{_also_bundled(imported.atlas_id, out)}"


def _also_bundled(atlas_id: str, out: Path) -> str:
    """A line where an atlas that comes with the project has the same id."""
    folder = bundled().get(atlas_id)
    if folder is None or folder.resolve() == out.resolve():
        return ""
    return f"\nThe id {atlas_id} opens the atlas that comes with the project; open this one by its folder."


def _counted(report: OnProgress, step: str, of: str, start: float, end: float) -> Callable[[int, int], None]:
    """Passes counts on to `report`, as fractions from `start` to `end`."""
    return lambda done, total: report(start + (end - start) * done / total, f"{step}: {done} of {total} {of}")


# 1. Files, 2. Read, 3. Join -----------------------------------------------------------------------------


def _load(name: str, source: Path | None, report: OnProgress) -> Dataset:
    report(0.0, f"read: {'PARAREL' if name == 'pararel' else name}")
    if name != "pararel":
        return load_dataset(name, source=source)
    count = _counted(report, "fetch", "files of PARAREL", 0.0, 0.15)
    return load_pararel(source, option="--pararel", say=cli.say, count=count)


def _read_eleutherai(
    source: Path | None,
    results: Path | None,
    model: str | None,
    dataset: Dataset,
    report: OnProgress,
    *,
    own_templates: bool,
) -> Imported:
    """Raises `DatasetError` naming the file, and the entry, that is malformed or missing."""
    neuron_files = _files(source, "neurons", "--source", report)
    published = _digests(neuron_files, sha256) == set(HASHES.values())
    shape = _PUBLISHED_SHAPE if published else _shape(neuron_files, model)

    def counted(of: str, files: Mapping[Path, bytes], start: float, end: float) -> Callable[[int], None]:
        count = _counted(report, "read", f"files of {of}", start, end)
        return lambda place: count(place, len(files))

    done = counted("neurons", neuron_files, 0.35, 0.45)
    neurons = eleutherai.read_neurons(neuron_files, shape, dataset, done=done)
    missing = eleutherai.facts_without(neurons, dataset)
    if published and missing:
        raise DatasetError(
            f"The published neurons have no entry for PARAREL's fact {missing[0]}. "
            "Pass the PARAREL that they were found on."
        )
    chosen = tuple(fact for fact in dataset.facts if fact.fact_id in neurons)
    if not chosen:
        raise DatasetError(f"{next(iter(neuron_files))} has no entry. Give files with a fact's neurons each.")
    dataset = replace(dataset, facts=chosen).restricted()
    n_templates = {fact.fact_id: len(dataset.templates_of(fact.relation_id)) for fact in dataset.facts}
    # Results are of PARAREL's templates.
    result_files = {} if own_templates else _result_files(source, results, report)
    done = counted("results", result_files, 0.5, 0.6)
    found = eleutherai.read_results(result_files, neurons, n_templates, done=done)
    of_results = _digests(result_files, git_blob_id) == set(RESULT_BLOBS.values())
    record = {
        "neurons": "the published files" if published else NOT_PUBLISHED,
        "results": "none" if not found else "the published files" if of_results else NOT_PUBLISHED,
        **({"templates": "this project's"} if own_templates else {"left_out": LEFT_OUT}),
    }
    method = _eleutherai_method(dataset, neuron_files, result_files, shape.model, record)
    atlas_id = (MAP_ATLAS_ID if own_templates else PUBLISHED_ATLAS_ID) if published else None
    if own_templates:
        method, n_templates = replace(method, held_out=OWN_HELD_OUT), dict.fromkeys(n_templates, 0)
    return Imported(
        dataset,
        neurons,
        shape,
        method,
        atlas_id or _atlas_id(dataset, shape),
        _notes(published, record["results"], own_templates=own_templates),
        # Who measured on fewer prompts took the first ones.
        {**n_templates, **{uuid: each.n_prompts for uuid, each in found.items()}},
        _held_out(dataset, every_second=own_templates),
        own_templates,
        {uuid: eleutherai.is_known(each.suppression.related) for uuid, each in found.items()},
        tables=_effect_tables(dataset, found),
    )


def _held_out(dataset: Dataset, *, every_second: bool = False) -> dict[str, list[tuple[Template, bool]]]:
    """Relation id → its templates and whether each is held out: every second one, or none."""
    return {
        relation.relation_id: [
            (template, every_second and place % 2 == 1)
            for place, template in enumerate(dataset.templates_of(relation.relation_id))
        ]
        for relation in dataset.relations
    }


def _files(folder: Path | None, kind: str, option: str, report: OnProgress) -> dict[Path, bytes]:
    """The contents of the files of neurons or results: a folder's, else those published."""
    if folder is None:
        copy = f"a folder with the replication's JSON files of {kind}"
        of = f"files of {kind}"
        if kind == "neurons":
            published = PublishedFiles(
                "published-neurons", "the published neurons", copy, NEURONS_URL, NEURONS_REVISION, HASHES
            )
            span = (0.15, 0.35)
        else:
            published = PublishedFiles(
                "published-results",
                "the published results",
                *(copy, NEURONS_URL, NEURONS_REVISION, RESULT_BLOBS),
                *(git_blob_id, "git blob ids"),
            )
            span = (0.45, 0.5)
        count = _counted(report, "fetch", of, *span)
        folder = fetch_files(published, option=option, say=cli.say, count=count)
        return {folder / name: _read(folder / name, option) for name in published.hashes}
    return {path: _read(path, option) for path in _find(folder, kind, option)}


def _find(folder: Path, kind: str, option: str) -> list[Path]:
    paths = eleutherai.find_files(folder.expanduser(), kind)
    if not paths:
        raise DatasetError(
            f"{folder} has no file *{kind}_*.json. "
            f"Point {option} at a folder with the replication's JSON files."
        )
    return paths


def _result_files(source: Path | None, results: Path | None, report: OnProgress) -> dict[Path, bytes]:
    """The results: of `results`, else beside the neurons, else those published; none where there are none."""
    if results is not None or (source is not None and eleutherai.find_files(source.expanduser(), "results")):
        return _files(results or source, "results", "--results", report)
    if source is not None:
        return {}
    try:
        return _files(None, "results", "--results", report)
    except DatasetError as error:
        cli.say(f"The atlas gets no effects. {error}")
        return {}


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}). Point {option} at a folder with readable files."
        ) from None


def _digests(files: Mapping[Path, bytes], digest: Callable[[bytes], str]) -> set[str]:
    return {digest(as_published(content)) for content in files.values()}


def _shape(files: Mapping[Path, bytes], model: str | None) -> Shape:
    """The model that the files' names begin with, unless it is given."""
    names = {path.name.rpartition("_pararel_neurons_")[0] for path in files} - {""}
    if model is None and len(names) > 1:
        raise DatasetError(
            f"The files of neurons are of several models: {', '.join(sorted(names))}. Import one at a time."
        )
    name = model or next(iter(names), MODEL)
    shape = model_shape(name)
    return Shape(name, shape.n_layers, shape.n_neurons)


def _atlas_id(dataset: Dataset, shape: Shape) -> str:
    return f"{dataset.dataset_id}-{Path(shape.model).name.lower()}-imported"


def _parameters(dataset: Dataset, model: str, method: str, *files: Mapping[Path, bytes]) -> dict[str, Any]:
    contents = [sha256(as_published(content)) for each in files for content in each.values()]
    return {
        "model": model,
        "dataset": dataset.dataset_id,
        "method": method,
        "files_hash": sha256(json.dumps(contents).encode()),
        "dataset_revision": dataset.revision,
        "dataset_hash": dataset.dataset_hash,
    }


def _eleutherai_method(
    dataset: Dataset,
    neurons: Mapping[Path, bytes],
    results: Mapping[Path, bytes],
    model: str,
    record: Mapping[str, str],
) -> MethodRecord:
    """What is known of the method; the rest (weights, device, time) is null."""
    return MethodRecord(
        name="integrated_gradients",
        rule="endpoints",
        max_points=_STEPS,
        refinement=MODES["replication"].to_dict(),
        stored_fraction=None,
        held_out=NONE_HELD_OUT,
        options={
            "parameters": _parameters(dataset, model, "published neurons", neurons, results),
            "published": {
                "repository": REPOSITORY,
                "revision": NEURONS_REVISION,
                "licence": NEURONS_LICENCE,
                **record,
                "parameters_from": "the defaults of its pararel_evaluate.py; the files do not state them",
            },
        },
    )


def _notes(published: bool, results: str, *, own_templates: bool) -> str:
    whose = (
        f"the refined neurons that {REPOSITORY} published (commit {NEURONS_REVISION[:12]}, {NEURONS_LICENCE})"
        if published
        else f"refined neurons in the form of {REPOSITORY}, {NOT_PUBLISHED}"
    )
    if own_templates:
        return (
            f"Imported: {whose}, joined with PARAREL's facts, which are not for commercial use, and with "
            "this project's templates: no sentence of PARAREL's is in this atlas. Probabilities, scores and "
            "effects are not in it either."
        )
    effects = (
        "Of the results (suppression and enhancement), no file was read, so effects are not in this atlas."
        if results == "none"
        else f"Results (suppression and enhancement): {results}. {LEFT_OUT}"
    )
    return (
        f"Imported: {whose}, joined with the data set's facts and prompts. Scores and probabilities are not "
        f"in these files. {effects}"
    )


def _effect_tables(dataset: Dataset, found: Mapping[str, Results]) -> dict[str, Any]:
    if not found:
        return {}
    rows = eleutherai.effects_rows(dataset, found)
    summaries = pd.DataFrame(summarize(rows[rows["n_neurons"] > 0]))
    effects = rows.drop(columns=["relation_id", "known", "asked_known"])
    return {"effects": effects, "effect_summaries": summaries}


def _read_dai(folder: Path, data: Path | None, model: str | None) -> Imported:
    shape = model_shape(model or dai.MODEL)
    found = dai.read_folder(folder, data, Shape(model or dai.MODEL, shape.n_layers, shape.n_neurons))
    contents = {Path(name): content for name, content in found.contents.items()}
    parameters = _parameters(found.dataset, found.shape.model, "files of Dai et al.", contents)
    return Imported(
        found.dataset,
        found.neurons,
        found.shape,
        MethodRecord(
            name="integrated_gradients",
            rule="left",
            max_points=_STEPS,
            refinement=found.refinement,
            held_out="No template: Dai et al. find neurons on all of them.",
            options={
                "parameters": parameters,
                "published": {
                    "repository": dai.REPOSITORY,
                    "neurons": NOT_PUBLISHED,
                    "parameters_from": "the defaults of its scripts; the files do not state them",
                },
            },
        ),
        _atlas_id(found.dataset, found.shape),
        f"Imported: {', '.join(found.contents)}, files of {dai.REPOSITORY}'s code, {NOT_PUBLISHED}. "
        f"{found.note} Probabilities and effects are not in these files.",
        {fact.fact_id: len(found.dataset.templates_of(fact.relation_id)) for fact in found.dataset.facts},
        _held_out(found.dataset),
        known=found.known,
        prompt_columns=found.prompt_columns,
        tables={
            name: rows
            for name, rows in (
                ("attributions", found.attributions),
                ("knowledge_neurons", found.knowledge_neurons),
            )
            if rows
        },
    )


# 4. Write -----------------------------------------------------------------------------------------------


def _write(output: Output, imported: Imported, report: OnProgress) -> None:
    report(0.6, "join: facts, prompts and neurons")
    dataset = imported.dataset
    knowledge = imported.tables.pop("knowledge_neurons", None) or _knowledge_neurons(imported)
    n_templates = {relation_id: len(templates) for relation_id, templates in imported.templates.items()}
    facts = pa.table(
        {
            **text_columns(dataset.facts, "fact_id", "relation_id", "subject", "object"),
            "n_prompts": [imported.n_prompts[fact.fact_id] for fact in dataset.facts],
            "n_neurons": [len(imported.neurons[fact.fact_id]) for fact in dataset.facts],
            "known": pa.array([imported.known.get(fact.fact_id) for fact in dataset.facts], pa.bool_()),
            **mark_columns(dataset.facts),
        }
    )
    output.write_table("relations", relations_table(dataset, facts, n_templates))
    output.write_table("templates", templates_table(imported.templates, facts))
    output.write_table("facts", facts)
    report(0.75, "write: prompts")
    if not imported.own_templates:
        output.write_table("prompts", _prompts(imported))
    report(0.85, "write: neurons")
    output.write_table("knowledge_neurons", knowledge)
    output.write_table("neurons", distinct_neurons(knowledge))
    for name, rows in imported.tables.items():
        output.write_table(name, rows)
    report(0.95, "check: what was written")
    manifest = _manifest(output, imported)
    check_before_finish(output.folder, manifest, remedy="Report this.")
    output.finish(manifest)


def _prompts(imported: Imported) -> pa.Table:
    """The prompts that were asked, none of them held out."""
    dataset = imported.dataset
    prompts = [
        template.prompt(fact)
        for fact in dataset.facts
        for template in dataset.templates_of(fact.relation_id)[: imported.n_prompts[fact.fact_id]]
    ]
    columns = text_columns(prompts, "fact_id", "template_id", "text")
    for name, values in imported.prompt_columns.items():
        columns[name] = pa.array([values.get((each.fact_id, each.template_id)) for each in prompts])
    return pa.table({**columns, "held_out": pa.repeat(False, len(prompts))})


def _knowledge_neurons(imported: Imported) -> pa.Table:
    rows = [(fact, *each) for fact in imported.dataset.facts for each in imported.neurons[fact.fact_id]]
    return pa.table(
        {
            **text_columns((fact for fact, _, _ in rows), "fact_id", "relation_id"),
            "layer": pa.array([layer for _, layer, _ in rows], pa.int16()),
            "neuron": pa.array([neuron for _, _, neuron in rows], pa.int32()),
        }
    )


def _manifest(output: Output, imported: Imported) -> Manifest:
    shape = imported.shape
    of_bert = {"activation_function": "gelu", "family": "bert"} if shape == _PUBLISHED_SHAPE else {}
    return Manifest(
        atlas_id=imported.atlas_id,
        model=ModelRecord(name=shape.model, n_layers=shape.n_layers, n_neurons=shape.n_neurons, **of_bert),
        dataset=dataset_record(imported.dataset),
        method=imported.method,
        files=record_files(output.folder),
        code_version=None if imported.own_templates else code_version(),
        created=None if imported.own_templates else today(),
        notes=imported.notes,
    )
