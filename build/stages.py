"""The work of a build, one shard at a time; each function is given a loaded subject and returns a table.

1. `attribute_shard`: discovery prompts get scores with their certificate, held-out ones a prediction.
2. `readout_shard` and `ActivatingPrompts`: what each knowledge neuron writes, and the prompts on which it is
   most and least active.

A shard's rows depend on the plan and the shard alone. Where memory runs out, `Batches` halves what goes
through the model at once and the shard is made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
import torch

from atlas.errors import BuildError, PromptError
from atlas.neuron import Fact, Neuron, Prompt
from atlas.schema import TABLES
from atlas.surgery import attribution
from build.plan import MAX_POINTS, METHOD, STORED_FRACTION, Plan

if TYPE_CHECKING:
    from atlas.surgery.attribution import Attribution
    from atlas.surgery.subject import Prediction, Subject

Result = TypeVar("Result")
Report = Callable[[int], None]

PREDICT_TOKENS = 2048
READOUT_TOKENS = 10
ACTIVATING_PROMPTS = 5
AMPLIFY_FACTOR = 2.0
EVALUATION_VERSION = 4
"""Raised when stage 3 or 4 would give other rows than before, so that a resume makes them again."""
METADATA = b"build"

# One row a prompt: the columns of `prompts`, and its stored scores as three lists of equal length.
ATTRIBUTE_SHARD = pa.schema(
    [
        *(pa.field(column.name, column.type) for column in TABLES["prompts"]),
        pa.field("layers", pa.list_(pa.int16())),
        pa.field("neurons", pa.list_(pa.int32())),
        pa.field("scores", pa.list_(pa.float32())),
    ]
)


def with_metadata(table: pa.Table, **facts: Any) -> pa.Table:
    """The table with facts about its making in the file's footer."""
    merged = metadata_of(table.schema) | facts
    return table.replace_schema_metadata({METADATA: json.dumps(merged, ensure_ascii=False).encode()})


def metadata_of(schema: pa.Schema) -> dict[str, Any]:
    """What `with_metadata` noted."""
    return json.loads((schema.metadata or {}).get(METADATA, b"{}"))


# --- memory ---


@dataclass
class Batches:
    """How much goes through the model at once: answer tokens to attribute, tokens to predict.

    `run` halves both when memory runs out, for the rest of the build.
    """

    rows: int
    tokens: int = PREDICT_TOKENS
    note: Callable[[str], None] = field(default=lambda text: None, repr=False)

    @classmethod
    def for_subject(cls, subject: Subject, rows: int | None) -> Batches:
        return cls(rows or attribution.ITEMS_AT_ONCE.get(subject.device.type, 8))

    def run(self, work: Callable[[], Result]) -> Result:
        """`work()`, again with half the batch each time memory runs out."""
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
            # Outside the handler, so that the traceback no longer holds the tensors.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if self.rows <= 1 and self.tokens <= 64:
                raise BuildError(
                    "The memory does not suffice for a single prompt. Use --device cpu, --dtype bfloat16 "
                    "or a smaller model; complete shards are kept."
                )
            self.rows, self.tokens = max(1, self.rows // 2), max(64, self.tokens // 2)
            self.note(f"Out of memory: going on with batches of {self.rows}.")


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return "not enough memory" in str(error) or "out of memory" in str(error).lower()


# --- stage 1: attribute ---


@dataclass(frozen=True)
class ShardPrompts:
    """A shard's prompts that the model can be asked, and those it cannot, with the reason."""

    prompts: list[Prompt]
    held_out: list[bool]
    left_out: list[dict[str, str]]


def usable_prompts(subject: Subject, plan: Plan, facts: Sequence[Fact]) -> ShardPrompts:
    """Prompts of the facts; without those whose answer or length is not for this model.

    A fact none of whose discovery prompts can be asked is left out altogether.
    """
    result = ShardPrompts([], [], [])
    for fact in facts:
        usable: list[tuple[Prompt, bool]] = []
        for prompt, held_out in plan.prompts_of(fact):
            try:
                subject.encode(prompt)
            except PromptError as error:
                result.left_out.append(
                    {"fact_id": fact.fact_id, "template_id": prompt.template_id, "reason": str(error)}
                )
            else:
                usable.append((prompt, held_out))
        if all(held_out for _, held_out in usable):
            for prompt, _ in usable:
                result.left_out.append(
                    {
                        "fact_id": fact.fact_id,
                        "template_id": prompt.template_id,
                        "reason": f"No discovery prompt of {fact.fact_id} can be asked.",
                    }
                )
            continue
        result.prompts.extend(prompt for prompt, _ in usable)
        result.held_out.extend(held_out for _, held_out in usable)
    return result


def attribute_shard(
    subject: Subject, plan: Plan, facts: Sequence[Fact], *, batches: Batches, report: Report
) -> pa.Table:
    """Rows of `ATTRIBUTE_SHARD` for the facts; `report(n)` as prompts are done."""
    options = plan.options
    shard = usable_prompts(subject, plan, facts)
    chosen = [i for i, held_out in enumerate(shard.held_out) if plan.is_attributed(held_out)]
    others = [i for i, held_out in enumerate(shard.held_out) if not plan.is_attributed(held_out)]
    rows: list[dict[str, Any]] = [{}] * len(shard.prompts)
    reported = 0

    def progress(done: int, total: int) -> None:
        nonlocal reported
        if done > reported:  # a batch that is made again reports nothing twice
            report(done - reported)
            reported = done

    attributed = batches.run(
        lambda: attribution.attribute(
            subject,
            [shard.prompts[i] for i in chosen],
            method=METHOD,
            rule=options.rule,
            tolerance=options.tolerance,
            max_points=MAX_POINTS,
            steps=options.steps,
            batch_rows=batches.rows,
            progress=progress,
        )
    )
    for i, result in zip(chosen, attributed, strict=True):
        rows[i] = _attributed_row(shard.prompts[i], shard.held_out[i], result)
    predictions = batches.run(
        lambda: subject.predict([shard.prompts[i] for i in others], top_k=1, batch_tokens=batches.tokens)
    )
    for i, prediction in zip(others, predictions, strict=True):
        rows[i] = _prompt_row(shard.prompts[i], shard.held_out[i], prediction)
    report(plan.n_prompts_of(tuple(facts)) - reported)
    return with_metadata(pa.Table.from_pylist(rows, schema=ATTRIBUTE_SHARD), left_out=shard.left_out)


def _prompt_row(prompt: Prompt, held_out: bool, prediction: Prediction) -> dict[str, Any]:
    token, probability = prediction.top[0]
    if not (0.0 <= prediction.probability <= 1.0 + 1e-6):
        raise BuildError(
            f"The model gives the prompt '{prompt.text}' a probability of {prediction.probability}. "
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
            f"A score of the prompt '{prompt.text}' is no number (NaN). "
            "Use --dtype float32 and check the model's weights."
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


# --- stage 3: read out ---


def readout_shard(subject: Subject, neurons: Sequence[Neuron], *, k: int = READOUT_TOKENS) -> pa.Table:
    """value_norm, promoted and suppressed of `neurons`, in the order given."""
    from atlas.surgery.readout import readout

    kinds = TABLES["neurons"]
    readouts = readout(subject, neurons, k=k)

    def tokens(pairs: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
        return [{"token": token, "logit": logit} for token, logit in pairs]

    return pa.table(
        {
            "value_norm": pa.array([each.value_norm for each in readouts], pa.float32()),
            "promoted": pa.array([tokens(each.promoted) for each in readouts], kinds.field("promoted").type),
            "suppressed": pa.array(
                [tokens(each.suppressed) for each in readouts], kinds.field("suppressed").type
            ),
        }
    )


class ActivatingPrompts:
    """The `k` prompts on which each neuron is most and least active, kept while prompts stream by.

    `update` must be given the prompts in order: of equal activations the earlier prompt wins.
    Arrays: values and prompts of both sides, (2, n_neurons, k); side 1 holds negated activations.
    """

    def __init__(self, neurons: Sequence[Neuron], *, k: int = ACTIVATING_PROMPTS) -> None:
        self.k = k
        self.layers = np.array([neuron.layer for neuron in neurons], np.int64)
        self.indices = np.array([neuron.neuron for neuron in neurons], np.int64)
        self.values = np.full((2, len(neurons), k), -np.inf, np.float32)
        self.prompts = np.full((2, len(neurons), k), -1, np.int64)
        self.next_shard = 0
        self.seconds = 0.0

    def update(self, activations: np.ndarray, prompts: np.ndarray) -> None:
        """activations (n_prompts, n_layers, n_neurons of a layer) of the prompts with these numbers."""
        chosen = activations[:, self.layers, self.indices].T  # (n_neurons, n_prompts)
        for side, new in enumerate((chosen, -chosen)):
            values = np.concatenate([self.values[side], new], axis=1)
            numbers = np.concatenate([self.prompts[side], np.broadcast_to(prompts, new.shape)], axis=1)
            for place in range(self.k):
                best = values.argmax(axis=1)[:, None]  # the first of equal ones, so the earliest prompt
                self.values[side, :, place] = np.take_along_axis(values, best, 1)[:, 0]
                self.prompts[side, :, place] = np.take_along_axis(numbers, best, 1)[:, 0]
                np.put_along_axis(values, best, -np.inf, 1)
                np.put_along_axis(numbers, best, -1, 1)

    def save(self, file: BinaryIO) -> None:
        np.savez(
            file,
            values=self.values,
            prompts=self.prompts,
            next_shard=self.next_shard,
            seconds=self.seconds,
        )

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        with np.load(path, allow_pickle=False) as state:
            self.values, self.prompts = state["values"], state["prompts"]
            self.next_shard, self.seconds = int(state["next_shard"]), float(state["seconds"])

    def table(self, fact_ids: pa.Array, template_ids: pa.Array) -> pa.Table:
        """The table `activating_prompts`; prompt numbers index both arrays."""
        parts = []
        for side, name in enumerate(("top", "bottom")):
            neuron, place = np.nonzero(self.prompts[side] >= 0)
            number = pa.array(self.prompts[side, neuron, place])
            activation = self.values[side, neuron, place]
            parts.append(
                pa.table(
                    {
                        "layer": self.layers[neuron],
                        "neuron": self.indices[neuron],
                        "side": pa.array([name] * len(neuron), pa.string()),
                        "rank": place + 1,
                        "fact_id": fact_ids.take(number),
                        "template_id": template_ids.take(number),
                        "activation": activation if side == 0 else -activation,
                    }
                )
            )
        return pa.concat_tables(parts)
