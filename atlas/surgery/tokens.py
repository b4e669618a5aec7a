"""How active a neuron is at each token of any text: a sentence of a fact, or another.

    read = read_text(subject, "The capital of France is [MASK].", Neuron(2, 23))
    read.tokens[read.answer], read.activations[read.answer]

A prompt of an atlas reads as it is stored there: its tokens are those of `unanswered` prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from atlas.errors import PromptError
from atlas.interventions import Suppress
from atlas.models.known import OnProgress
from atlas.neuron import OBJECT_SLOT, Neuron, check_text
from atlas.surgery.encoding import n_appended
from atlas.surgery.hooks import recording
from atlas.surgery.interventions import check_interventions
from atlas.surgery.loaded import LoadedModel


@dataclass(frozen=True)
class ReadText:
    """A text's tokens and a neuron's activation at each; `answer` is the place an answer is read from.

    That is the first mask, None without one; in a causal model the last token.
    """

    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    answer: int | None


@torch.no_grad()
def read_text(
    subject: LoadedModel, text: str, neuron: Neuron, *, progress: OnProgress | None = None
) -> ReadText:
    """The neuron's activation at each token of the text, where ``[Y]`` or ``[MASK]`` may mark a gap.

    A causal model reads up to the gap. Raises `PromptError` for a text that the model cannot read, and
    `AtlasError` for a neuron that it does not have.
    """
    check_interventions(subject, Suppress((neuron,)))
    if progress is not None:
        progress(0.0, "reading the text")
    ids = _ids(subject, text)
    everywhere = torch.arange(len(ids), device=subject.device)[None]
    with subject.lock.turn(), recording(subject.model, subject.family, everywhere) as trace:
        subject.model.base_model(torch.tensor([ids], device=subject.device), **subject.forward_options())
    answer: int | None = len(ids) - 1
    if subject.family.kind == "masked":
        answer = next((k for k, token in enumerate(ids) if token == subject.tokenizer.mask_token_id), None)
    found = trace.activations[neuron.layer][0, :, neuron.neuron].float().cpu()
    return ReadText(tuple(map(subject.token_text, ids)), tuple(found.tolist()), answer)


def _ids(subject: LoadedModel, text: str) -> list[int]:
    check_text("The text", text)
    text, tokenizer = subject.mark(text), subject.tokenizer
    if subject.family.kind == "masked":
        ids = tokenizer(text.replace(OBJECT_SLOT, tokenizer.mask_token))["input_ids"]
    else:
        ids = tokenizer(text.split(OBJECT_SLOT)[0].removesuffix(" "))["input_ids"]
        ids = ids[: len(ids) - n_appended(tokenizer)]
    if not ids:
        raise PromptError("The text has no words to read. Write some.")
    if len(ids) > subject.max_length:
        raise PromptError(
            f"The text has {len(ids)} tokens, and {subject.name} reads at most {subject.max_length}. "
            "Shorten it."
        )
    subject.check_embedded(ids, subject.n_embeddings)
    return list(ids)
