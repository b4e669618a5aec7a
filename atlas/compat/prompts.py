"""Prompts and answers as scripts for `knowledge-neurons` write them, and what a model says to them.

    asked = question(subject, "The capital of France is", " Paris")
    said(subject, asked, quietly).probability        # of the whole answer

1. *Masked models*: the prompt holds one ``[MASK]``; an answer of several tokens gets several masks.
2. *Causal models*: the answer follows the prompt as the two strings read when joined, so " Paris" and "Paris"
   differ as they did there. A prompt that ends with ``[MASK]``, as PARAREL's do, is understood too.
3. *Strictly*: one token, found as the original finds it: a word that BERT does not know whole becomes
   ``[UNK]``, with a warning; a causal answer of several tokens, which it cannot ask for, is refused.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from atlas.errors import PromptError
from atlas.neuron import OBJECT_SLOT, Prompt
from atlas.surgery.subject import Encoded, Subject

# Given answer positions, a context in which changes are in force there.
Changing = Callable[[tuple[int, ...]], AbstractContextManager]


def question(
    subject: Subject, prompt: str, answer: str, *, strict: bool = False, encoded_input: Mapping | None = None
) -> Encoded:
    """The prompt in tokens, with the place of each of the answer's tokens.

    encoded_input: the prompt as the tokenizer gave it, `input_ids` of shape (1, n_tokens), used instead.
    Raises `PromptError` when the answer has no single place or is outside the vocabulary.
    """
    for text, what in ((prompt, "prompt"), (answer, "answer")):
        if not isinstance(text, str):
            raise PromptError(f"The {what} is {text!r}, which is no text. Give a string.")
    causal = subject.family.kind == "causal"
    if encoded_input is None and not strict:
        return subject.encode(_joined(subject, prompt, answer) if causal else subject.prompt(prompt, answer))
    ids = _tokens(subject.tokenizer(prompt) if encoded_input is None else encoded_input)
    masks = tuple(k for k, token in enumerate(ids) if token == subject.tokenizer.mask_token_id)
    if strict:
        targets = (_strict_target(subject, answer, causal=causal),)
    else:
        # A masked model's sentence begins with a token of its own; anything else before the mask is a word.
        space = answer[:1].isspace() if causal else masks[:1] > (1,)
        targets = subject.answer_tokens(answer, space=space)
    if causal:
        positions = tuple(len(ids) - 1 + j for j in range(len(targets)))
        ids += targets[:-1]
    else:
        positions = masks
        if len(positions) != len(targets):
            raise PromptError(
                f"The prompt '{prompt}' holds {len(positions)} masks for an answer of {len(targets)} tokens. "
                f"Write {subject.tokenizer.mask_token} once for each."
            )
    if not 0 < len(ids) <= subject.max_length:
        raise PromptError(
            f"The prompt '{prompt[:60]}' has {len(ids)} tokens; {subject.name} reads 1 to "
            f"{subject.max_length}. Write more, or less."
        )
    stem = prompt.replace(OBJECT_SLOT, "")
    return Encoded(Prompt("", "", f"{stem} {OBJECT_SLOT}", answer), ids, positions, targets)


def _joined(subject: Subject, prompt: str, answer: str) -> Prompt:
    marked = subject.prompt(prompt, answer)
    if marked.text != f"{prompt.rstrip()} {OBJECT_SLOT}":
        return marked  # it says itself where the answer goes
    space = answer[: len(answer) - len(answer.lstrip())]
    return Prompt(fact_id="", template_id="", text=f"{prompt}{space}{OBJECT_SLOT}", answer=answer)


def _tokens(encoding: Mapping) -> tuple[int, ...]:
    """The one row of an encoding, without padding."""
    if torch.as_tensor(encoding["input_ids"]).dim() > 1 and len(encoding["input_ids"]) != 1:
        raise PromptError(f"The input has {len(encoding['input_ids'])} rows. Give one prompt at a time.")
    ids = torch.as_tensor(encoding["input_ids"]).flatten().tolist()
    kept = torch.as_tensor(encoding.get("attention_mask", [1] * len(ids))).flatten().tolist()
    return tuple(token for token, seen in zip(ids, kept, strict=True) if seen)


def _strict_target(subject: Subject, answer: str, *, causal: bool) -> int:
    tokenizer = subject.tokenizer
    if causal:
        ids = tokenizer.encode(answer)
        if len(ids) != 1:
            raise PromptError(
                f"The answer '{answer}' has {len(ids)} tokens, and the original asks causal models for one. "
                "Leave out strict_replication."
            )
        return ids[0]
    target = tokenizer.convert_tokens_to_ids(answer)
    if target in (None, tokenizer.unk_token_id) and answer != tokenizer.unk_token:
        warnings.warn(
            f"'{answer}' is no token of {subject.name}: the original asks for {tokenizer.unk_token} instead, "
            "and so does strict_replication.",
            stacklevel=4,
        )
        target = tokenizer.unk_token_id
    return target


@dataclass(frozen=True)
class Said:
    """What a model says: the probability of the answer asked for, and its own answer of as many tokens.

    Of several tokens, products; a causal model's own answer is its greedy continuation.
    """

    probability: float
    own_tokens: tuple[int, ...]
    own_answer: str
    own_probability: float

    @property
    def plain(self) -> dict[str, float | str]:
        """With the names that the original gives."""
        return {
            "gt_prob": self.probability,
            "argmax_completion": self.own_answer,
            "argmax_prob": self.own_probability,
        }


@torch.no_grad()
def said(subject: Subject, asked: Encoded, changing: Changing) -> Said:
    """What the model says, with changes in force at the answer's positions."""

    def probabilities(input_ids: tuple[int, ...], positions: tuple[int, ...]) -> Tensor:
        row = torch.tensor([input_ids], device=subject.device)
        with subject.lock, changing(positions):
            logits = subject.model(row, **subject.forward_options()).logits[0]
        return logits[list(positions)].float().softmax(-1)  # (n_positions, n_tokens)

    p = probabilities(asked.input_ids, asked.positions)
    wanted = [p[j, target].item() for j, target in enumerate(asked.targets)]
    best, tokens = ([*row] for row in (each.tolist() for each in p.max(-1)))
    if subject.family.kind == "causal" and len(wanted) > 1:
        # Its own answer goes on after its own tokens, not after those asked for.
        first, best, tokens = asked.positions[0], best[:1], tokens[:1]
        while len(tokens) < len(wanted):
            positions = tuple(range(first, first + len(tokens) + 1))
            p = probabilities((*asked.input_ids[: first + 1], *tokens), positions)
            best.append(p[-1].max().item())
            tokens.append(int(p[-1].argmax()))
    return Said(
        probability=math.prod(wanted),
        own_tokens=tuple(tokens),
        own_answer=subject.tokenizer.decode(tokens),
        own_probability=math.prod(best),
    )
