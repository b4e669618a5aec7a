"""With strict_replication the original's numbers; without it, the library's neurons by the original's sum."""

from __future__ import annotations

import ast
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch

from atlas.compat import KnowledgeNeurons, initialize_model_and_tokenizer
from atlas.errors import PromptError
from build.bench.plain_loop import endpoints, plain_activations, plain_scores
from tests import plain_replication
from tests.atlas.compat import relative
from tests.plain_replication import PlainReplication
from tests.tiny_models import BUILDERS, randomize, tiny_model

TINY = {
    "tiny_bert": (
        [
            "the capital of france is [MASK] .",
            "[MASK] is the capital of france",
            "the seine runs through [MASK]",
        ],
        "paris",
        "rome",
    ),
    "tiny_gpt2": (
        ["the capital of france is", "the capital city of france is called", "the river of"],
        " paris",
        " rome",
    ),
}
POCKET = (
    [
        "[MASK] is the capital of France",
        "The capital of France is [MASK]",
        "Visitors to France see its capital, [MASK].",
    ],
    "paris",
    "london",
)
TINY["tiny_gpt_neo"] = TINY["tiny_gpt2"]
LIMITS = {
    "adaptive": ({"adaptive_threshold": 0.3}, {"adaptive": 0.3}),
    "threshold": ({"threshold": 1e-4}, {"threshold": 1e-4}),
    "percentile": ({"percentile": 98.5}, {"percentile": 98.5}),
}
EXACT = 1e-5


class Case:
    """One model, the drop-in and the plain replication on it, and their prompts."""

    def __init__(self, name: str) -> None:
        model, tokenizer = initialize_model_and_tokenizer(name) if name == "pocket-bert" else tiny_model(name)
        self.plain = PlainReplication(model, tokenizer)
        self.strict = KnowledgeNeurons(
            model, tokenizer, model.config.model_type, "cpu", strict_replication=True
        )
        self.usual = KnowledgeNeurons(model, tokenizer, model.config.model_type, "cpu")
        self.prompts, self.answer, self.target = POCKET if name == "pocket-bert" else TINY[name]
        self.model, self.is_bert = model, self.plain.is_bert

    @property
    def neurons(self) -> list[list[int]]:
        return [[0, 3], [1, 7], [2, 11], [2, 5], [1, 60]]


case_of = cache(Case)


@pytest.fixture(params=["tiny_bert", "tiny_gpt2", "tiny_gpt_neo", "pocket-bert"])
def case(request) -> Case:
    return case_of(request.param)


@pytest.fixture(params=["tiny_bert", "pocket-bert"])
def bert(request) -> Case:
    return case_of(request.param)


@pytest.fixture
def gpt2() -> Case:
    return case_of("tiny_gpt2")


def same(found: dict, expected: dict) -> None:
    for when in ("before", "after"):
        assert found[when].keys() == expected[when].keys() == {"gt_prob", "argmax_completion", "argmax_prob"}
        assert found[when]["argmax_completion"] == expected[when]["argmax_completion"]
        for what in ("gt_prob", "argmax_prob"):
            assert found[when][what] == pytest.approx(expected[when][what], rel=EXACT)


def test_the_plain_way_shares_no_line_with_the_package_it_checks():
    tree = ast.parse(Path(plain_replication.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert imported == {"__future__", "collections", "contextlib", "numpy", "torch"}


@pytest.mark.parametrize("steps", [20, 7, 1])
def test_strict_scores_are_the_originals(case: Case, steps: int):
    for prompt in case.prompts[:2]:
        found = case.strict.get_scores(prompt, case.answer, steps=steps, batch_size=steps, pbar=False)
        expected = case.plain.scores(prompt, case.answer, steps=steps)
        assert found.shape == expected.shape == (case.strict.n_layers(), case.strict.intermediate_size())
        assert found.dtype == torch.float32
        assert relative(found, expected) < EXACT


def test_scores_of_a_layer_are_a_row_of_all(case: Case):
    prompt = case.prompts[0]
    for kn in (case.strict, case.usual):
        scores = kn.get_scores(prompt, case.answer, pbar=False)
        for layer in range(kn.n_layers()):
            assert relative(kn.get_scores_for_layer(prompt, case.answer, layer), scores[layer]) < EXACT
        encoded = kn.tokenizer(prompt, return_tensors="pt")
        again = kn.get_scores_for_layer("another [MASK]", case.answer, 1, encoded_input=encoded)
        assert relative(again, scores[1]) < EXACT


def test_activations_are_read_where_the_original_reads_them(case: Case):
    prompt = case.prompts[0]
    expected = case.plain.activations(prompt)
    found = case.strict.get_scores(prompt, case.answer, attribution_method="max_activations")
    assert torch.allclose(found, expected, atol=1e-5)
    encoded, place = case.plain.read(prompt)
    outputs, of_layer = case.strict.get_baseline_with_activations(encoded, 1, place)
    assert of_layer.shape == (1, case.strict.intermediate_size())
    assert torch.allclose(of_layer[0], expected[1], atol=1e-5)
    assert torch.allclose(outputs.logits[0, place].softmax(-1), case.plain.probabilities(prompt), atol=1e-6)
    layer = case.strict.get_scores_for_layer(prompt, case.answer, 1, attribution_method="max_activations")
    assert torch.equal(layer, found[1])


@pytest.mark.parametrize("kind", LIMITS)
def test_strict_coarse_and_refined_neurons_are_the_originals(case: Case, kind: str):
    ours, theirs = LIMITS[kind]
    prompt = case.prompts[0]
    expected = case.plain.coarse(case.plain.scores(prompt, case.answer, steps=20), **theirs)
    assert case.strict.get_coarse_neurons(prompt, case.answer, **ours) == expected
    assert 0 < len(expected) < case.strict.n_layers() * case.strict.intermediate_size()
    # The default of a refinement, 0.3, has to be taken back for the original to take another limit.
    options = {"coarse_adaptive_threshold": None} | {f"coarse_{name}": value for name, value in ours.items()}
    refined = case.strict.get_refined_neurons(case.prompts, case.answer, p=0.3, quiet=True, **options)
    assert refined == case.plain.refined(case.prompts, case.answer, p=0.3, steps=20, **theirs)
    assert refined


def test_strict_suppressing_and_enhancing_give_the_originals_results(case: Case):
    prompt, neurons = case.prompts[0], case.neurons
    ours, _ = case.strict.suppress_knowledge(prompt, case.answer, neurons, quiet=True)
    same(ours, case.plain.suppressed(prompt, case.answer, neurons))
    ours, _ = case.strict.enhance_knowledge(prompt, case.answer, neurons, quiet=True)
    same(ours, case.plain.suppressed(prompt, case.answer, neurons, factor=2.0))
    twice = [*neurons, neurons[0]]
    ours, _ = case.strict.enhance_knowledge(prompt, case.answer, twice, quiet=True)
    same(ours, case.plain.suppressed(prompt, case.answer, twice, factor=2.0))
    assert ours["before"]["gt_prob"] != ours["after"]["gt_prob"]


def test_strict_erasing_and_editing_give_the_originals_results(case: Case):
    prompt, neurons = case.prompts[0], case.neurons
    for value in ("zero", "unk") if case.is_bert else ("zero",):
        ours, _ = case.strict.erase_knowledge(
            prompt, neurons, erase_value=value, target=case.answer, quiet=True
        )
        same(ours, case.plain.erased(prompt, case.answer, neurons, value))
        assert ours["before"]["gt_prob"] != ours["after"]["gt_prob"]
    if case.is_bert:
        ours, _ = case.strict.edit_knowledge(prompt, case.target, neurons, quiet=True)
        same(ours, case.plain.edited(prompt, case.target, neurons))
        assert ours["before"]["gt_prob"] != ours["after"]["gt_prob"]


@pytest.mark.parametrize("kind", ["suppress", "enhance"])
@pytest.mark.parametrize("name", ["tiny_bert", "tiny_gpt2", "tiny_gpt_neo"])
def test_a_strict_change_that_is_kept_acts_where_the_originals_acts(name: str, kind: str):
    case, factor = Case(name), 0.0 if kind == "suppress" else 2.0
    prompts = [*case.prompts[:2], *(["in [MASK] people speak french in the city"] if case.is_bert else [])]
    changed = getattr(case.strict, f"{kind}_knowledge")
    plain = PlainReplication(*tiny_model(name))
    _, unpatch_fn = changed(case.prompts[-1], case.answer, case.neurons, undo_modification=False, quiet=True)
    with plain.scaled(case.prompts[-1], case.neurons, factor):
        for prompt in (case.prompts[-1], *prompts):
            read, _ = plain.read(prompt)
            assert torch.allclose(case.model(**read).logits, plain.model(**read).logits, atol=1e-5)
            before = changed(prompt, case.answer, [], quiet=True)[0]["before"]
            assert before["gt_prob"] == pytest.approx(plain.report(prompt, case.answer)["gt_prob"], rel=EXACT)
            expected = plain.scores(prompt, case.answer, steps=20)
            assert relative(case.strict.get_scores(prompt, case.answer, pbar=False), expected) < EXACT
            for layer, row in enumerate(expected):
                found = case.strict.get_scores_for_layer(prompt, case.answer, layer)
                assert torch.allclose(found, row, atol=EXACT * float(expected.abs().max()))
    unpatch_fn()


def test_a_strict_change_that_is_kept_refuses_inputs_that_end_before_its_place():
    case = Case("tiny_bert")
    long, short = case.prompts[0], case.prompts[1]
    assert case.plain.read(long)[1] >= case.plain.read("[MASK] is")[0]["input_ids"].shape[1]
    _, unpatch_fn = case.strict.suppress_knowledge(
        long, case.answer, case.neurons, undo_modification=False, quiet=True
    )
    for asked in (case.strict.get_scores, partial(case.strict.suppress_knowledge, neurons=[])):
        with pytest.raises(PromptError, match=r"kept at position \d of every input, .* has 4 tokens"):
            asked("[MASK] is", case.answer)
    unpatch_fn()
    case.strict.get_scores("[MASK] is", case.answer)
    # The corrected drop-in follows the mask.
    _, unpatch_fn = case.usual.suppress_knowledge(
        long, case.answer, case.neurons, undo_modification=False, quiet=True
    )
    kept = case.usual.suppress_knowledge(short, case.answer, [], quiet=True)[0]["before"]
    unpatch_fn()
    assert kept == case.usual.suppress_knowledge(short, case.answer, case.neurons, quiet=True)[0]["after"]


def test_strict_edits_of_untied_embeddings_use_the_inputs():
    def untied():
        options = {**BUILDERS["tiny_bert"].options, "tie_word_embeddings": False}
        model, tokenizer = replace(BUILDERS["tiny_bert"], options=options).make()
        randomize(model)
        return model.eval(), tokenizer

    model, tokenizer = untied()
    assert not torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    plain = PlainReplication(*untied())
    prompt, neurons = "the capital of france is [MASK] .", [[0, 3], [1, 7], [2, 11]]
    strict = KnowledgeNeurons(model, tokenizer, strict_replication=True, device="cpu")
    ours, _ = strict.edit_knowledge(prompt, "rome", neurons, quiet=True)
    same(ours, plain.edited(prompt, "rome", neurons))
    ours, _ = strict.erase_knowledge(prompt, neurons, erase_value="unk", target="paris", quiet=True)
    same(ours, plain.erased(prompt, "paris", neurons, "unk"))


def test_the_default_numbers_of_bert_equal_the_originals(bert: Case):
    prompt = bert.prompts[0]
    assert torch.equal(
        bert.usual.get_scores(prompt, bert.answer), bert.strict.get_scores(prompt, bert.answer)
    )
    assert bert.usual.get_refined_neurons(bert.prompts, bert.answer, quiet=True) == (
        bert.strict.get_refined_neurons(bert.prompts, bert.answer, quiet=True)
    )
    ours, _ = bert.usual.edit_knowledge(prompt, bert.target, bert.neurons, quiet=True)
    same(ours, bert.plain.edited(prompt, bert.target, bert.neurons))


def test_the_default_neurons_of_gpt2_are_the_down_projections_inputs(gpt2: Case):
    """The original reads neurons before the nonlinearity, where activations × weights are not the write."""
    prompt = gpt2.prompts[0]
    encoded, place = gpt2.plain.read(prompt)
    ids = encoded["input_ids"][0]
    activations = gpt2.usual.get_scores(prompt, gpt2.answer, attribution_method="max_activations")[1]
    written = []
    hook = gpt2.plain.writers[1].register_forward_hook(lambda m, i, output: written.append(output[0, place]))
    gpt2.model(**encoded)
    hook.remove()
    writer = gpt2.plain.writers[1]
    assert torch.allclose(activations @ writer.weight + writer.bias, written[0], atol=1e-5)  # Conv1D
    before = gpt2.strict.get_scores(prompt, gpt2.answer, attribution_method="max_activations")[1]
    assert not torch.allclose(before @ writer.weight + writer.bias, written[0], atol=0.1)
    (target,) = gpt2.plain.tokenizer(gpt2.answer)["input_ids"]
    assert torch.allclose(plain_activations(gpt2.model, ids, place)[1], activations, atol=1e-5)
    wanted = [p.requires_grad for p in gpt2.model.parameters()]
    expected = plain_scores(gpt2.model, ids, place, target, rule=endpoints(20))
    for parameter, flag in zip(gpt2.model.parameters(), wanted, strict=True):
        parameter.requires_grad_(flag)
    assert relative(gpt2.usual.get_scores(prompt, gpt2.answer), expected) < EXACT
    _, recorded = gpt2.usual.get_baseline_with_activations(encoded, 1, -1)
    assert torch.allclose(recorded[0], activations, atol=1e-5)


def test_the_points_of_a_path_are_the_originals():
    activations = torch.tensor([[1.0, -2.0]])
    points = KnowledgeNeurons.scaled_input(activations, steps=5)
    assert torch.allclose(points, torch.tensor([[k / 4, -2 * k / 4] for k in range(5)]))


def test_certified_scores_sum_to_the_change_that_the_fixed_sum_misses(case: Case):
    model, tokenizer = case.model, case.plain.tokenizer
    certified = KnowledgeNeurons(model, tokenizer, device="cpu", rule="certified", tolerance=1e-3)
    prompt, answer = case.prompts[0], case.answer
    scores = certified.get_scores(prompt, answer)
    fixed = case.usual.get_scores(prompt, answer)
    one = case.plain.report(prompt, answer)["gt_prob"]
    for layer in range(certified.n_layers()):
        everyone = [[layer, neuron] for neuron in range(certified.intermediate_size())]
        results, _ = case.usual.suppress_knowledge(prompt, answer, everyone, quiet=True)
        change = one - results["after"]["gt_prob"]
        assert float(scores[layer].sum()) == pytest.approx(change, abs=2e-3 * float(scores.abs().max()))
        gaps = [abs(float(each[layer].sum()) - change) for each in (scores, fixed)]
        assert gaps[0] < gaps[1]
    assert torch.allclose(certified.get_scores_for_layer(prompt, answer, 1), scores[1])
    assert np.isfinite(scores.numpy()).all()
