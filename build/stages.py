"""The work of a build, one shard at a time; each function is given a loaded subject and returns a table.

1. `attribute_shard`: discovery prompts get scores with their certificate, held-out ones a prediction.
2. `evaluate_shard`: what suppressing and amplifying does to held-out prompts, beside its controls.
3. `ActivatingPrompts`: the prompts on which each knowledge neuron is most and least active.

A shard's rows depend on the plan and the shard alone. Where memory runs out, `Batches` halves what goes
through the model at once and the shard is made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from atlas.errors import BuildError, PromptError
from atlas.neuron import Fact, Prompt
from atlas.schema import TABLES
from atlas.surgery import attribution
from build.plan import MAX_POINTS, METHOD, STORED_FRACTION, Plan

if TYPE_CHECKING:
    from atlas.surgery.attribution import Attribution
    from atlas.surgery.subject import Prediction, Subject

Result = TypeVar("Result")
Report = Callable[[int], None]

PREDICT_TOKENS = 2048
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
