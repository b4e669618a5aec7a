"""Compute a prompt's prefix once for many changes in a causal model.

    subject.predict(prompts, interventions=changes, share_prefixes=True)

Activations are changed at the answer position (`atlas.surgery.interventions`), and a causal model never looks
ahead, so keys and values before the first answer position are those of the unchanged model. This is the
prefix reuse of `atlas.attribution.staircase`, forward only:

1. *Prefix.* One pass over each different beginning, up to the first answer position.
2. *Answers.* One row a change, from the first answer position on, behind its prompt's keys and values.

Erasing and editing change a value vector for every token; for them nothing can be reused.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlas.surgery.interventions import ActivationChange, Intervention, Prepared, changing
from atlas.surgery.loaded import Encoded, LoadedModel


def at_answers_only(subject: LoadedModel, changes: Sequence[Sequence[Intervention]]) -> bool:
    """Whether the changes leave a causal model's state before the answers unchanged."""
    return subject.family.kind == "causal" and all(
        isinstance(item, ActivationChange) for items in changes for item in items
    )


def hidden_at_answers(subject: LoadedModel, rows: Sequence[Encoded], changes: Sequence[Prepared]) -> Tensor:
    """The model's final state at the rows' answer positions, (n_rows, n_positions, d_model).

    Rows have one length and one first answer position.
    """
    from transformers import DynamicCache

    model, device = subject.model, subject.device
    start = rows[0].positions[0]
    beginnings = {ids: n for n, ids in enumerate(dict.fromkeys(row.input_ids[:start] for row in rows))}
    input_ids, positions, _, valid = subject.tensors(rows)
    # Step 1: prefix.
    cache = DynamicCache()
    if start:
        model.base_model(torch.tensor(list(beginnings), device=device), past_key_values=cache, use_cache=True)
        of_row = [beginnings[row.input_ids[:start]] for row in rows]
        cache.batch_select_indices(torch.tensor(of_row, device=device))
    # Step 2: answers.
    with changing(subject, changes, positions - start, valid):
        after = model.base_model(input_ids[:, start:], past_key_values=cache, use_cache=True)
    index = torch.arange(len(rows), device=device)[:, None]
    return after.last_hidden_state[index, positions - start]
