"""One build from the first prompt to the manifest; a build killed at any moment resumes where it was.

    print(run_build(options, out=Path("out/my-atlas")))

0. Precision: in less than float32, how far the scores of a sample of prompts are from float32's.
1. Attribute: scores of every neuron for every discovery prompt, a prediction for every other prompt.
2. Refine: knowledge neurons of every fact.
3. Read out: what their value vectors promote, which prompts they are active on, and how active on their own;
   what the model would answer after each layer.
4. Evaluate: what suppressing and amplifying them does to held-out prompts, beside controls; to all prompts
   where none is held out.
5. Finish: sorted tables, the manifest last.

Stages 0, 1, 3 and 4 leave shards (`build.output.writer`); refining and finishing take seconds and are
repeated. Shards of stages 3 and 4 carry a key of what they depend on, so that none outlives its refinement.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import atlas
from atlas import cli, refinement
from atlas.datasets import Dataset
from atlas.errors import BuildError
from atlas.neuron import Fact, Neuron, Prompt, Template
from atlas.refinement import STORED_FRACTION
from atlas.store.manifest import DatasetRecord, Manifest, MethodRecord, ModelRecord, record_files
from atlas.store.schema import TABLES
from build.jobs import evaluation, jobs
from build.jobs.activating import ACTIVATING_PROMPTS, ActivatingPrompts, RunningActivations, only_row
from build.jobs.executors import Executor, start_executor
from build.jobs.machine import Machine
from build.output import tables
from build.output.check import check_before_finish
from build.output.summary import describe_atlas
from build.output.writer import Output, with_metadata
from build.plan import MAX_POINTS, METHOD, BuildOptions, Plan, build_parameters, make_plan
from build.progress import ProgressBar

PRECISION_SAMPLE = 32
READOUT_SHARD = 2048
SECONDS_BETWEEN_STATES = 20.0
HELD_OUT = "Of a relation's usable templates, in order, every second one is held out."
NONE_HELD_OUT = "No template: neurons are found on all of them, and effects measured on the same."


def run_build(
    options: BuildOptions, *, out: Path, machine: Machine | None = None, fresh: bool = False
) -> str:
    """Build the atlas in `out`, or resume the build; returns a summary in words.

    Raises an `AtlasError`, complete shards kept, when the model, the data set, the folder or the machine does
    not allow the build.
    """
    machine = machine or Machine()
    plan = make_plan(options, allow_download=True)
    plan = replace(plan, options=options.on(machine.kind))
    output = Output(out)
    state = output.claim(build_parameters(plan), fresh=fresh)
    if state == "finished":
        output.tidy()
        return f"{describe_atlas(out)}\nNothing was left to do; --fresh builds it again."
    if state == "resumed":
        cli.say(f"Going on with the build in {out}.")
    try:
        with start_executor(machine, plan) as executor:
            return _Build(plan, output, executor).run()
    finally:
        output.close()


@dataclass
class _Build:
    """The stages in order, and what they pass to each other."""

    plan: Plan
    output: Output
    executor: Executor
    seconds: dict[str, float] = field(default_factory=dict)
    attribute_notes: list[dict[str, Any]] = field(init=False, default_factory=list)
    refinement: dict[str, Any] = field(init=False, default_factory=dict)
    precision: dict[str, Any] = field(init=False, default_factory=dict)

    def run(self) -> str:
        """Every stage in turn; returns the summary."""
        if self.plan.options.dtype != "float32":
            self.sample_precision()
        self.attribute()
        prompts = tables.collect_prompts(self.output, self.plan.n_shards)
        if not len(prompts):
            reason = self.left_out()[0]["reason"]
            raise BuildError(
                f"{self.plan.located.name} takes no prompt of {self.plan.dataset.dataset_id}. {reason}"
            )
        scores = tables.collect_scores(self.output, self.plan.n_shards)
        found = self.refine(prompts, scores)
        key = self.key(found)
        measured = self.read_out(prompts, found, key)
        measured["lens"] = self.lens(prompts, key)
        measured |= self.evaluate(prompts, found, key)
        return self.finish(prompts, scores, measured)

    def make_shards(
        self,
        label: str,
        stage: str,
        sizes: Sequence[int],
        make: Callable[[int], jobs.Job],
        *,
        unit: str = "prompts",
    ) -> None:
        """Every shard of a stage that is not there yet: `make(index)` gives its job, of this size."""
        missing = [index for index in range(len(sizes)) if not self.output.has_shard(stage, index)]
        done = sum(sizes) - sum(sizes[index] for index in missing)
        if missing:
            with (
                ProgressBar(label, total=sum(sizes), done=done, unit=unit) as progress,
                self.output.background() as write_shard,
            ):
                before = time.monotonic()
                work = ((index, make(index)) for index in missing)
                for index, table in self.executor.run(work, advance=progress.advance, note=progress.note):
                    # Time since the last one, whoever made it: over all shards that is how long it took.
                    now = time.monotonic()
                    noted = with_metadata(table, seconds=now - before, device=self.executor.facts.device)
                    write_shard(stage, index, noted)
                    before = now
        notes = self.output.shard_notes(stage, len(sizes))
        self.seconds[label] = sum(note.get("seconds", 0.0) for note in notes)

    # --- stage 0 ---

    def sample_precision(self) -> None:
        """Stop where rounding moves scores by more than the tolerance.

        The sample: discovery prompts of facts that lie evenly in the plan.
        """
        plan, options = self.plan, self.plan.options
        count = min(PRECISION_SAMPLE, len(plan.facts))
        sample = tuple(
            next(prompt for prompt, held_out in plan.prompts_of(plan.facts[index]) if not held_out)
            for index in np.linspace(0, len(plan.facts) - 1, count).astype(int)
        )
        self.make_shards(
            "precision", "precision", [len(sample)], lambda index: jobs.PrecisionSample(sample, options)
        )
        found = self.output.read_shard("precision", 0)
        if not found.num_rows:
            return
        off = found["difference"].to_numpy()
        if not off.max() <= options.tolerance:
            raise BuildError(
                f"In {options.dtype}, scores of {len(off)} sampled prompts differ from float32's by up to "
                f"{off.max():.2%} of the largest, more than the tolerance of {options.tolerance:.2%}. Use "
                "--dtype float32 or a larger --tolerance, with --fresh."
            )
        self.precision = {
            "prompts": len(off),
            "largest_difference": float(off.max()),
            "median_difference": float(np.median(off)),
            "points_to_float32s": round(
                float(np.sum(found["n_points"].to_numpy()) / np.sum(found["n_points_float32"].to_numpy())), 3
            ),
        }

    # --- stage 1 ---

    def attribute(self) -> None:
        """Every shard of attributions that is not there yet."""
        plan = self.plan
        shards = list(plan.shards())

        def job(index: int) -> jobs.AttributeShard:
            prompts, held_out = zip(
                *(each for fact in shards[index] for each in plan.prompts_of(fact)), strict=True
            )
            return jobs.AttributeShard(
                prompts, held_out, tuple(map(plan.is_attributed, held_out)), options=plan.options
            )

        self.make_shards("attribute", "attribute", [plan.n_prompts_of(facts) for facts in shards], job)
        self.attribute_notes = self.output.shard_notes("attribute", plan.n_shards)

    def left_out(self) -> list[dict[str, str]]:
        """The prompts that the model does not take, and why."""
        return [each for note in self.attribute_notes for each in note.get("left_out", ())]

    # --- stage 2 ---

    def refine(self, prompts: tables.Prompts, scores: tables.StoredScores) -> pa.Table:
        """The table `knowledge_neurons`."""
        started = time.monotonic()
        options = self.plan.options
        drawn = {"negatives": options.negatives, "seed": options.seed} if options.negatives else {}
        rule = refinement.mode(options.mode, **drawn)
        facts = tables.text_columns(self.plan.facts, "fact_id", "relation_id", "object")
        refined = tables.refine_by_relation(prompts, scores, pa.table(facts), rule)
        self.refinement = rule.to_dict()
        if rule.target is not None:
            self.refinement["shares"] = dict(refined.shares)  # where each relation's adaptation ended
        self.seconds["refine"] = time.monotonic() - started
        return refined.rows

    def key(self, found: pa.Table) -> str:
        """A hash of what the later stages depend on: the neurons found, and these constants."""
        constants = [
            self.plan.options.seed,
            jobs.READOUT_TOKENS,
            ACTIVATING_PROMPTS,
            evaluation.AMPLIFY_FACTOR,
            list(evaluation.INTERVENTION_BY_NAME),
            jobs.EVALUATION_VERSION,
        ]
        digest = hashlib.sha256(json.dumps(constants).encode())
        for name in ("fact_id", "layer", "neuron"):
            digest.update(json.dumps(found[name].to_pylist()).encode())
        return digest.hexdigest()[:8]

    # --- stage 3 ---

    def read_out(self, prompts: tables.Prompts, found: pa.Table, key: str) -> dict[str, pa.Table]:
        """The tables `knowledge_neurons`, `neurons` and `activating_prompts`."""
        distinct = tables.distinct_neurons(found)
        layers, indices = (distinct[name].to_numpy() for name in ("layer", "neuron"))
        values = self.value_vectors(layers, indices, key)
        for name in values.column_names:
            distinct = distinct.append_column(name, values[name])
        kept = ActivatingPrompts(layers, indices, prompts.fact_of_row, self.relation_of_row(prompts))
        state = self.activations(kept, prompts, found, key)
        columns = (prompts.table[name].combine_chunks() for name in ("fact_id", "template_id"))
        found = tables.with_column(found, "mean_activation", state.means)
        return {
            "knowledge_neurons": found,
            "neurons": distinct.append_column("sign_mixed", pa.array(tables.signs_mixed(found))),
            "activating_prompts": kept.table(*columns, self.tokens(kept, prompts, key)),
        }

    def relation_of_row(self, prompts: tables.Prompts) -> np.ndarray:
        """Each prompt's relation as a number, (n_prompts,)."""
        relations = [self.fact_by_id[fact_id].relation_id for fact_id in prompts.fact_ids]
        return np.unique(np.array(relations, str), return_inverse=True)[1][prompts.fact_of_row]

    def value_vectors(self, layers: np.ndarray, indices: np.ndarray, key: str) -> pa.Table:
        """value_norm, promoted and suppressed of the neurons, in their order."""
        neurons = [Neuron(*pair) for pair in zip(layers.tolist(), indices.tolist(), strict=True)]
        stage = f"readout-{key}"
        # Without a neuron one empty shard, for its columns.
        chunks = [
            tuple(neurons[i : i + READOUT_SHARD]) for i in range(0, max(len(neurons), 1), READOUT_SHARD)
        ]
        self.make_shards(
            "read out",
            stage,
            [len(chunk) for chunk in chunks],
            lambda index: jobs.ReadOutShard(chunks[index]),
            unit="neurons",
        )
        parts = (self.output.read_shard(stage, index) for index in range(len(chunks)))
        return pa.concat_tables([part.replace_schema_metadata(None) for part in parts])

    def activations(
        self, kept: ActivatingPrompts, prompts: tables.Prompts, found: pa.Table, key: str
    ) -> RunningActivations:
        """Of all prompts: those on which these neurons are most and least active, and the means of `found`.

        What was kept so far is saved every so often.
        """
        name = f"activating-{key}.npz"
        state = RunningActivations(kept, np.zeros(found.num_rows, np.float32))
        self.output.load_state(name, state.load)
        rows = self.rows_of_shards(prompts)
        done = sum(len(each) for each in rows[: state.next_shard])
        pairs = tables.coded_pairs(prompts, found)

        def pairs_of(index: int) -> np.ndarray:
            return np.flatnonzero(np.isin(pairs[:, 0], kept.facts[rows[index]]))

        def job(index: int) -> jobs.ActivationsShard:
            here = rows[index]
            return jobs.ActivationsShard(
                tuple(self.prompt_of(prompts, row) for row in here),
                kept.facts[here],
                kept.relations[here],
                ~prompts.held_out[here],
                kept.layers,
                kept.neurons,
                pairs[pairs_of(index)],
            )

        if found.num_rows and state.next_shard < len(rows):
            with ProgressBar("activations", total=len(prompts), done=done) as progress:
                saved = time.monotonic()
                work = ((index, job(index)) for index in range(state.next_shard, len(rows)))
                early: dict[int, pa.Table] = {}
                for number, part in self.executor.run(work, advance=progress.advance, note=progress.note):
                    early[number] = part
                    # Of equal activations the earlier prompt wins: parts count in the order of the shards.
                    while state.next_shard in early:
                        part = early.pop(state.next_shard)
                        kept.merge(part, rows[state.next_shard].start)
                        state.means[pairs_of(state.next_shard)] = only_row(part, "mean_activation")
                        state.next_shard += 1
                    now = time.monotonic()
                    if now - saved > SECONDS_BETWEEN_STATES or state.next_shard == len(rows):
                        state.seconds += now - saved
                        saved = now
                        self.output.save_state(name, state.save)
        self.seconds["activations"] = state.seconds
        return state

    def tokens(self, kept: ActivatingPrompts, prompts: tables.Prompts, key: str) -> pa.Table:
        """Activations at every token: a row for each of the pairs that were kept."""
        neurons: dict[int, list[Neuron]] = {}
        for number, place in kept.pairs().tolist():
            neuron = Neuron(int(kept.layers[place]), int(kept.neurons[place]))
            neurons.setdefault(number, []).append(neuron)
        rows = [[row for row in each if row in neurons] for each in self.rows_of_shards(prompts)]

        def job(index: int) -> jobs.TokensShard:
            chosen = tuple(self.prompt_of(prompts, row) for row in rows[index])
            return jobs.TokensShard(chosen, tuple(tuple(neurons[row]) for row in rows[index]))

        stage = f"tokens-{key}"
        self.make_shards("tokens", stage, [len(each) for each in rows], job)
        return tables.concat_shards(self.output, [(stage, i) for i in range(len(rows))], jobs.TOKENS_SHARD)

    def lens(self, prompts: tables.Prompts, key: str) -> pa.Table:
        """The table `lens`: the first discovery prompt of each fact, and the first held-out one."""
        first = {
            int(rows[prompts.held_out[rows] == held_out][0])
            for rows in map(np.array, map(prompts.rows_of, prompts.fact_ids))
            for held_out in np.unique(prompts.held_out[rows])
        }
        chosen = [[row for row in rows if row in first] for rows in self.rows_of_shards(prompts)]

        def job(index: int) -> jobs.LensShard:
            return jobs.LensShard(tuple(self.prompt_of(prompts, row) for row in chosen[index]))

        stage = f"lens-{key}"
        self.make_shards("lens", stage, [len(each) for each in chosen], job)
        return tables.concat_shards(self.output, [(stage, i) for i in range(len(chosen))], TABLES["lens"])

    def rows_of_shards(self, prompts: tables.Prompts) -> list[range]:
        """The rows of `prompts` of each shard's facts."""
        sizes = [sum(len(prompts.rows_of(fact.fact_id)) for fact in facts) for facts in self.plan.shards()]
        ends = np.cumsum(sizes).tolist()
        return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]

    def prompt_of(self, prompts: tables.Prompts, row: int) -> Prompt:
        """The prompt of a row."""
        fact = self.fact_by_id[prompts.fact_ids[prompts.fact_of_row[row]]]
        return self.template_by_id[prompts.template_ids[row]].prompt(fact)

    @cached_property
    def fact_by_id(self) -> dict[str, Fact]:
        return {fact.fact_id: fact for fact in self.plan.facts}

    @cached_property
    def template_by_id(self) -> dict[str, Template]:
        return {template.template_id: template for template in self.plan.dataset.templates}

    # --- stage 4 ---

    def evaluate(self, prompts: tables.Prompts, found: pa.Table, key: str) -> dict[str, pa.Table]:
        """The tables `effects` and `control_neurons`."""
        stage = f"evaluate-{key}"
        evaluations = evaluation.Evaluations(
            facts=[self.fact_by_id[fact_id] for fact_id in prompts.fact_ids],
            prompts=prompts,
            neurons=tables.neurons_by_fact(found),
            n_neurons=self.executor.facts.n_neurons,
            seed=self.plan.options.seed,
            prompt_of=lambda row: self.prompt_of(prompts, row),
            holds_out=self.plan.options.holds_out,
        )
        with_neurons = evaluations.neurons
        shards = [[fact for fact in facts if fact.fact_id in with_neurons] for facts in self.plan.shards()]
        n_changes = len(evaluation.INTERVENTION_BY_NAME)
        sizes = [sum(map(evaluations.count, facts)) * n_changes for facts in shards]

        def job(index: int) -> jobs.EvaluateShard:
            of_shard = tuple(each for fact in shards[index] for each in evaluations.of_fact(fact))
            return jobs.EvaluateShard(of_shard, sizes[index])

        self.make_shards("evaluate", stage, sizes, job)
        done = [(stage, i) for i in range(len(shards))]
        rows = tables.concat_shards(self.output, done, evaluation.EFFECTS_SHARD)
        return {
            "effects": evaluation.effect_rows(rows),
            "control_neurons": evaluation.control_rows(rows),
        }

    # --- stage 5 ---

    def finish(
        self,
        prompts: tables.Prompts,
        scores: tables.StoredScores,
        measured: dict[str, pa.Table],
    ) -> str:
        """Write the tables, check them, write the manifest; returns the summary."""
        output = self.output
        facts = tables.facts_table(self.plan, prompts, measured["knowledge_neurons"])
        n_templates = {name: len(templates) for name, templates in self.plan.templates.items()}
        output.write_table("relations", tables.relations_table(self.plan.dataset, facts, n_templates))
        output.write_table("templates", tables.templates_table(self.plan.templates, facts))
        output.write_table("facts", facts)
        output.write_table("prompts", prompts.table)
        output.write_sorted("attributions", tables.attributions_parts(prompts, scores))
        for name, rows in measured.items():
            output.write_table(name, rows)
        manifest = self.manifest(prompts)
        check_before_finish(
            output.folder, manifest, remedy="Use --dtype float32, or report this; complete shards are kept."
        )
        output.finish(manifest)
        return describe_atlas(output.folder)

    def manifest(self, prompts: tables.Prompts) -> Manifest:
        """What the atlas was made from and how, with the record of every file."""
        plan, subject, located = self.plan, self.executor.facts, self.plan.located
        options = plan.options
        left_out = self.left_out()
        n_facts_left_out = len(plan.facts) - len(prompts.fact_ids)
        devices = dict.fromkeys(note["device"] for note in self.attribute_notes if "device" in note)
        total = sum(self.seconds.values())
        certified = options.rule == "certified"
        return Manifest(
            atlas_id=f"{plan.dataset.dataset_id}-{_slug(located.name)}",
            model=ModelRecord(
                name=located.name,
                revision=located.revision,
                weights_sha256=located.weights_sha256,
                activation_function=subject.activation_function,
                family=subject.family,
                dtype=options.dtype,
                n_layers=subject.n_layers,
                n_neurons=subject.n_neurons,
                config_sha256=located.config_sha256 or None,
            ),
            dataset=dataset_record(plan.dataset),
            method=MethodRecord(
                name=METHOD,
                rule=options.rule,
                tolerance=options.tolerance if certified else None,
                max_points=MAX_POINTS if certified else options.steps,
                refinement=self.refinement,
                stored_fraction=STORED_FRACTION,
                held_out=HELD_OUT if options.holds_out else NONE_HELD_OUT,
                seed=options.seed,
                options={
                    "parameters": build_parameters(plan),
                    "stage_seconds": {name: round(value, 1) for name, value in self.seconds.items()},
                    **({"precision": self.precision} if self.precision else {}),
                    "mkl_cbwr": os.environ.get("MKL_CBWR"),
                    "prompts_left_out": len(left_out),
                    "facts_left_out": n_facts_left_out,
                    "why_left_out": list(dict.fromkeys(each["reason"] for each in left_out))[:5],
                },
            ),
            files=record_files(self.output.folder),
            code_version=code_version(),
            device=" and ".join(devices),
            seconds=round(total, 1),
            prompts_per_second=round(len(prompts) / total, 2) if total else None,
            created=today(),
        )


def dataset_record(dataset: Dataset) -> DatasetRecord:
    """What a manifest says of a data set."""
    return DatasetRecord(
        id=dataset.dataset_id,
        revision=dataset.revision,
        hash=dataset.dataset_hash,
        licence=dataset.licence,
    )


def today() -> str:
    """The date in UTC, as ``2026-11-29``."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _slug(name: str) -> str:
    """A model's name as part of an atlas id: the last part of a path or hub id."""
    return Path(name).name.lower()


def code_version() -> str:
    """The package's version, and the commit where the code lies in a checkout."""
    root = Path(atlas.__file__).parents[1]
    if not (root / ".git").exists():
        return atlas.__version__
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short=10", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return atlas.__version__
    return f"{atlas.__version__}+g{commit}"
