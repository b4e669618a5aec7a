"""Sequential integrated gradients: paths from the prompt with one word missing to the whole prompt.

    attribute(subject, prompts, method="sequential_integrated_gradients")[0].scores    # (n_layers, n_neurons)

Integrated gradients scale a layer's activations up from zero, a state that no prompt produces. Enguehard
(*Sequential Integrated Gradients*, Findings of ACL 2023, arXiv 2305.15853) starts from the sentence with one
word masked, each word in turn. Its features are embeddings; here they are neurons: with w the activations of
a layer at the answer position and wⁱ the activations there when the prompt's token i is missing,

    score = mean over i of  (w − wⁱ) · ∫₀¹ ∂P/∂w (wⁱ + α·(w − wⁱ)) dα

1. *Words.* Every token of the prompt except special tokens and the answer's own. The mask replaces a missing
   word, in a causal model the end-of-text token.
2. *Baselines.* A base pass of each such prompt gives wⁱ for all layers.
3. *Paths* are integrated by the same rules and with the same certificate as all others: a layer's scores sum
   to P(w) − mean of P(wⁱ), the worth of the words to this layer. The cost is one path a word.

A neuron that no word changes scores zero. The `n_points` of a token are those of all its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from atlas.attribution.integration import TokenScores, integrated_from
from atlas.attribution.staircase import AnswerToken, base_pass
from atlas.errors import ModelError, PromptError
from atlas.surgery.hooks import hooked
from atlas.surgery.subject import Subject

PATHS_AT_ONCE = {"cpu": 64, "cuda": 1024}


def sequential_integrated_gradients(
    subject: Subject, items: Sequence[AnswerToken], *, keep_paths: bool, **options
) -> list[TokenScores]:
    """The method ``sequential_integrated_gradients`` of `atlas.surgery.attribute`, for a batch.

    Takes the options of `integrated_gradients`; keeps no paths, because each word has its own. Raises
    `PromptError` for a prompt with no word but its answer, or a tokenizer without a token to replace words;
    `ModelError` where the model has hooks.
    """
    if hooked(subject.model):
        raise ModelError(
            f"{subject.name} has hooks, which this method does not support. "
            "Remove them, or use the method integrated_gradients."
        )
    size = PATHS_AT_ONCE.get(subject.device.type, 8)
    without = [without_a_word(subject, item) for item in items]
    results: list[TokenScores] = []
    start = 0
    while start < len(items):
        end, n_paths = start + 1, len(without[start])
        while end < len(items) and n_paths + len(without[end]) <= size:
            n_paths += len(without[end])
            end += 1
        results += _batch(subject, items[start:end], without[start:end], options)
        start = end
    return results


def without_a_word(subject: Subject, item: AnswerToken) -> list[AnswerToken]:
    """Step 1: the model's input with each word missing in turn."""
    tokenizer = subject.tokenizer
    masked = subject.family.kind == "masked"
    missing = tokenizer.mask_token_id if masked else tokenizer.eos_token_id
    special = {*tokenizer.all_special_ids}
    # Teacher forcing appends the answer's first tokens to a causal model's input.
    end = len(item.input_ids) if masked else len(item.input_ids) - item.index
    places = [k for k, token in enumerate(item.input_ids[:end]) if token not in special]
    if missing is None:
        raise PromptError(
            f"The tokenizer of {subject.name} has no end-of-text token to replace a word with. "
            "Use the method integrated_gradients."
        )
    if not places:
        raise PromptError("The prompt has no word to replace. Use the method integrated_gradients.")
    subject.check_embedded((missing,), subject.n_embeddings)
    ids = item.input_ids
    return [replace(item, input_ids=(*ids[:place], missing, *ids[place + 1 :])) for place in places]


def _batch(
    subject: Subject, items: Sequence[AnswerToken], without: Sequence[Sequence[AnswerToken]], options: dict
) -> list[TokenScores]:
    repeated = [item for item, words in zip(items, without, strict=True) for _ in words]
    start = base_pass(subject, [each for words in without for each in words])
    base = replace(base_pass(subject, repeated), start=start)
    found = iter(integrated_from(subject, base, repeated, keep_paths=False, **options))
    return [_mean([next(found) for _ in words]) for words in without]


def _mean(paths: Sequence[TokenScores]) -> TokenScores:
    """One answer token's scores from those of its words' paths."""

    def mean(name: str) -> torch.Tensor:
        return torch.stack([getattr(path, name) for path in paths]).mean(0)

    scores, p_zero, p_one = mean("scores"), mean("p_zero"), mean("p_one")
    return TokenScores(
        index=paths[0].index,
        prediction=paths[0].prediction,
        scores=scores,
        gap=(scores.sum(-1) - (p_one - p_zero)).abs(),
        n_points=torch.stack([path.n_points for path in paths]).sum(0, dtype=torch.int32),
        converged=torch.stack([path.converged for path in paths]).all(0),
        p_zero=p_zero,
        p_one=p_one,
    )
