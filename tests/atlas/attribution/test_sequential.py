"""Sequential integrated gradients against a plain loop over words, layers and points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlas.errors import PromptError
from atlas.neuron import Prompt
from atlas.surgery import attribute, load_subject
from build.bench.plain_loop import down_projections, plain_activations

METHOD = "sequential_integrated_gradients"
MODELS = ("tiny_bert", "tiny_roberta", "tiny_gpt2", "tiny_llama", "tiny_bloom", "tiny_gemma2", "tiny_albert")
PROMPTS = (
    Prompt("f1", "t1", "the capital of france is [Y] .", "paris"),
    Prompt("f2", "t2", "the largest city of america is [Y] .", "new york"),
)


@pytest.fixture(scope="module", params=MODELS)
def subject(request, tiny):
    return load_subject(str(tiny(request.param)), device="cpu")


def paths(subject, prompt):
    """For each answer token: (input_ids, position, target) and the prompts without each word."""
    encoded, tokenizer = subject.encode(prompt), subject.tokenizer
    causal = subject.family.kind == "causal"
    missing = tokenizer.eos_token_id if causal else tokenizer.mask_token_id
    for position, target in zip(encoded.positions, encoded.targets, strict=True):
        ids = torch.tensor(encoded.input_ids[: position + 1] if causal else encoded.input_ids)
        words = range(encoded.positions[0] + 1) if causal else range(len(ids))
        without = []
        for word in words:
            if ids[word].item() in tokenizer.all_special_ids:
                continue
            changed = ids.clone()
            changed[word] = missing
            without.append(changed)
        yield ids, position, target, without


def probability(model, ids, position, target, layer, activations):
    """P for each row of `activations` (n_rows, n_neurons) in the layer's place, and its gradient's graph."""
    modules = down_projections(model)
    own, calls = sum(module is modules[layer] for module in modules[:layer]), []

    def replaced(module, inputs):
        calls.append(module)
        if len(calls) - 1 != own:
            return inputs
        read = inputs[0].clone()
        read[:, position] = activations
        return (read,)

    handle = modules[layer].register_forward_pre_hook(replaced)
    try:
        logits = model(input_ids=ids.expand(len(activations), -1)).logits[:, position]
    finally:
        handle.remove()
    return logits.softmax(-1)[:, target]


def plain(subject, prompt, alphas):
    """Scores with equal weights at these points, (n_layers, n_neurons), and P(w) − mean P(wⁱ) by layer."""
    model = subject.model
    scores, changes = [], []
    for ids, position, target, without in paths(subject, prompt):
        own = plain_activations(model, ids, position)
        begun = [plain_activations(model, changed, position) for changed in without]
        token_scores, token_changes = torch.zeros_like(own), torch.zeros(len(own))
        for layer, w in enumerate(own):
            for each in begun:
                start = each[layer]
                points = (start + alphas[:, None] * (w - start)).requires_grad_()
                p = probability(model, ids, position, target, layer, points)
                (gradient,) = torch.autograd.grad(p.sum(), points)
                token_scores[layer] += (w - start) * gradient.mean(0) / len(begun)
                with torch.no_grad():
                    ends = probability(model, ids, position, target, layer, torch.stack([start, w]))
                token_changes[layer] += (ends[1] - ends[0]) / len(begun)
        scores.append(token_scores)
        changes.append(token_changes)
    return torch.stack(scores).mean(0).numpy(), torch.stack(changes).mean(0).numpy()


def test_a_fixed_rule_equals_the_plain_loop_over_words(subject):
    for prompt, result in zip(PROMPTS, attribute(subject, PROMPTS, method=METHOD, rule="right"), strict=True):
        reference, _ = plain(subject, prompt, torch.arange(1, 21) / 20)
        assert np.abs(result.scores - reference).max() < 1e-5 * np.abs(reference).max()


def test_certified_scores_sum_to_the_worth_of_the_words(subject):
    for prompt, result in zip(PROMPTS, attribute(subject, PROMPTS, method=METHOD), strict=True):
        assert result.converged.all()
        reference, change = plain(subject, prompt, (torch.arange(64) + 0.5) / 64)
        largest = np.abs(result.scores).max()
        assert np.abs(result.scores - reference).max() < 0.02 * largest
        assert np.allclose((result.p_one - result.p_zero).mean(0), change, atol=1e-4 * np.abs(change).max())
        assert (np.abs(result.scores.sum(1) - change) < 0.05 * largest).all()


def test_scores_differ_from_integrated_gradients(subject):
    (sequential,), (own,) = (
        attribute(subject, PROMPTS[:1], method=method) for method in (METHOD, "integrated_gradients")
    )
    assert np.abs(sequential.scores - own.scores).max() > 0.1 * np.abs(own.scores).max()
    ((*_, without),) = paths(subject, PROMPTS[0])
    assert (sequential.n_points >= 3 * len(without)).all()


def test_a_prompt_with_only_the_answer_is_refused(tiny):
    subject = load_subject(str(tiny("tiny_bert")), device="cpu")
    with pytest.raises(PromptError, match="no word to replace"):
        attribute(subject, [Prompt("f", "t", "[Y]", "paris")], method=METHOD)


def test_a_tokenizer_without_a_replacement_token_is_refused(tiny):
    subject = load_subject(str(tiny("tiny_gpt2")), device="cpu")
    subject.tokenizer.eos_token = None
    with pytest.raises(PromptError, match="has no end-of-text token"):
        attribute(subject, [Prompt("f", "t", "the capital of france is [Y]", "paris")], method=METHOD)
