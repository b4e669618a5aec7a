"""The subject model, loaded once and shared: predictions and interventions that never write its weights.

    subject = load_subject("pocket-bert")
    subject.predict([subject.prompt("The capital of France is [MASK].", "Paris")])[0].probability
    with subject.applied(Suppress(neurons)) as changed:
        changed.predict(prompts)

`atlas.surgery.loaded` has the model itself: its sizes, prompts and tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from atlas.errors import ModelError, PromptError
from atlas.models import locate
from atlas.models.device import device_of
from atlas.neuron import Prompt
from atlas.surgery.baking import bake
from atlas.surgery.interventions import Intervention, Prepared, changing, check_interventions, prepare
from atlas.surgery.loaded import (
    Encoded,
    LoadedModel,
    Prediction,
    batches,
    token_predictions,
    whole_answer,
)
from atlas.surgery.loading import check_model, read_model
from atlas.surgery.precision import PRECISIONS
from atlas.surgery.prefix import at_answers_only, hidden_at_answers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Of the changes of one call, so many are kept ready for hooks.
PREPARED_CHANGES = 64


class Subject(LoadedModel):
    """A loaded model with predictions and interventions; methods that run it hold `lock`."""

    @contextmanager
    def applied(self, interventions: Intervention | Sequence[Intervention]) -> Iterator[ChangedModel]:
        """A view of the subject with the interventions in force; the subject itself is unchanged.

        Weights are never written: hooks live only inside each forward pass, so leaving the block,
        also through an exception, leaves the model bit for bit as it was.
        """
        yield ChangedModel(self, check_interventions(self, interventions))

    def bake(self, interventions: Intervention | Sequence[Intervention], folder: str | Path) -> Path:
        """Write a changed copy of the weights, with the tokenizer, to a new folder; see `baking.bake`."""
        return bake(self, check_interventions(self, interventions), Path(folder))

    def predict(
        self,
        prompts: Sequence[Prompt | Encoded],
        *,
        top_k: int = 10,
        interventions: Sequence[Intervention | Sequence[Intervention] | None] | None = None,
        batch_tokens: int = 2048,
        share_prefixes: bool = False,
    ) -> list[Prediction]:
        """Probability and rank of each prompt's answer, and the likeliest tokens in its place.

        `interventions` gives each prompt its own change (None: none), so that effects of many facts are
        measured in one batch. share_prefixes: where only activations at the answers change, compute each
        prompt's prefix once; faster, and equal up to rounding only.
        """
        encoded = [self.encode(prompt) for prompt in prompts]
        changes, change_of = self._distinct_changes(interventions, len(encoded))
        by_prefix = share_prefixes and at_answers_only(self, changes)
        # Batches of one length follow each other, and most prompts of a batch have the same change.
        prepared = lru_cache(PREPARED_CHANGES)(lambda number: prepare(self, changes[number]))
        results: dict[int, Prediction] = {}
        with self.lock.turn():
            for batch in batches(encoded, batch_tokens, by_prefix=by_prefix):
                self.lock.give_way()
                rows, numbers = [encoded[index] for index in batch], [change_of[index] for index in batch]
                predictions = self._predict_batch(rows, numbers, prepared, top_k, by_prefix=by_prefix)
                results.update(zip(batch, predictions, strict=True))
        return [results[index] for index in range(len(encoded))]

    def _distinct_changes(
        self, interventions: Sequence | None, n_prompts: int
    ) -> tuple[list[tuple[Intervention, ...]], list[int]]:
        """The different changes, and which of them is each prompt's. To hash one takes time: each once."""
        if interventions is None:
            return [()], [0] * n_prompts
        if len(interventions) != n_prompts:
            raise PromptError(
                f"There are {len(interventions)} interventions for {n_prompts} prompts. Give one per prompt."
            )
        given = {id(item): item for item in interventions}
        numbers: dict[tuple[Intervention, ...], int] = {}
        number_of = {
            key: numbers.setdefault(() if item is None else check_interventions(self, item), len(numbers))
            for key, item in given.items()
        }
        return list(numbers), [number_of[id(item)] for item in interventions]

    @torch.no_grad()
    def _predict_batch(
        self,
        rows: list[Encoded],
        change_of: list[int],
        prepared: Callable[[int], Prepared],
        top_k: int,
        *,
        by_prefix: bool,
    ) -> list[Prediction]:
        # Prompts that differ in the last token of their answer alone, as the old one and the new one of an
        # edit, are the same sentence to the model, and go through it once.
        keys = [(row.input_ids, row.positions, number) for row, number in zip(rows, change_of, strict=True)]
        first: dict[tuple, int] = {}
        for index, key in enumerate(keys):
            first.setdefault(key, index)
        place = {key: number for number, key in enumerate(first)}
        read = [rows[index] for index in first.values()]
        made = [prepared(change_of[index]) for index in first.values()]
        input_ids, positions, _, where = self.tensors(read)
        if by_prefix:
            answers = hidden_at_answers(self, read, made)
        else:
            with changing(self, made, positions, where):
                hidden = self.model.base_model(input_ids, **self.forward_options()).last_hidden_state
            answers = hidden[torch.arange(len(read), device=self.device)[:, None], positions]
        # base_model has applied the final norm already, so only the head is left to do.
        logits = self.family.say(self.model, answers)
        _, _, targets, valid = self.tensors(rows)
        if len(read) < len(rows):
            logits = logits[[place[key] for key in keys]]
        predictions = iter(token_predictions(self, logits[valid], targets[valid], top_k=top_k))
        return [whole_answer([next(predictions) for _ in encoded.targets]) for encoded in rows]


@dataclass(frozen=True)
class ChangedModel:
    """A subject with interventions in force."""

    subject: Subject
    interventions: tuple[Intervention, ...]

    def predict(self, prompts: Sequence[Prompt], *, top_k: int = 10) -> list[Prediction]:
        """`Subject.predict`, with the interventions in place for every prompt."""
        return self.subject.predict(prompts, top_k=top_k, interventions=[self.interventions] * len(prompts))


def load_subject(name: str, *, device: str | None = "auto", dtype: str = "float32") -> Subject:
    """The model of that name, folder or hub id, ready to be studied.

    device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` or None is a GPU where there is one.
    dtype: ``float32`` (default), ``tf32`` or ``bfloat16``: how exactly attribution computes its matrix
    products (`atlas.surgery.precision`); weights and everything else are float32. Weights come from
    safetensors only and no remote code is run. Raises `ModelError` when the model cannot be loaded or its
    family is not supported.
    """
    if dtype not in PRECISIONS:
        raise ModelError(f"dtype must be one of {', '.join(PRECISIONS)}, got '{dtype}'.")
    target = device_of(device)
    located = locate(name)
    model, tokenizer = read_model(Path(located.folder), located.name)
    subject = subject_of(model, tokenizer, name=located.name, device=target, dtype=dtype)
    subject.revision, subject.weights_sha256 = located.revision, located.weights_sha256
    subject.config_sha256 = located.config_sha256
    return subject


def subject_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str = "",
    device: str | torch.device | None = None,
    dtype: str = "float32",
) -> Subject:
    """A `Subject` made of a language model and its tokenizer, which are not copied.

    The model is moved to the device (None: a GPU where there is one) and to float32, put in evaluation mode,
    and its parameters need no gradients any more. Raises `ModelError` for an unsupported family, and for a
    model without a language-modelling head, with adapters (PEFT) or with quantised weights.
    """
    name = name or str(getattr(getattr(model, "config", None), "_name_or_path", "")) or type(model).__name__
    family = check_model(model, tokenizer, name)
    target = device_of(device)
    model = model.to(device=target, dtype=torch.float32)
    return Subject(name, "", "", model.eval().requires_grad_(False), tokenizer, family, target, dtype)
