"""The rows of a build that come from the model; each function is given a loaded subject and returns a table.

1. `precision_sample`: what scores in less than float32 are off by.
2. `attribute_shard`: discovery prompts get scores with their certificate, held-out ones a prediction.
3. `readout_shard`: what each knowledge neuron writes.

A shard's rows depend on its job alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from atlas.attribution import attribution
from atlas.errors import BuildError, PromptError
from atlas.neuron import Neuron, Prompt
from atlas.store.schema import TABLES
from build.output.writer import with_metadata
from build.plan import MAX_POINTS, METHOD, STORED_FRACTION, BuildOptions

if TYPE_CHECKING:
    from atlas.attribution.attribution import Attribution
    from atlas.surgery.subject import Encoded, Prediction, Subject
    from build.jobs.jobs import AttributeShard, Report
    from build.jobs.worker import Batches

# One row a prompt: the columns of `prompts`, and its stored scores as three lists of equal length.
ATTRIBUTE_SHARD = pa.schema(
    [
        *(pa.field(column.name, column.type) for column in TABLES["prompts"]),
        pa.field("layers", pa.list_(pa.int16())),
        pa.field("neurons", pa.list_(pa.int32())),
        pa.field("scores", pa.list_(pa.float32())),
    ]
)


# --- before stage 1: precision ---


def precision_sample(
    subject: Subject, prompts: Sequence[Prompt], options: BuildOptions, *, batches: Batches
) -> pa.Table:
    """Of the prompts that can be asked: the largest difference of a score from float32's, as a share of the
    largest |score|, and the evaluations that both took."""
    usable = [prompt for prompt in prompts if subject.can_be_asked(prompt)]
    rounded, exact = (
        batches.run(partial(_attributed, replace(subject, dtype=dtype), usable, options, batches))
        for dtype in (options.dtype, "float32")
    )
    return pa.table(
        {
            "fact_id": pa.array([prompt.fact_id for prompt in usable], pa.string()),
            "template_id": pa.array([prompt.template_id for prompt in usable], pa.string()),
            "difference": pa.array(
                [
                    attribution.relative_difference(a.scores, b.scores)
                    for a, b in zip(rounded, exact, strict=True)
                ],
                pa.float64(),
            ),
            "n_points": pa.array([int(a.n_points.sum()) for a in rounded], pa.int64()),
            "n_points_float32": pa.array([int(b.n_points.sum()) for b in exact], pa.int64()),
        }
    )


def _attributed(
    subject: Subject,
    prompts: Sequence[Prompt | Encoded],
    options: BuildOptions,
    batches: Batches,
    progress: Callable[[int, int], None] | None = None,
) -> list[Attribution]:
    return attribution.attribute(
        subject,
        prompts,
        method=METHOD,
        rule=options.rule,
        tolerance=options.tolerance,
        max_points=MAX_POINTS,
        steps=options.steps,
        batch_rows=batches.rows,
        progress=progress,
    )


# --- stage 1: attribute ---


@dataclass(frozen=True)
class ShardPrompts:
    """A shard's prompts that the model can be asked, and those it cannot, with the reason."""

    prompts: list[Encoded]
    held_out: list[bool]
    attributed: list[bool]
    left_out: list[dict[str, str]]

    @property
    def n_all(self) -> int:
        return len(self.prompts) + len(self.left_out)


def usable_prompts(subject: Subject, job: AttributeShard) -> ShardPrompts:
    """The job's prompts without those whose answer or length is not for this model.

    A fact none of whose discovery prompts can be asked is left out altogether.
    """
    result = ShardPrompts([], [], [], [])

    def leave_out(prompt: Prompt, reason: str) -> None:
        result.left_out.append(
            {"fact_id": prompt.fact_id, "template_id": prompt.template_id, "reason": reason}
        )

    rows = zip(job.prompts, job.held_out, job.attributed, strict=True)
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


def attribute_shard(
    subject: Subject, shard: ShardPrompts, options: BuildOptions, *, batches: Batches, report: Report
) -> pa.Table:
    """Rows of `ATTRIBUTE_SHARD` for the prompts; `report(n)` as prompts are done."""
    chosen = [i for i, attributed in enumerate(shard.attributed) if attributed]
    others = [i for i, attributed in enumerate(shard.attributed) if not attributed]
    rows: list[dict[str, Any]] = [{}] * len(shard.prompts)
    reported = 0

    def progress(done: int, total: int) -> None:
        nonlocal reported
        if done > reported:  # a batch that is made again reports nothing twice
            report(done - reported)
            reported = done

    attributed = batches.run(
        lambda: _attributed(subject, [shard.prompts[i] for i in chosen], options, batches, progress)
    )
    for i, result in zip(chosen, attributed, strict=True):
        rows[i] = _attributed_row(shard.prompts[i].prompt, shard.held_out[i], result)
    predictions = batches.run(
        lambda: subject.predict([shard.prompts[i] for i in others], top_k=1, batch_tokens=batches.tokens)
    )
    for i, prediction in zip(others, predictions, strict=True):
        rows[i] = _prompt_row(shard.prompts[i].prompt, shard.held_out[i], prediction)
    report(shard.n_all - reported)
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


def readout_shard(subject: Subject, neurons: Sequence[Neuron], *, k: int) -> pa.Table:
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
