"""A build's work with the model, in pieces that can be sent to another process; each gives one table.

    job = AttributeShard(prompts, held_out, attributed, options)
    inputs = job.prepare(subject)                   # with the tokenizer alone, while the model is busy
    table = job.run(worker, inputs, advance)

1. `PrecisionSample`: how far scores in less than float32 are from float32's.
2. `AttributeShard`: scores and predictions of a shard's prompts.
3. `ReadOutShard`: what neurons promote.
4. `ActivationsShard`: on which of a shard's prompts neurons are most and least active, and their means.
5. `TokensShard`: how active neurons are at each token of a shard's prompts.
6. `LensShard`: what the model would answer after each layer.
7. `EvaluateShard`: what suppressing and amplifying does.

A table depends on its job alone. Nothing here imports torch before a job runs: handing jobs out needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from atlas.errors import BuildError, PromptError
from atlas.neuron import Neuron, Prompt
from atlas.refinement import STORED_FRACTION
from atlas.store.schema import TABLES
from build.jobs import evaluation
from build.jobs.activating import ActivatingPrompts, mean_activations
from build.jobs.machine import Advance
from build.output.writer import with_metadata
from build.plan import MAX_POINTS, METHOD, BuildOptions

if TYPE_CHECKING:
    from atlas.attribution.attribution import Attribution
    from atlas.surgery.subject import Encoded, Prediction, Subject
    from build.jobs.worker import Worker

READOUT_TOKENS = 10
EVALUATION_VERSION = 5
"""Raised when stage 3 or 4 would give other rows than before, so that a resumed build makes them again."""

# One row a prompt: the columns of `prompts`, and its stored scores as three lists of equal length.
ATTRIBUTE_SHARD = pa.schema(
    [
        *(pa.field(column.name, column.type) for column in TABLES["prompts"]),
        pa.field("layers", pa.list_(pa.int16())),
        pa.field("neurons", pa.list_(pa.int32())),
        pa.field("scores", pa.list_(pa.float32())),
    ]
)

# What `TokensShard` gives of each neuron of a prompt.
TOKENS_SHARD = pa.schema(
    [TABLES["activating_prompts"].field(name) for name in ("tokens", "activations", "answer_position")]
)
# Activations at every token take more memory than predictions, by this factor.
TOKENS_AT_ONCE = 4


class Job:
    """One piece of work; a subclass gives `_table`, or `run` where it reports more finely."""

    @property
    def size(self) -> int:
        """How many units, such as prompts, progress counts."""
        return len(self.prompts)

    def prepare(self, subject: Subject) -> Any:
        """What needs no model; runs in another thread than the model's."""

    def run(self, worker: Worker, inputs: Any, advance: Advance) -> pa.Table:
        """The table, from what `prepare` gave; `advance(n)` as units are done."""
        table = self._table(worker, inputs)
        advance(self.size)
        return table


@dataclass(frozen=True)
class PrecisionSample(Job):
    """Prompts that are attributed twice, in the options' precision and in float32."""

    prompts: tuple[Prompt, ...]
    options: BuildOptions

    def _table(self, worker: Worker, inputs: None) -> pa.Table:
        """The largest difference of a score from float32's, as a share of the largest |score|, and the
        evaluations that both took; of the prompts that the model can be given."""
        from atlas.attribution.attribution import relative_difference

        subject = worker.subject
        usable = [prompt for prompt in self.prompts if subject.can_be_asked(prompt)]
        rounded, exact = (
            _attribute(worker, usable, self.options, subject=replace(subject, dtype=dtype))
            for dtype in (self.options.dtype, "float32")
        )
        pairs = zip(rounded, exact, strict=True)
        return pa.table(
            {
                "fact_id": pa.array([prompt.fact_id for prompt in usable], pa.string()),
                "template_id": pa.array([prompt.template_id for prompt in usable], pa.string()),
                "difference": pa.array(
                    [relative_difference(a.scores, b.scores) for a, b in pairs], pa.float64()
                ),
                "n_points": pa.array([int(a.n_points.sum()) for a in rounded], pa.int64()),
                "n_points_float32": pa.array([int(b.n_points.sum()) for b in exact], pa.int64()),
            }
        )


@dataclass(frozen=True)
class ShardPrompts:
    """A shard's prompts that the model can be given, and those it cannot, with the reason."""

    prompts: list[Encoded]
    held_out: list[bool]
    attributed: list[bool]
    left_out: list[dict[str, str]]


@dataclass(frozen=True)
class AttributeShard(Job):
    """Prompts of some facts, each fact's together, and which of them are held out or attributed."""

    prompts: tuple[Prompt, ...]
    held_out: tuple[bool, ...]
    attributed: tuple[bool, ...]
    options: BuildOptions

    def prepare(self, subject: Subject) -> ShardPrompts:
        """The prompts without those whose answer or length the model does not take.

        A fact is left out altogether when none of its discovery prompts can be used.
        """
        result = ShardPrompts([], [], [], [])

        def leave_out(prompt: Prompt, reason: str) -> None:
            result.left_out.append(
                {"fact_id": prompt.fact_id, "template_id": prompt.template_id, "reason": reason}
            )

        rows = zip(self.prompts, self.held_out, self.attributed, strict=True)
        for fact_id, of_fact in groupby(rows, key=lambda row: row[0].fact_id):
            usable: list[tuple[Encoded, bool, bool]] = []
            for prompt, held_out, attributed in of_fact:
                try:
                    usable.append((subject.encode(prompt), held_out, attributed))
                except PromptError as error:
                    leave_out(prompt, str(error))
            if all(held_out for _, held_out, _ in usable):
                for encoded, _, _ in usable:
                    leave_out(encoded.prompt, f"No discovery prompt of {fact_id} can be asked.")
                continue
            for encoded, held_out, attributed in usable:
                result.prompts.append(encoded)
                result.held_out.append(held_out)
                result.attributed.append(attributed)
        return result

    def run(self, worker: Worker, inputs: ShardPrompts, advance: Advance) -> pa.Table:
        """Rows of `ATTRIBUTE_SHARD`: scores and certificate of attributed prompts, the others' prediction."""
        batches = worker.batches
        chosen = [i for i, attributed in enumerate(inputs.attributed) if attributed]
        others = [i for i, attributed in enumerate(inputs.attributed) if not attributed]
        rows: list[dict[str, Any]] = [{}] * len(inputs.prompts)
        reported = 0

        def progress(done: int, total: int) -> None:
            nonlocal reported
            if done > reported:  # a batch that is made again reports nothing twice
                advance(done - reported)
                reported = done

        results = _attribute(worker, [inputs.prompts[i] for i in chosen], self.options, progress=progress)
        for i, result in zip(chosen, results, strict=True):
            rows[i] = _attributed_row(inputs.prompts[i].prompt, inputs.held_out[i], result)
        predictions = batches.run(
            lambda: worker.subject.predict(
                [inputs.prompts[i] for i in others], top_k=1, batch_tokens=batches.tokens
            )
        )
        for i, prediction in zip(others, predictions, strict=True):
            rows[i] = _prompt_row(inputs.prompts[i].prompt, inputs.held_out[i], prediction)
        advance(self.size - reported)
        return with_metadata(pa.Table.from_pylist(rows, schema=ATTRIBUTE_SHARD), left_out=inputs.left_out)


def _attribute(
    worker: Worker,
    prompts: Sequence[Prompt | Encoded],
    options: BuildOptions,
    *,
    subject: Subject | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Attribution]:
    from atlas.attribution import attribution

    batches = worker.batches
    return batches.run(
        lambda: attribution.attribute(
            subject or worker.subject,
            prompts,
            method=METHOD,
            rule=options.rule,
            tolerance=options.tolerance,
            max_points=MAX_POINTS,
            steps=options.steps,
            batch_rows=batches.rows,
            progress=progress,
        )
    )


def _prompt_row(prompt: Prompt, held_out: bool, prediction: Prediction) -> dict[str, Any]:
    token, probability = prediction.top[0]
    if not (0.0 <= prediction.probability <= 1.0 + 1e-6):
        raise BuildError(
            f"The model returned a probability of {prediction.probability} for '{prompt.text}'. "
            "Use --dtype float32 and check the weights."
        )
    return {
        "fact_id": prompt.fact_id,
        "template_id": prompt.template_id,
        "text": prompt.text,
        "held_out": held_out,
        "probability": prediction.probability,
        "rank": prediction.rank,
        "top_token": token,
        "top_probability": probability,
        "n_answer_tokens": len(prediction.token_probabilities),
    }


def _attributed_row(prompt: Prompt, held_out: bool, result: Attribution) -> dict[str, Any]:
    scores = result.scores  # (n_layers, n_neurons)
    largest = scores.max()
    if not np.isfinite(largest) or not np.isfinite(scores).all():
        raise BuildError(
            f"The model returned NaN scores for '{prompt.text}'. Use --dtype float32 and check the weights."
        )
    stored = (scores >= STORED_FRACTION * largest) & (scores > 0)
    layers, neurons = np.nonzero(stored)  # in the order of layer, then neuron
    return {
        **_prompt_row(prompt, held_out, result.prediction),
        "max_score": float(largest),
        "max_gap": result.max_gap,
        "n_points": int(result.n_points.sum()),
        "converged": bool(result.converged.all()),
        "n_layers": scores.shape[0],
        "n_unconverged": int((~result.converged).sum()),
        "layers": layers,
        "neurons": neurons,
        "scores": scores[stored],
    }


@dataclass(frozen=True)
class ReadOutShard(Job):
    """Neurons whose value vectors are read out."""

    neurons: tuple[Neuron, ...]

    @property
    def size(self) -> int:
        return len(self.neurons)

    def _table(self, worker: Worker, inputs: None) -> pa.Table:
        """value_norm, promoted and suppressed of the neurons, in their order."""
        from atlas.surgery.readout import readout

        readouts = readout(worker.subject, self.neurons, k=READOUT_TOKENS)
        columns = {"value_norm": pa.array([each.value_norm for each in readouts], pa.float32())}
        for name in ("promoted", "suppressed"):
            tokens = [
                [{"token": token, "logit": logit} for token, logit in getattr(each, name)]
                for each in readouts
            ]
            columns[name] = pa.array(tokens, TABLES["neurons"].field(name).type)
        return pa.table(columns)


@dataclass(frozen=True, eq=False)
class ActivationsShard(Job):
    """All prompts of some facts, and neurons.

    facts, relations, discovery: (n_prompts,), each prompt's fact and relation, and whether it found neurons;
    layers, neurons: (n_neurons,), those whose prompts are kept; pairs: (n_pairs, 3), fact, layer and neuron
    of the facts' knowledge neurons.
    """

    prompts: tuple[Prompt, ...]
    facts: np.ndarray
    relations: np.ndarray
    discovery: np.ndarray
    layers: np.ndarray
    neurons: np.ndarray
    pairs: np.ndarray

    def prepare(self, subject: Subject) -> list[Encoded]:
        return [subject.encode(prompt) for prompt in self.prompts]

    def _table(self, worker: Worker, inputs: list[Encoded]) -> pa.Table:
        """One row: what `ActivatingPrompts.merge` takes, and mean_activation of the pairs."""
        subject, batches = worker.subject, worker.batches
        found = batches.run(lambda: subject.activations(inputs, batch_tokens=batches.tokens)).numpy()
        kept = ActivatingPrompts(self.layers, self.neurons, self.facts, self.relations)
        kept.update(found, np.arange(len(found)))
        means = mean_activations(found, self.facts, self.discovery, self.pairs)
        return pa.table({**kept.packed(), "mean_activation": [means]})


@dataclass(frozen=True)
class TokensShard(Job):
    """Prompts, and of each the neurons whose activations are read."""

    prompts: tuple[Prompt, ...]
    neurons: tuple[tuple[Neuron, ...], ...]

    def prepare(self, subject: Subject) -> list[Encoded]:
        return [subject.unanswered(subject.encode(prompt)) for prompt in self.prompts]

    def _table(self, worker: Worker, inputs: list[Encoded]) -> pa.Table:
        """One row a neuron of a prompt, in their order: the columns of `TOKENS_SHARD`."""
        subject, batches = worker.subject, worker.batches
        found = batches.run(
            lambda: subject.token_activations(
                inputs, self.neurons, batch_tokens=batches.tokens // TOKENS_AT_ONCE
            )
        )
        rows = [
            (
                [subject.token_text(token) for token in encoded.input_ids],
                # Of numbers to look at, half the bytes are enough.
                of_neuron.bfloat16().float().numpy(),
                encoded.positions[0],
            )
            for encoded, of_prompt in zip(inputs, found, strict=True)
            for of_neuron in of_prompt
        ]
        columns = zip(*rows, strict=True) if rows else ((), (), ())
        return pa.table([list(column) for column in columns], schema=TOKENS_SHARD)


@dataclass(frozen=True)
class LensShard(Job):
    """Prompts that are read after each layer."""

    prompts: tuple[Prompt, ...]

    def prepare(self, subject: Subject) -> list[Encoded]:
        return [subject.encode(prompt) for prompt in self.prompts]

    def _table(self, worker: Worker, inputs: list[Encoded]) -> pa.Table:
        """The rows of `lens`."""
        from atlas.surgery.lens import lens

        found = worker.batches.run(lambda: lens(worker.subject, inputs, batch_tokens=worker.batches.tokens))
        rows = [
            {
                "fact_id": each.prompt.fact_id,
                "template_id": each.prompt.template_id,
                "layer": layer,
                "probability": prediction.probability,
                "rank": prediction.rank,
                "top": [{"token": token, "probability": p} for token, p in prediction.top],
            }
            for each in found
            for layer, prediction in enumerate(each.layers)
        ]
        return pa.Table.from_pylist(rows, schema=TABLES["lens"])


@dataclass(frozen=True)
class EvaluateShard(Job):
    """Evaluations: neurons that are changed, each with the prompt whose prediction is read."""

    evaluations: tuple[evaluation.Evaluation, ...]
    n_units: int

    @property
    def size(self) -> int:
        return self.n_units

    def prepare(self, subject: Subject) -> dict[Prompt, Encoded]:
        return {prompt: subject.encode(prompt) for prompt in {each.prompt for each in self.evaluations}}

    def _table(self, worker: Worker, inputs: dict[Prompt, Encoded]) -> pa.Table:
        return evaluation.evaluate_effects(
            worker.subject, self.evaluations, batches=worker.batches, encoded=inputs
        )
