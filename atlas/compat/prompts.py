"""Prompts and answers as scripts for `knowledge-neurons` write them, and a model's completions.

1. *Masked models*: the prompt holds one ``[MASK]``; an answer of several tokens gets several masks.
2. *Causal models*: the two strings are joined as they are, so " Paris" and "Paris" differ. A prompt that ends
   with ``[MASK]``, as PARAREL's do, is read without it.
3. *Strictly*, as the original: one token. A word of several tokens becomes BERT's ``[UNK]``, with a warning;
   a causal answer of several tokens is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from atlas.compat.scores import finite
from atlas.errors import PromptError
from atlas.neuron import OBJECT_SLOT, Prompt, check_text
from atlas.surgery.encoding import n_appended
from atlas.surgery.subject import Encoded, Subject

# From answer positions to a context in which changes act there.
Changing = Callable[[tuple[int, ...]], AbstractContextManager]


def encode(
    subject: Subject, prompt: str, answer: str, *, strict: bool = False, encoded_input: Mapping | None = None
) -> Encoded:
    """The prompt in tokens, with the position of each answer token.

    encoded_input: the tokens to read for the prompt, `input_ids` of shape (1, n_tokens).
    Raises `PromptError` when the answer has no single place or is outside the vocabulary.
    """
    for name, text in (("prompt", prompt), ("answer", answer)):
        if not isinstance(text, str):
            raise PromptError(f"The {name} must be a string, got {text!r}.")
        check_text(f"The {name}", text)
    causal = subject.family.kind == "causal"
    own = _token_ids(subject.tokenizer(prompt))
    ids = own if encoded_input is None else _token_ids(encoded_input)
    masks = tuple(k for k, token in enumerate(ids) if token == subject.tokenizer.mask_token_id)
    targets: tuple[int, ...]
    if strict:
        targets = (_strict_target(subject, answer, causal=causal),)
    else:
        marked = subject.mark(prompt)
        if causal and OBJECT_SLOT not in marked:
            marked = f"{prompt}{answer[: len(answer) - len(answer.lstrip())]}{OBJECT_SLOT}"
        if ids == own:
            return subject.encode(Prompt("", "", marked, answer))
        before, slot, _ = marked.partition(OBJECT_SLOT)
        targets = subject.answer_tokens(answer, before=before if slot else None)
        end = len(own) - n_appended(subject.tokenizer)
        if causal and ids[-len(own[end:]) :] == own[end:]:
            ids = ids[: len(ids) - len(own[end:])]
    if not causal and len(masks) != len(targets):
        raise PromptError(
            f"The prompt '{prompt}' has {len(masks)} masks for an answer of {len(targets)} tokens. "
            f"Write {subject.tokenizer.mask_token} once for each token."
        )
    positions = tuple(len(ids) - 1 + j for j in range(len(targets))) if causal else masks
    ids += targets[:-1] if causal else ()
    if not 0 < len(ids) <= subject.max_length:
        raise PromptError(
            f"The prompt '{prompt[:60]}' has {len(ids)} tokens, but {subject.name} reads 1 to "
            f"{subject.max_length}. Change its length."
        )
    stem = prompt.replace(OBJECT_SLOT, "")
    return subject.encode(Encoded(Prompt("", "", f"{stem} {OBJECT_SLOT}", answer), ids, positions, targets))


def _token_ids(encoding: Mapping) -> tuple[int, ...]:
    """The one row of an encoding, without padding."""
    ids = torch.atleast_2d(torch.as_tensor(encoding["input_ids"]))
    if len(ids) != 1:
        raise PromptError(f"The input has {len(ids)} rows. Give one prompt at a time.")
    seen = torch.as_tensor(encoding.get("attention_mask", torch.ones_like(ids)))
    return tuple(ids[seen.reshape(ids.shape).bool()].tolist())


def _strict_target(subject: Subject, answer: str, *, causal: bool) -> int:
    tokenizer = subject.tokenizer
    if causal:
        ids = tokenizer.encode(answer)
        if len(ids) != 1:
            raise PromptError(
                f"The answer '{answer}' has {len(ids)} tokens, but the original takes causal answers of one. "
                "Leave out strict_replication."
            )
        return ids[0]
    target: Any = tokenizer.convert_tokens_to_ids(answer)
    if target in (None, tokenizer.unk_token_id) and answer != tokenizer.unk_token:
        warnings.warn(
            f"'{answer}' is not a token of {subject.name}. With strict_replication, as in the original, "
            f"{tokenizer.unk_token} takes its place.",
            stacklevel=4,
        )
        target = tokenizer.unk_token_id
    return target


@torch.no_grad()
def complete(
    subject: Subject, encoded: Encoded, changing: Changing
) -> tuple[dict[str, float | str], tuple[int, ...]]:
    """The original's results for a prompt, and the tokens of the model's own answer.

    gt_prob: the probability of the encoded answer; argmax_completion: the model's own answer of as many
    tokens, a causal model's greedy continuation; argmax_prob: its probability. Both are products over tokens.
    Raises `ModelError` when the model returns NaN.
    """

    def probabilities(row: Encoded) -> Tensor:  # (n_positions, n_tokens)
        input_ids = torch.tensor([row.input_ids], device=subject.device)
        with subject.lock, changing(row.positions):
            logits = subject.model(input_ids, **subject.forward_options()).logits[0]
        return finite(subject, logits[list(row.positions)].float().softmax(-1))

    p = probabilities(encoded)
    wanted = p[range(len(p)), encoded.targets].prod().item()
    if subject.family.kind == "causal":
        # Each pass replaces one more of the answer's tokens by the model's own.
        stem = encoded.input_ids[: encoded.positions[0] + 1]
        for _ in encoded.targets[1:]:
            p = probabilities(replace(encoded, input_ids=(*stem, *p.argmax(-1).tolist()[:-1])))
    best = p.max(-1)
    report: dict[str, float | str] = {
        "gt_prob": wanted,
        "argmax_completion": str(subject.tokenizer.decode(best.indices)),
        "argmax_prob": best.values.prod().item(),
    }
    return report, tuple(best.indices.tolist())
