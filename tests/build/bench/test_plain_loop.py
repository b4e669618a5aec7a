"""The reference that attribution is measured against holds by itself: identities of the plain loop."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from build.bench import plain_loop
from build.bench.plain_loop import down_projections, endpoints, plain_scores
from tests.plain_paths import gauss_legendre, left, plain_path, right
from tests.tiny_models import N_LAYERS, N_NEURONS, tiny_model

SENTENCE = "the capital of france is"
DENSE = gauss_legendre(64)


@pytest.fixture(scope="module", params=("tiny_bert", "tiny_gpt2", "tiny_llama", "tiny_qwen2", "tiny_qwen3"))
def task(request):
    """A float64 model, one prompt (n_tokens,), the answer position and the answer's token.

    (Llama's kind computes its norms in float32 whatever the model's type: hence tolerances above 1e-9.)
    """
    model, tokenizer = tiny_model(request.param)
    masked = tokenizer.mask_token is not None
    text = f"{SENTENCE} {tokenizer.mask_token} ." if masked else SENTENCE
    input_ids = tokenizer(text, return_tensors="pt")["input_ids"][0]
    position = input_ids.tolist().index(tokenizer.mask_token_id) if masked else len(input_ids) - 1
    (target,) = tokenizer("paris" if masked else " paris", add_special_tokens=False)["input_ids"][:1]
    return model.double(), input_ids, position, target


def test_it_shares_no_line_with_the_package_it_checks():
    tree = ast.parse(Path(plain_loop.__file__).read_text())
    modules = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or "."] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert {module.split(".")[0] for module in modules}.isdisjoint({"atlas", "tests", "app", "build", ""})


@pytest.mark.parametrize("rule", [endpoints(20), left(20), right(20), gauss_legendre(20)])
def test_the_weights_of_every_rule_sum_to_one(rule):
    assert sum(rule.weights) == pytest.approx(1, abs=1e-12)
    assert all(0 <= alpha <= 1 for alpha in rule.alphas)


def test_the_replications_points_include_both_ends_and_the_papers_only_the_first():
    assert (endpoints(20).alphas[0], endpoints(20).alphas[-1]) == (0, 1)
    assert (left(20).alphas[0], left(20).alphas[-1]) == (0, 0.95)
    assert (right(20).alphas[0], right(20).alphas[-1]) == (0.05, 1)


def test_scores_sum_to_the_probability_change(task):
    model, input_ids, position, target = task
    scores = plain_scores(model, input_ids, position, target, rule=DENSE)
    assert scores.shape == (N_LAYERS, N_NEURONS)
    for layer in range(N_LAYERS):
        zero, one = plain_path(model, input_ids, position, target, layer=layer, alphas=[0.0, 1.0])
        gap = (scores[layer].sum() - (one - zero)).abs()
        assert (gap / scores[layer].abs().max()).item() < 1e-4


def test_the_paths_are_curved_so_that_a_coarse_rule_shows(task):
    model, input_ids, position, target = task
    dense = plain_scores(model, input_ids, position, target, rule=DENSE)
    coarse = plain_scores(model, input_ids, position, target, rule=gauss_legendre(1))
    assert ((dense - coarse).abs().max() / dense.abs().max()).item() > 1e-3


def test_a_path_ends_at_the_models_own_probability(task):
    model, input_ids, position, target = task
    with torch.no_grad():
        own = torch.softmax(model(input_ids=input_ids[None]).logits[0, position], dim=-1)[target]
    for layer in range(N_LAYERS):
        (end,) = plain_path(model, input_ids, position, target, layer=layer, alphas=[1.0])
        assert end.item() == pytest.approx(own.item(), rel=1e-6)


def test_at_zero_the_layer_writes_only_its_bias(task):
    model, input_ids, position, target = task
    for layer, module in enumerate(down_projections(model)):

        def bias_only(module, inputs, output):
            changed = output.clone()
            changed[:, position] = 0 if module.bias is None else module.bias
            return changed

        handle = module.register_forward_hook(bias_only)
        with torch.no_grad():
            expected = torch.softmax(model(input_ids=input_ids[None]).logits[0, position], dim=-1)[target]
        handle.remove()
        (zero,) = plain_path(model, input_ids, position, target, layer=layer, alphas=[0.0])
        assert zero.item() == pytest.approx(expected.item(), rel=1e-6)


def test_scores_agree_with_finite_differences(task):
    """One point at α = 1: the score is w · ∂P/∂w, which a small change of one activation shows."""
    model, input_ids, position, target = task
    one_point = plain_loop.PlainRule((1.0,), (1.0,))
    scores = plain_scores(model, input_ids, position, target, rule=one_point)
    step = 0.02
    for layer, module in enumerate(down_projections(model)):
        neuron = int(scores[layer].abs().argmax())
        probabilities = []
        for factor in (1 - step, 1 + step):

            def scale(module, inputs, factor=factor, neuron=neuron):
                changed = inputs[0].clone()
                changed[:, position, neuron] *= factor
                return (changed,)

            handle = module.register_forward_pre_hook(scale)
            with torch.no_grad():
                logits = model(input_ids=input_ids[None]).logits
            probabilities.append(torch.softmax(logits[0, position], dim=-1)[target].item())
            handle.remove()
        slope = (probabilities[1] - probabilities[0]) / (2 * step)
        assert slope == pytest.approx(scores[layer, neuron].item(), rel=0.01)


def test_the_number_of_rows_at_once_changes_nothing(task):
    model, input_ids, position, target = task
    at_once = plain_scores(model, input_ids, position, target, rule=endpoints(20), rows=20)
    few = plain_scores(model, input_ids, position, target, rule=endpoints(20), rows=7)
    assert torch.allclose(at_once, few, rtol=1e-5, atol=1e-10)


def test_no_hook_stays_behind(task):
    model, input_ids, position, target = task
    plain_scores(model, input_ids, position, target, rule=left(2))
    assert all(not module._forward_pre_hooks for module in down_projections(model))
