"""Experiments on a finished atlas, each of which adds a table to it.

    python -m build evaluate DIR --experiments suppress,update

1. *Open.* Finish what an interrupted run left; check that the atlas and the model belong together.
2. *Measure.* Each study's work in shards, which a resumed run finds again (studies: `build.evidence`).
3. *Add.* Put a study's tables and a new manifest in place together; then remove its shards.

A study that was measured with the same rows, model, sample and seed is not measured again.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from typer import Option

from atlas.errors import BuildError
from atlas.models import locate, same_model
from atlas.models.device import check_device
from atlas.models.families import FAMILIES
from atlas.queries import atlas_summary
from atlas.store.atlas import Atlas
from atlas.store.manifest import Manifest, file_name
from atlas.store.schema import TABLES, conform
from build.evidence import STUDIES, Study, find_studies
from build.evidence.setting import Setting
from build.output.writer import Output, metadata_of, settle, with_metadata
from build.plan import at_least_one, not_negative
from build.progress import ProgressBar
from build.run import code_version

RECORD = "experiments"
"""The key of `method.options` in the manifest that says how each study was measured."""


@dataclass(frozen=True)
class EvaluateOptions:
    """What is measured, and on what; `sample` None is each study's default, 0 every fact."""

    experiments: Annotated[str, Option(metavar="A,B", help="some of the list below, separated by commas")] = (
        "all"
    )
    model: Annotated[str | None, Option(help="a folder or a name; by default the atlas's model")] = None
    sample: Annotated[
        int | None,
        Option(
            help="facts per experiment (in update and erase, per relation); 0 for all; each experiment has "
            "its own default"
        ),
    ] = None
    all_facts: Annotated[
        bool,
        Option("--all-facts", help="contested and guessable facts, too; by default they are left out"),
    ] = False
    seed: Annotated[int, Option(help="for all random draws")] = 0
    device: Annotated[str, Option(help="cpu, cuda, cuda:1, mps")] = "auto"
    threads: Annotated[int | None, Option(help="CPU threads; all cores by default")] = None

    def __post_init__(self) -> None:
        find_studies(self.experiments)
        check_device(self.device)
        not_negative("--sample", self.sample or 0)
        not_negative("--seed", self.seed)
        at_least_one("--threads", self.threads)

    def sample_of(self, study: Study, n_neurons: int) -> int | None:
        """For a model with so many neurons."""
        return study.sample_for(n_neurons) if self.sample is None else self.sample or None


def evaluate_atlas(folder: Path, options: EvaluateOptions, *, fresh: bool = False) -> str:
    """Measure the chosen studies and add their tables to the atlas; returns the results as text.

    Raises an `AtlasError`, complete shards kept, when the atlas or the model does not allow a study.
    """
    # Step 1: open.
    if not folder.is_dir():
        raise BuildError(f"There is no folder {folder}. Give the folder of an atlas.")
    settle(folder)
    chosen = find_studies(options.experiments)
    atlas = Atlas(folder)
    model = model_of(atlas, chosen, options.model)
    output = Output(folder)
    output.reopen()
    try:
        lines = []
        for study in chosen:
            lines += [f"{study.name}: {study.sentence}"]
            if why := _why_not(study, atlas):
                lines += [f"  not measured: {why}", ""]
                continue
            done = _Evaluation(study, output, model, options).run(fresh=fresh)
            atlas = Atlas(folder)
            lines += [f"  {line}" for line in (*study.load().summary(atlas), done)] + [""]
        return "\n".join(lines).rstrip()
    finally:
        output.leave()


def _why_not(study: Study, atlas: Atlas) -> str | None:
    """Why the study has nothing to ask of this atlas; None where it has."""
    if study.needs_held_out and not atlas_summary(atlas).n_held_out:
        return "the atlas holds no prompt out; --discovery half of `run` does"
    if study.needs_column is not None:
        table, column = study.needs_column
        if not atlas.query_row(f"SELECT count({column}) AS n FROM {table}")["n"]:
            return f"the atlas has no {column} in {table}; build it again"
    masked = {family.name for family in FAMILIES.values() if family.kind == "masked"}
    if study.needs_causal and atlas.manifest.model.family in masked:
        return f"{atlas.manifest.model.name} fills in masks and continues no text"
    return None


def model_of(atlas: Atlas, chosen: list[Study], name: str | None) -> str:
    """The model's name. Raises `BuildError` when the atlas lacks what the studies need."""
    for study in chosen:
        for table in study.needs:
            if not atlas.measured(table):
                raise BuildError(
                    f"{atlas.atlas_id} has no {table}, which the experiment '{study.name}' needs. "
                    "Choose other experiments, or build the atlas with `python -m build run`."
                )
    made_with = atlas.manifest.model
    name = name or made_with.name
    if any(study.needs_model for study in chosen):
        if made_with.weights_sha256 is None:
            raise BuildError(
                f"{atlas.atlas_id} does not record the weights it was made with, so nothing can be measured. "
                "Build an atlas with `python -m build run`."
            )
        if not same_model(locate(name), made_with):
            raise BuildError(
                f"The atlas {atlas.atlas_id} was made with other weights, or another config "
                f"({made_with.name}). "
                "Give --model the model it was made with."
            )
    return name


@dataclass
class _Evaluation:
    """One study on one atlas."""

    study: Study
    output: Output
    model: str
    options: EvaluateOptions

    def run(self, *, fresh: bool) -> str:
        """Steps 2 and 3; returns a line of rows and seconds."""
        study, output = self.study, self.output
        atlas = Atlas(output.folder)
        model = atlas.manifest.model
        setting = Setting(
            atlas,
            self.model,
            seed=self.options.seed,
            sample=self.options.sample_of(study, (model.n_layers or 0) * (model.n_neurons or 0)),
            all_facts=self.options.all_facts,
            device=self.options.device,
        )
        key = self.key(setting)
        left_out = len(setting.left_out)
        without = f"; {left_out:,} contested or guessable facts left out (--all-facts)" if left_out else ""
        record = atlas.manifest.method.options.get(RECORD, {}).get(study.name, {})
        there = all(file_name(table) in atlas.manifest.files for table in study.tables)
        if there and record.get("key") == key and not fresh:
            return f"already measured; --fresh measures again{without}"
        if file_name(study.table) in atlas.manifest.files and not fresh and (record or not study.extends):
            self.refuse_to_replace(setting, record)
        if self.options.threads is not None or study.needs_model:
            from build.jobs.worker import use_threads

            use_threads(self.options.threads)
        stage = f"{study.name}-{key}"
        # Step 2: measure.
        seconds = self.measure(setting, stage)
        # Step 3: add.
        count = len(study.load().units(setting))
        parts = [output.read_shard(stage, index).replace_schema_metadata(None) for index in range(count)]
        found = tables_of(study, setting, parts)
        record = {
            "key": key,
            "version": study.version,
            "sample": setting.sample,
            "seed": setting.seed,
            "all_facts": setting.all_facts,
            "left_out": left_out,
            "seconds": round(seconds, 1),
            "code_version": code_version(),
            **({"built_sha256": built_sha256(atlas.manifest, study.table)} if study.extends else {}),
            **metadata_of(found[study.table].schema),
        }
        output.add_tables(found, _with_record(atlas.manifest, study.name, record))
        output.drop_shards(stage)
        return f"{sum(table.num_rows for table in found.values()):,} rows, {seconds:,.0f} s{without}"

    def refuse_to_replace(self, setting: Setting, record: dict[str, Any]) -> None:
        """Raises `BuildError` instead of replacing rows of other facts or another seed, or a build's own."""
        now = {"sample": setting.sample, "seed": setting.seed, "left_out": len(setting.left_out)}
        before = {"sample": None, "seed": None, "left_out": 0} | {
            name: record[name] for name in now if name in record
        }
        if before["sample"] != now["sample"] or (record and before != now):
            raise BuildError(
                f"{setting.atlas.atlas_id} has the table {self.study.table} with {_in_words(before)}; "
                f"this would be {_in_words(now)}. Give --fresh to replace its rows, or work on a copy of the "
                "atlas."
            )

    def key(self, setting: Setting) -> str:
        """A hash of everything that the rows depend on."""
        study, manifest = self.study, setting.atlas.manifest
        inputs = {
            name: built_sha256(manifest, name)
            for name in ("facts", "prompts", "attributions", "knowledge_neurons")
            if file_name(name) in manifest.files
        }
        depends = [
            [study.name, study.version],
            [setting.sample, setting.seed],
            # As before facts were left out, where none is.
            *(["left out"] if setting.left_out else []),
            # As before configs were recorded, where there is none.
            *([manifest.model.config_sha256] if manifest.model.config_sha256 else []),
            manifest.model.weights_sha256,
            inputs,
        ]
        return hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:8]

    def measure(self, setting: Setting, stage: str) -> float:
        """Every shard that is not there yet; returns the seconds that all of them took."""
        output, module = self.output, self.study.load()
        units = module.units(setting)
        missing = [index for index in range(len(units)) if not output.has_shard(stage, index)]
        if missing:
            done = len(units) - len(missing)
            with ProgressBar(self.study.name, total=len(units), done=done, unit="parts") as progress:
                setting.note = progress.note
                for index in missing:
                    started = time.monotonic()
                    table = shard_of(self.study, module.measure(setting, units[index]))
                    table = table.replace_schema_metadata(None)
                    table = with_metadata(table, seconds=time.monotonic() - started)
                    output.write_shard(stage, index, table)
                    progress.advance(1)
        return sum(note.get("seconds", 0.0) for note in output.shard_notes(stage, len(units)))


def shard_of(study: Study, rows: list[dict[str, Any]] | pa.Table) -> pa.Table:
    """What a study measured of a unit, as a shard keeps it."""
    schema = getattr(study.load(), "SHARD", None)
    return conform(study.table, rows) if schema is None else rows.cast(schema)


def tables_of(study: Study, setting: Setting, shards: list[pa.Table]) -> dict[str, pa.Table]:
    """The study's tables, by name, from its shards."""
    module = study.load()
    schema = getattr(module, "SHARD", TABLES[study.table])
    rows = pa.concat_tables(shards) if shards else schema.empty_table()
    if hasattr(module, "tables"):
        return module.tables(setting, rows)
    return {study.table: conform(study.table, rows)}


def built_sha256(manifest: Manifest, table: str) -> str | None:
    """The hash of the table's file as the build wrote it, before a study filled columns or rows of it."""
    records = manifest.method.options.get(RECORD, {})
    extended = (
        records.get(each.name, {}).get("built_sha256") for each in STUDIES.values() if each.table == table
    )
    record = manifest.files.get(file_name(table))
    return next(filter(None, extended), record and record.sha256)


def _in_words(options: dict[str, Any]) -> str:
    sample = "every fact" if options["sample"] is None else f"a sample of {options['sample']}"
    if options["left_out"]:
        sample += f", {options['left_out']} left out,"
    return sample if options["seed"] is None else f"{sample} and seed {options['seed']}"


def _with_record(manifest: Manifest, name: str, record: dict[str, Any]) -> Manifest:
    options = dict(manifest.method.options)
    options[RECORD] = {**options.get(RECORD, {}), name: record}
    return replace(manifest, method=replace(manifest.method, options=options))
