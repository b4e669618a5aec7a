"""What a causal model goes on to say, word for word, also with neurons changed.

    generate(subject, subject.prompt("The capital of France is", "Paris"))
    generate(subject, prompt, [Suppress(neurons)], n_tokens=20)
    generate_all(subject, prompts, changes)             # of each prompt, under its own change

Greedy: each token is the likeliest after those before it. Each place that a token is read from is an answer
position: activations are suppressed and amplified at the last token of the prompt and at every generated one,
not at those before. So the first token is what `Subject.predict` says under the same change. Keys and values
are kept from token to token, a prompt's own under its own change.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch

from atlas.errors import PromptError
from atlas.interventions import Intervention
from atlas.neuron import Prompt
from atlas.surgery.interventions import Prepared, changing, check_interventions, prepare
from atlas.surgery.loaded import Encoded, batches
from atlas.surgery.subject import Subject

Change = Intervention | Sequence[Intervention]


def generate(subject: Subject, prompt: Prompt, interventions: Change = (), *, n_tokens: int = 20) -> str:
    """The text that the model puts in the answer's place, at most `n_tokens` tokens; see `generate_all`."""
    return generate_all(subject, [prompt], [interventions], n_tokens=n_tokens)[0]


@torch.no_grad()
def generate_all(
    subject: Subject,
    prompts: Sequence[Prompt | Encoded],
    changes: Sequence[Change],
    *,
    n_tokens: int = 20,
    batch_tokens: int = 2048,
) -> list[str]:
    """What the model puts in each answer's place, each under its own change: `n_tokens` tokens, or fewer
    where it ends the text.

    Raises `PromptError` for a masked model, and where prompt and text are longer than the model reads.
    """
    if subject.family.kind != "causal":
        raise PromptError(f"{subject.name} fills in masks and cannot continue a text. Choose a causal model.")
    encoded = [subject.unanswered(subject.encode(prompt)) for prompt in prompts]
    for each in encoded:
        if len(each.input_ids) + n_tokens > subject.max_length:
            raise PromptError(
                f"The prompt '{each.prompt.text[:60]}…' has {len(each.input_ids)} tokens, and {subject.name} "
                f"reads at most {subject.max_length}: {n_tokens} more do not fit. Shorten it, or take fewer."
            )
    made = [prepare(subject, check_interventions(subject, change)) for change in changes]
    texts = [""] * len(encoded)
    with subject.lock.turn():
        for batch in batches(encoded, batch_tokens):
            subject.lock.give_way()
            rows, here = [encoded[index] for index in batch], [made[index] for index in batch]
            for index, tokens in zip(batch, _greedy(subject, rows, here, n_tokens), strict=True):
                texts[index] = subject.tokenizer.decode(tokens)
    return texts


def _greedy(
    subject: Subject, rows: Sequence[Encoded], changes: Sequence[Prepared], n_tokens: int
) -> list[list[int]]:
    """The tokens after each row, up to one that ends a text. Rows have one length."""
    from transformers import DynamicCache

    ends = subject.model.generation_config.eos_token_id
    ends = {ends} if ends is None or isinstance(ends, int) else set(ends)
    input_ids, positions, _, valid = subject.tensors(rows)
    cache, said = DynamicCache(), []
    for _ in range(n_tokens):
        with changing(subject, changes, positions, valid):
            after = subject.model.base_model(input_ids, past_key_values=cache, use_cache=True)
        input_ids = subject.family.say(subject.model, after.last_hidden_state[:, -1:]).argmax(-1)
        positions = torch.zeros_like(positions)  # from now on one token at a time
        said.append(input_ids)
    tokens = torch.cat(said, 1).tolist() if said else [[] for _ in rows]
    return [list(takewhile(lambda token: token not in ends, row)) for row in tokens]
