"""One build from the first prompt to the manifest; a build killed at any moment goes on where it was.

    print(run_build(options, out=Path("out/my-atlas")))

1. Attribute: scores of every neuron for every discovery prompt, a prediction for every other prompt.
2. Refine: knowledge neurons of every fact.
3. Read out: what their value vectors promote, and which prompts they are active on.
4. Evaluate: what suppressing and amplifying them does to held-out prompts, beside controls.
5. Finish: sorted tables, the manifest last.

Stages 1, 3 and 4 leave shards (`build.writer`); refining and finishing take seconds and are made again.
Shards of stages 3 and 4 carry a key of what they depend on, so that none outlives another refinement.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import atlas
from atlas import refinement
from atlas.errors import BuildError
from atlas.manifest import DatasetRecord, Manifest, MethodRecord, ModelRecord, record_files
from atlas.models import locate
from atlas.neuron import Fact, Neuron, Prompt, Template
from build import summary, tables
from build.check import check_rows
from build.plan import MAX_POINTS, METHOD, STORED_FRACTION, BuildOptions, Plan, at_least_one, make_plan
from build.progress import Progress
from build.writer import Output

if TYPE_CHECKING:
    from atlas.models import LocatedModel
    from atlas.surgery.subject import Subject
    from build.stages import Batches
    from build.trials import Trial

READOUT_SHARD = 2048
SECONDS_BETWEEN_STATES = 20.0
HELD_OUT = "Of a relation's usable templates, in order, every second one is held out."


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How a build is run; nothing here is meant to change a row."""

    device: str = "auto"
    threads: int | None = None
    batch_rows: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None:
            at_least_one("--threads", self.threads)
        if self.batch_rows is not None:
            at_least_one("--batch-rows", self.batch_rows)


def parameters_for(plan: Plan, located: LocatedModel) -> dict[str, Any]:
    """Everything that changes rows, as plain JSON: a folder goes on only with the same."""
    options = plan.options
    certified = options.rule == "certified"
    return {
        "model": located.name,
        "weights_sha256": located.weights_sha256,
        "dataset": plan.dataset.dataset_id,
        "relations": None if options.relations is None else list(options.relations),
        "limit": options.limit,
        "attribute": options.attribute,
        "mode": options.mode,
        "method": METHOD,
        "rule": options.rule,
        "tolerance": options.tolerance,
        "steps": None if certified else options.steps,
        "max_points": MAX_POINTS if certified else None,
        "dtype": options.dtype,
        "seed": options.seed,
        "shard_size": options.shard_size,
        "dataset_hash": plan.dataset.dataset_hash,
    }


def run_build(
    options: BuildOptions, *, out: Path, machine: Machine | None = None, fresh: bool = False
) -> str:
    """Build the atlas in `out`, or go on with it; returns a summary for a person.

    Raises an `AtlasError` for whatever cannot be done; complete shards are kept.
    """
    machine = machine or Machine()
    plan = make_plan(options, allow_download=True)
    located = locate(options.model)
    output = Output(out)
    state = output.claim(parameters_for(plan, located), fresh=fresh)
    if state == "finished":
        output.tidy()
        return f"{summary.describe(out)}\nNothing was left to do; --fresh builds it again."
    if state == "resumed":
        print(f"Going on with the build in {out}.", file=sys.stderr)
    try:
        subject = _load(located.name, options, machine)
        return _Build(plan, located, output, subject, machine).run()
    finally:
        output.close()


def _load(name: str, options: BuildOptions, machine: Machine) -> Subject:
    import torch

    from atlas.surgery.subject import load_subject

    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(os.cpu_count() or 1)
    return load_subject(name, device=machine.device, dtype=options.dtype)


@dataclass
class _Build:
    """The stages in order, and what they hand to each other."""

    plan: Plan
    located: LocatedModel
    output: Output
    subject: Subject
    machine: Machine
    seconds: dict[str, float] = field(default_factory=dict)
    batches: Batches = field(init=False)
    attribute_notes: list[dict[str, Any]] = field(init=False, default_factory=list)
    refinement: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        from build.stages import Batches

        self.batches = Batches.for_subject(self.subject, self.machine.batch_rows)

    def run(self) -> str:
        """Every stage in turn; returns the summary."""
        self.attribute()
        prompts = tables.collect_prompts(self.output, self.plan.n_shards)
        if not len(prompts):
            reason = self.left_out()[0]["reason"]
            raise BuildError(
                f"No prompt of {self.plan.dataset.dataset_id} can be asked of {self.subject.name}. {reason}"
            )
        scores = tables.collect_scores(self.output, self.plan.n_shards)
        found = self.refine(prompts, scores)
        key = self.key(found)
        neurons = self.read_out(prompts, found, key)
        effects = self.evaluate(prompts, found, key)
        return self.finish(prompts, scores, found, neurons, effects)

    @contextmanager
    def progress(self, label: str, total: int, done: int, unit: str = "prompts") -> Iterator[Progress]:
        with Progress(label, total=total, done=done, unit=unit) as progress:
            self.batches.note = progress.note
            yield progress

    # --- stage 1 ---

    def attribute(self) -> None:
        """Every shard of attributions that is not there yet."""
        from build.stages import attribute_shard, metadata_of, with_metadata

        plan, output = self.plan, self.output
        missing = [
            (index, facts)
            for index, facts in enumerate(plan.shards())
            if not output.has_shard("attribute", index)
        ]
        done = plan.n_prompts - sum(plan.n_prompts_of(facts) for _, facts in missing)
        if missing:
            with self.progress("attribute", plan.n_prompts, done) as progress:
                for index, facts in missing:
                    started = time.monotonic()
                    table = attribute_shard(
                        self.subject, plan, facts, batches=self.batches, report=progress.advance
                    )
                    seconds = time.monotonic() - started
                    table = with_metadata(table, seconds=seconds, device=self.device_name())
                    output.write_shard("attribute", index, table)
        self.attribute_notes += [
            metadata_of(output.shard_schema("attribute", index)) for index in range(plan.n_shards)
        ]
        self.seconds["attribute"] = sum(note.get("seconds", 0.0) for note in self.attribute_notes)

    def left_out(self) -> list[dict[str, str]]:
        """The prompts that the model cannot be asked, and why."""
        return [each for note in self.attribute_notes for each in note.get("left_out", ())]

    def device_name(self) -> str:
        """The device in words, such as 'cpu, 2 threads' or 'NVIDIA H100'."""
        import torch

        if self.subject.device.type == "cuda":
            return torch.cuda.get_device_name(self.subject.device)
        return f"{self.subject.device.type}, {torch.get_num_threads()} threads"

    # --- stage 2 ---

    def refine(self, prompts: tables.Prompts, scores: tables.Scores) -> pa.Table:
        """The table `knowledge_neurons`."""
        started = time.monotonic()
        rule = refinement.mode(self.plan.options.mode)
        facts = pa.table(
            {
                "fact_id": pa.array([fact.fact_id for fact in self.plan.facts], pa.string()),
                "relation_id": pa.array([fact.relation_id for fact in self.plan.facts], pa.string()),
            }
        )
        attributions = tables.attributions_table(prompts, scores)
        refined = refinement.refine(attributions, prompts.table, facts, rule)
        self.refinement = rule.to_dict()
        if rule.target is not None:
            self.refinement["shares"] = dict(refined.shares)  # where each relation's adaptation ended
        self.seconds["refine"] = time.monotonic() - started
        return refined.rows

    def key(self, found: pa.Table) -> str:
        """A name for what the later stages depend on: the neurons found, and these constants."""
        from build import stages, trials

        constants = [
            self.plan.options.seed,
            stages.READOUT_TOKENS,
            stages.ACTIVATING_PROMPTS,
            stages.AMPLIFY_FACTOR,
            list(trials.INTERVENTIONS),
            stages.EVALUATION_VERSION,
        ]
        digest = hashlib.sha256(json.dumps(constants).encode())
        for name in ("fact_id", "layer", "neuron"):
            digest.update(json.dumps(found[name].to_pylist()).encode())
        return digest.hexdigest()[:8]

    # --- stage 3 ---

    def read_out(self, prompts: tables.Prompts, found: pa.Table, key: str) -> tuple[pa.Table, pa.Table]:
        """The tables `neurons` and `activating_prompts`."""
        distinct = tables.distinct_neurons(found)
        pairs = zip(distinct["layer"].to_pylist(), distinct["neuron"].to_pylist(), strict=True)
        neurons = [Neuron(layer, neuron) for layer, neuron in pairs]
        values = self.value_vectors(neurons, key)
        for name in values.column_names:
            distinct = distinct.append_column(name, values[name])
        return distinct, self.activating_prompts(neurons, prompts, key)

    def value_vectors(self, neurons: list[Neuron], key: str) -> pa.Table:
        """value_norm, promoted and suppressed of the neurons, in their order."""
        from build.stages import readout_shard

        stage = f"readout-{key}"
        chunks = [neurons[i : i + READOUT_SHARD] for i in range(0, len(neurons), READOUT_SHARD)]
        missing = [index for index in range(len(chunks)) if not self.output.has_shard(stage, index)]
        if missing:
            done = len(neurons) - sum(len(chunks[index]) for index in missing)
            with self.progress("read out", len(neurons), done, "neurons") as progress:
                for index in missing:
                    table = self.timed(lambda index=index: readout_shard(self.subject, chunks[index]))
                    self.output.write_shard(stage, index, table)
                    progress.advance(len(chunks[index]))
        if not chunks:
            return readout_shard(self.subject, [])
        self.add_seconds("read out", stage, len(chunks))
        return pa.concat_tables(
            [
                self.output.read_shard(stage, index).replace_schema_metadata(None)
                for index in range(len(chunks))
            ]
        )

    def activating_prompts(self, neurons: list[Neuron], prompts: tables.Prompts, key: str) -> pa.Table:
        """The table `activating_prompts`; its running maxima are saved every so often."""
        from build.stages import ActivatingPrompts

        name = f"activating-{key}.npz"
        shards = list(self.plan.shards())
        state = ActivatingPrompts(neurons)
        self.output.load_state(name, state.load)
        rows = [[row for fact in facts for row in prompts.rows_of(fact.fact_id)] for facts in shards]
        done = sum(len(each) for each in rows[: state.next_shard])
        if neurons and state.next_shard < len(shards):
            with self.progress("activations", len(prompts), done) as progress:
                saved = started = time.monotonic()
                for index in range(state.next_shard, len(shards)):
                    by_row = self.prompts_by_row(prompts, rows[index])
                    activations = self.batches.run(
                        lambda by_row=by_row: self.subject.activations(
                            by_row, batch_tokens=self.batches.tokens
                        )
                    )
                    state.update(activations.numpy(), np.array(rows[index], np.int64))
                    state.next_shard = index + 1
                    progress.advance(len(rows[index]))
                    now = time.monotonic()
                    if now - saved > SECONDS_BETWEEN_STATES or index + 1 == len(shards):
                        state.seconds += now - started
                        saved = started = now
                        self.output.save_state(name, state.save)
        self.seconds["activations"] = state.seconds
        columns = (prompts.table[name].combine_chunks() for name in ("fact_id", "template_id"))
        return state.table(*columns)

    def prompts_by_row(self, prompts: tables.Prompts, rows: list[int]) -> list[Prompt]:
        """The prompts of these rows."""
        made: list[Prompt] = []
        for row in rows:
            fact = self.fact_by_id[prompts.fact_ids[prompts.fact_of_row[row]]]
            made.append(self.template_by_id[prompts.template_ids[row]].prompt(fact))
        return made

    @cached_property
    def fact_by_id(self) -> dict[str, Fact]:
        return {fact.fact_id: fact for fact in self.plan.facts}

    @cached_property
    def template_by_id(self) -> dict[str, Template]:
        return {template.template_id: template for template in self.plan.dataset.templates}

    # --- stage 4 ---

    def evaluate(self, prompts: tables.Prompts, found: pa.Table, key: str) -> pa.Table:
        """The table `effects`."""
        from build.trials import INTERVENTIONS, evaluate_shard

        stage = f"evaluate-{key}"
        trials = _Trials(self, prompts, tables.neurons_by_fact(found))
        shards = [[fact for fact in facts if fact.fact_id in trials.neurons] for facts in self.plan.shards()]
        sizes = [sum(trials.count(fact) for fact in facts) * len(INTERVENTIONS) for facts in shards]
        missing = [index for index in range(len(shards)) if not self.output.has_shard(stage, index)]
        if missing:
            done = sum(sizes) - sum(sizes[index] for index in missing)
            with self.progress("evaluate", sum(sizes), done) as progress:
                for index in missing:
                    asked = [trial for fact in shards[index] for trial in trials.of(fact)]
                    table = self.timed(
                        lambda asked=asked: evaluate_shard(self.subject, asked, batches=self.batches)
                    )
                    self.output.write_shard(stage, index, table)
                    progress.advance(sizes[index])
        self.add_seconds("evaluate", stage, len(shards))
        return tables.concat_shards(self.output, [(stage, i) for i in range(len(shards))], "effects")

    def timed(self, work: Callable[[], pa.Table]) -> pa.Table:
        """The table of `work()`, with the seconds it took in its metadata."""
        from build.stages import with_metadata

        started = time.monotonic()
        table = work()
        return with_metadata(table, seconds=time.monotonic() - started)

    def add_seconds(self, name: str, stage: str, count: int) -> None:
        """What a stage's shards took, this run's and earlier ones'."""
        from build.stages import metadata_of

        notes = (metadata_of(self.output.shard_schema(stage, index)) for index in range(count))
        self.seconds[name] = sum(note.get("seconds", 0.0) for note in notes)

    # --- stage 5 ---

    def finish(
        self,
        prompts: tables.Prompts,
        scores: tables.Scores,
        found: pa.Table,
        readouts: tuple[pa.Table, pa.Table],
        effects: pa.Table,
    ) -> str:
        """Write the tables, check them, write the manifest; returns the summary."""
        output = self.output
        facts = tables.facts_table(self.plan, prompts, found)
        output.write_table("relations", tables.relations_table(self.plan, facts))
        output.write_table("facts", facts)
        output.write_table("prompts", prompts.table)
        output.write_sorted("attributions", tables.attributions_parts(prompts, scores))
        output.write_table("knowledge_neurons", found)
        output.write_table("neurons", readouts[0])
        output.write_table("activating_prompts", readouts[1])
        output.write_table("effects", effects)
        manifest = self.manifest(prompts)
        problems = check_rows(output.folder, manifest).problems
        if problems:
            raise BuildError(
                f"The tables contradict themselves, so the atlas is not finished: {'; '.join(problems)}. "
                "Use --dtype float32, or report this; complete shards are kept."
            )
        output.finish(manifest)
        return summary.describe(output.folder)

    def manifest(self, prompts: tables.Prompts) -> Manifest:
        """What the atlas was made from and how, with the record of every file."""
        plan, subject, dataset = self.plan, self.subject, self.plan.dataset
        options = plan.options
        left_out = self.left_out()
        asked = set(prompts.fact_ids)
        n_facts_left_out = sum(fact.fact_id not in asked for fact in plan.facts)
        devices = dict.fromkeys(note["device"] for note in self.attribute_notes if "device" in note)
        total = sum(self.seconds.values())
        certified = options.rule == "certified"
        return Manifest(
            atlas_id=f"{dataset.dataset_id}-{_slug(self.located.name)}",
            model=ModelRecord(
                name=self.located.name,
                revision=self.located.revision,
                weights_sha256=self.located.weights_sha256,
                activation_function=subject.activation_function,
                family=subject.family.name,
                dtype=options.dtype,
                n_layers=subject.n_layers,
                n_neurons=subject.n_neurons,
            ),
            dataset=DatasetRecord(
                id=dataset.dataset_id,
                revision=dataset.revision,
                hash=dataset.dataset_hash,
                licence=dataset.licence,
            ),
            method=MethodRecord(
                name=METHOD,
                rule=options.rule,
                tolerance=options.tolerance if certified else None,
                max_points=MAX_POINTS if certified else options.steps,
                refinement=self.refinement,
                stored_fraction=STORED_FRACTION,
                held_out=HELD_OUT,
                seed=options.seed,
                options={
                    "parameters": parameters_for(plan, self.located),
                    "stage_seconds": {name: round(value, 1) for name, value in self.seconds.items()},
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
            created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        )


class _Trials:
    """Which neurons are changed on which prompts: own, random and unrelated, fact by fact."""

    def __init__(
        self, build: _Build, prompts: tables.Prompts, neurons: dict[str, tuple[Neuron, ...]]
    ) -> None:
        from build.trials import Partners

        self.build, self.prompts, self.neurons = build, prompts, neurons
        self.facts = [build.fact_by_id[fact_id] for fact_id in prompts.fact_ids]
        self.partners = Partners.among(
            self.facts, [bool(self.held_out_rows(fact)) for fact in self.facts], prompts.known
        )

    def held_out_rows(self, fact: Fact) -> list[int]:
        return [row for row in self.prompts.rows_of(fact.fact_id) if self.prompts.held_out[row]]

    def count(self, fact: Fact) -> int:
        """How many trials `of` gives."""
        n_held_out = len(self.held_out_rows(fact))
        index = self.prompts.index_of(fact.fact_id)
        return 2 * n_held_out + min(n_held_out, self.partners.n_candidates(index))

    def of(self, fact: Fact) -> Iterator[Trial]:
        """The fact's trials; what is drawn depends on the seed and the fact alone."""
        from build.trials import random_match, seeded

        seed = self.build.plan.options.seed
        own = self.neurons[fact.fact_id]
        matched = random_match(own, self.build.subject.n_neurons, seeded(seed, "random", fact.fact_id))
        rows = self.held_out_rows(fact)
        for row in rows:
            yield self.trial(fact, row, "own", own)
            if matched:
                yield self.trial(fact, row, "random", matched)
        generator = seeded(seed, "unrelated", fact.fact_id)
        index = self.prompts.index_of(fact.fact_id)
        for partner in self.partners.draw(index, len(rows), generator):
            row = int(generator.choice(self.held_out_rows(self.facts[partner])))
            yield self.trial(fact, row, "unrelated", own)

    def trial(self, fact: Fact, row: int, group: str, neurons: tuple[Neuron, ...]) -> Trial:
        from build.trials import Trial

        return Trial(
            fact_id=fact.fact_id,
            prompt=self.build.prompts_by_row(self.prompts, [row])[0],
            group=group,
            neurons=neurons,
            p_before=float(self.prompts.probability[row]),
            rank_before=int(self.prompts.rank[row]),
            top_before=self.prompts.top_token[row],
        )


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
