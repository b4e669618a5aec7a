"""The drop-in corrects the original's errors: the table of docs/drop-in.md, row by row."""

from __future__ import annotations

import importlib
import inspect
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

from atlas import compat
from atlas.compat import KnowledgeNeurons, initialize_model_and_tokenizer, model_type, subject_of
from atlas.errors import AtlasError, ModelError, PromptError
from atlas.neuron import Neuron
from build.bench.plain_loop import endpoints, plain_scores
from tests.atlas.compat import MASKED, NEURONS, drop_in, relative
from tests.plain_replication import PlainReplication
from tests.tiny_models import N_NEURONS, tiny_model

CAUSAL = "the largest city of america is"


@pytest.fixture(scope="module")
def bert() -> KnowledgeNeurons:
    return drop_in("tiny_bert")


@pytest.fixture(scope="module")
def gpt2() -> KnowledgeNeurons:
    return drop_in("tiny_gpt2", model_type="gpt2")


@pytest.fixture(scope="module")
def pocket() -> KnowledgeNeurons:
    return KnowledgeNeurons(*initialize_model_and_tokenizer("pocket-bert"), device="cpu")


# The same API ----------------------------------------------------------------------------------------

# Method → its arguments and their defaults, in their order, as the original has them.
SCORING = "batch_size=10, steps=20"
METHOD = "attribution_method='integrated_grads'"
STAYING = "undo_modification=True, quiet=False"
SIGNATURES = {
    "__init__": "model, tokenizer, model_type='bert', device=None",
    "n_layers": "",
    "intermediate_size": "",
    "scaled_input": "activations, steps=20, device='cpu'",
    "get_baseline_with_activations": "encoded_input, layer_idx, mask_idx",
    "get_scores": f"prompt, ground_truth, {SCORING}, {METHOD}, pbar=True",
    "get_scores_for_layer": f"prompt, ground_truth, layer_idx, {SCORING}, encoded_input=None, {METHOD}",
    "get_coarse_neurons": f"prompt, ground_truth, {SCORING}, threshold=None, adaptive_threshold=None, "
    f"percentile=None, {METHOD}, pbar=True",
    "get_refined_neurons": f"prompts, ground_truth, negative_examples=None, p=0.5, {SCORING}, "
    "coarse_adaptive_threshold=0.3, coarse_threshold=None, coarse_percentile=None, quiet=False",
    "modify_activations": f"prompt, ground_truth, neurons, mode='suppress', {STAYING}",
    "modify_weights": f"prompt, neurons, target, mode='edit', erase_value='zero', {STAYING}",
    "suppress_knowledge": f"prompt, ground_truth, neurons, {STAYING}",
    "enhance_knowledge": f"prompt, ground_truth, neurons, {STAYING}",
    "edit_knowledge": f"prompt, target, neurons, {STAYING}",
    "erase_knowledge": f"prompt, neurons, erase_value='zero', target=None, {STAYING}",
}


@pytest.mark.parametrize("method", SIGNATURES)
def test_arguments_and_defaults_are_the_originals(method: str):
    parameters = inspect.signature(getattr(KnowledgeNeurons, method)).parameters.values()
    by_place = [
        p.name if p.default is p.empty else f"{p.name}={p.default!r}"
        for p in parameters
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"
    ]
    assert ", ".join(by_place) == SIGNATURES[method]
    # New arguments are keyword-only.
    assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)


def test_every_name_of_the_original_is_there():
    assert {
        "KnowledgeNeurons",
        "initialize_model_and_tokenizer",
        "model_type",
        "pararel",
        "pararel_expanded",
        "BERT_MODELS",
        "GPT2_MODELS",
        "GPT_NEO_MODELS",
        "ALL_MODELS",
        "PARAREL_RELATION_NAMES",
    } <= set(compat.__all__)
    assert len(compat.ALL_MODELS) == 6
    assert {model_type(name) for name in compat.BERT_MODELS} == {"bert"}
    assert {model_type(name) for name in compat.GPT2_MODELS} == {"gpt2"}
    assert {model_type(name) for name in compat.GPT_NEO_MODELS} == {"gpt_neo"}


def test_the_library_does_not_import_it_nor_torch():
    check = "import atlas, sys; print([name for name in ('atlas.compat', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_other_models_are_taken_by_name_or_folder(tiny_gpt2, pocket):
    assert model_type("pocket-bert") == "bert"
    assert model_type(str(tiny_gpt2)) == "gpt2"
    model, tokenizer = initialize_model_and_tokenizer(str(tiny_gpt2))
    assert not model.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert KnowledgeNeurons(model, tokenizer).model_type == "gpt2"
    assert (pocket.n_layers(), pocket.intermediate_size()) == (3, 2048)
    with pytest.raises(ModelError, match="neither a folder nor"):
        model_type("no such model")


def test_printing_can_be_disabled(bert, capfd):
    bert.get_refined_neurons([MASKED], "paris", quiet=True)
    bert.suppress_knowledge(MASKED, "paris", NEURONS, quiet=True)
    bert.get_scores(MASKED, "paris")  # one computation: there is no bar
    assert capfd.readouterr() == ("", "")
    bert.get_refined_neurons([MASKED], "paris")
    bert.suppress_knowledge(MASKED, "paris", NEURONS)
    out = capfd.readouterr().out
    assert "coarse neurons in 1 prompts" in out
    assert "before  answer 0." in out
    assert "after   answer 0." in out


# Corrected errors ------------------------------------------------------------------------------------


def causal_steps(kn: KnowledgeNeurons, prompt: str, answer: str) -> list[tuple[torch.Tensor, int]]:
    """(input, target token) for each token of the answer."""
    stem, targets = kn.tokenizer(prompt)["input_ids"], kn.tokenizer(answer)["input_ids"]
    return [(torch.tensor([*stem, *targets[:j]]), target) for j, target in enumerate(targets)]


def test_causal_answers_of_several_tokens(gpt2):
    answer = " new york"
    steps = causal_steps(gpt2, CAUSAL, answer)
    assert len(steps) == 2
    results, _ = gpt2.suppress_knowledge(CAUSAL, answer, NEURONS, quiet=True)
    probabilities, greedy = [], steps[0][0]
    with torch.no_grad():
        for ids, target in steps:
            probabilities.append(gpt2.model(ids[None]).logits[0, -1].softmax(-1)[target].item())
        own = []
        for _ in steps:
            best = gpt2.model(greedy[None]).logits[0, -1].softmax(-1).max(-1)
            own.append(best.values.item())
            greedy = torch.cat([greedy, best.indices[None]])
    assert results["before"]["gt_prob"] == pytest.approx(math.prod(probabilities), rel=1e-5)
    assert results["before"]["argmax_prob"] == pytest.approx(math.prod(own), rel=1e-5)
    own_ids = greedy[len(steps[0][0]) :]
    assert results["before"]["argmax_completion"] == gpt2.tokenizer.decode(own_ids)
    generated = gpt2.model.generate(steps[0][0][None], max_new_tokens=2, do_sample=False, pad_token_id=0)
    assert generated[0, -2:].tolist() == own_ids.tolist()

    scores = gpt2.get_scores(CAUSAL, answer)
    by_layer = gpt2.get_scores_for_layer(CAUSAL, answer, 1)
    model = tiny_model("tiny_gpt2")[0]
    expected = sum(
        plain_scores(model, ids, len(ids) - 1, target, rule=endpoints(20)) for ids, target in steps
    ) / len(steps)
    assert relative(scores, expected) < 1e-5
    assert relative(by_layer, expected[1]) < 1e-5
    with pytest.raises(PromptError, match="has 2 tokens, but the original takes causal answers of one"):
        drop_in("tiny_gpt2", strict_replication=True).get_scores(CAUSAL, answer)


def test_a_causal_answer_follows_the_prompt_as_it_is_written(gpt2):
    def probability(prompt: str, answer: str) -> float:
        return gpt2.suppress_knowledge(prompt, answer, [], quiet=True)[0]["before"]["gt_prob"]

    spaced, joined = (causal_steps(gpt2, CAUSAL, answer) for answer in (" paris", "paris"))
    assert [target for _, target in spaced] != [target for _, target in joined]
    for answer, steps in ((" paris", spaced), ("paris", joined)):
        with torch.no_grad():
            expected = [
                gpt2.model(ids[None]).logits[0, -1].softmax(-1)[wanted].item() for ids, wanted in steps
            ]
        assert probability(CAUSAL, answer) == pytest.approx(math.prod(expected), rel=1e-5)
    # A space belongs to the answer in either string.
    assert probability(f"{CAUSAL} ", "paris") == pytest.approx(probability(CAUSAL, " paris"), rel=1e-6)
    # PARAREL's sentences: the mask stands where the answer goes.
    for sentence in (f"{CAUSAL} [MASK] .", f"{CAUSAL} [MASK]"):
        assert probability(sentence, "paris") == pytest.approx(probability(CAUSAL, " paris"), rel=1e-6)
    with pytest.raises(PromptError, match="continues after the answer"):
        probability("[MASK] is the capital of france", "paris")


def test_editing_a_gpt_model_uses_its_word_embeddings(gpt2):
    plain = PlainReplication(*tiny_model("tiny_gpt2"))
    signs = plain.activations(CAUSAL).sign()
    neurons = [[layer, int((signs[layer] == sign).nonzero()[0])] for layer in (1, 2) for sign in (-1, 1)]
    found, _ = gpt2.edit_knowledge(CAUSAL, " rome", neurons, quiet=True)
    # transformer.wte, which the head is tied to; in the direction in which the neurons push here.
    expected = plain.edited(CAUSAL, " rome", neurons, signed=True)
    for when in ("before", "after"):
        assert found[when]["gt_prob"] == pytest.approx(expected[when]["gt_prob"], rel=1e-5)
        assert found[when]["argmax_completion"] == expected[when]["argmax_completion"]
    assert found["before"] != found["after"]
    blind = plain.edited(CAUSAL, " rome", neurons)["after"]["gt_prob"]
    assert found["after"]["gt_prob"] != pytest.approx(blind, rel=1e-2)


def test_neurons_of_negative_examples_are_left_out(pocket):
    prompts = ["The capital of France is [MASK]", "[MASK] is the capital of France"]
    negative = ["The capital of Italy is [MASK]", "The capital city of Japan is called [MASK]."]
    options = {"coarse_adaptive_threshold": None, "coarse_percentile": 98.0, "quiet": True}
    refined = pocket.get_refined_neurons(prompts, "paris", **options)
    excluded = [n for text in negative for n in pocket.get_coarse_neurons(text, "paris", percentile=98.0)]
    found = pocket.get_refined_neurons(prompts, "paris", negative_examples=negative, **options)
    assert found == [neuron for neuron in refined if neuron not in excluded]
    assert 0 < len(found) < len(refined)
    strict = KnowledgeNeurons(pocket.model, pocket.tokenizer, device="cpu", strict_replication=True)
    with pytest.warns(UserWarning, match="no effect in the original"):
        assert strict.get_refined_neurons(prompts, "paris", negative, **options) == refined


def test_erasing_without_a_target_measures_the_models_own_answer(bert, gpt2):
    for kn, prompt, name in ((bert, MASKED, "tiny_bert"), (gpt2, CAUSAL, "tiny_gpt2")):
        plain = PlainReplication(*tiny_model(name))
        own = int(plain.probabilities(prompt).argmax())
        with plain.overwritten(NEURONS, lambda v, *of: 0 * v):
            after = plain.probabilities(prompt)[own].item()
        found, _ = kn.erase_knowledge(prompt, NEURONS, quiet=True)
        assert found["before"]["gt_prob"] == found["before"]["argmax_prob"]
        assert found["before"]["argmax_completion"] == kn.tokenizer.decode([own])
        assert found["after"]["gt_prob"] == pytest.approx(after, rel=1e-5)
        assert found["after"]["gt_prob"] != found["before"]["gt_prob"]
    with pytest.raises(PromptError, match="Give target"):
        bert.edit_knowledge(MASKED, None, NEURONS)


def test_steps_need_not_be_a_multiple_of_batch_size(bert):
    usual = bert.get_scores(MASKED, "paris", batch_size=20, steps=20)
    assert torch.equal(bert.get_scores(MASKED, "paris", batch_size=7, steps=20), usual)
    assert bert.get_coarse_neurons(MASKED, "paris", batch_size=3, steps=20, threshold=1e-4) == (
        torch.nonzero(usual > 1e-4).tolist()
    )


def test_answers_outside_the_vocabulary_are_refused(bert):
    for ask in (
        lambda: bert.get_scores(MASKED, "パリ"),
        lambda: bert.get_refined_neurons([MASKED], "パリ"),
        lambda: bert.suppress_knowledge(MASKED, "パリ", NEURONS),
        lambda: bert.edit_knowledge(MASKED, "パリ", NEURONS),
    ):
        with pytest.raises(PromptError, match=r"outside the vocabulary of .*\. Choose another word\."):
            ask()
    strict, plain = drop_in("tiny_bert", strict_replication=True), PlainReplication(*tiny_model("tiny_bert"))
    with pytest.warns(UserWarning, match=r"'Paris' is not a token of .*, \[UNK\] takes its place"):
        found = strict.get_scores(MASKED, "Paris")
    expected = plain.scores(MASKED, "[UNK]", steps=20)
    assert relative(found, expected) < 1e-5


def test_words_of_any_case_and_length_are_found(bert):
    assert torch.equal(bert.get_scores(MASKED, "Paris"), bert.get_scores(MASKED, "paris"))
    two_masks = MASKED.replace("[MASK]", "[MASK] [MASK]")
    found, _ = bert.suppress_knowledge(MASKED, "new york", [], quiet=True)
    encoded = bert.tokenizer(two_masks, return_tensors="pt")
    places = (encoded["input_ids"][0] == bert.tokenizer.mask_token_id).nonzero()[:, 0]
    with torch.no_grad():
        p = bert.model(**encoded).logits[0, places].softmax(-1)
    wanted = bert.tokenizer.convert_tokens_to_ids(["new", "york"])
    assert found["before"]["gt_prob"] == pytest.approx(
        p[0, wanted[0]].item() * p[1, wanted[1]].item(), rel=1e-5
    )
    assert found["before"]["argmax_prob"] == pytest.approx(p.max(-1).values.prod().item(), rel=1e-5)
    assert found["before"]["argmax_completion"] == bert.tokenizer.decode(p.argmax(-1))


def test_a_neuron_named_twice_is_changed_once(bert):
    twice = [*NEURONS, NEURONS[0], tuple(NEURONS[1])]
    before = {name: tensor.clone() for name, tensor in bert.model.state_dict().items()}
    for change in (
        lambda neurons: bert.enhance_knowledge(MASKED, "paris", neurons, quiet=True)[0],
        lambda neurons: bert.edit_knowledge(MASKED, "rome", neurons, quiet=True)[0],
    ):
        assert change(twice) == change(NEURONS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in bert.model.state_dict().items())


def test_a_percentile_replaces_the_default_threshold(bert):
    prompts = [MASKED, "[MASK] is the capital of france"]
    options = {"coarse_percentile": 98.0, "quiet": True}
    found = bert.get_refined_neurons(prompts, "paris", **options)
    assert found == bert.get_refined_neurons(prompts, "paris", coarse_adaptive_threshold=None, **options)
    assert found != bert.get_refined_neurons(prompts, "paris", quiet=True)
    for several in ({"coarse_threshold": 0.1}, {"coarse_adaptive_threshold": 0.2}):
        with pytest.raises(AtlasError, match="exactly one of"):
            bert.get_refined_neurons(prompts, "paris", **options, **several)
    with pytest.raises(AtlasError, match="exactly one of"):
        bert.get_coarse_neurons(MASKED, "paris")


def test_layer_sizes_are_read_from_the_model(bert, gpt2):
    assert bert.intermediate_size() == gpt2.intermediate_size() == N_NEURONS
    assert 4 * gpt2.model.config.hidden_size != N_NEURONS
    last = [[2, N_NEURONS - 1]]
    gpt2.suppress_knowledge(CAUSAL, " paris", last, quiet=True)
    for outside in ([[2, N_NEURONS]], [[3, 0]], [[-4, 0]]):
        with pytest.raises(AtlasError, match="has no neuron L"):
            gpt2.suppress_knowledge(CAUSAL, " paris", outside, quiet=True)
    with pytest.raises(AtlasError, match=r"has no neuron L3\.N0: its layers are 0–2"):
        gpt2.get_scores_for_layer(CAUSAL, " paris", 3)


def test_dropout_changes_no_number():
    model, tokenizer = tiny_model("tiny_bert")
    kn = KnowledgeNeurons(model, tokenizer, device="cpu")
    scores = kn.get_scores(MASKED, "paris")
    results = kn.suppress_knowledge(MASKED, "paris", NEURONS, quiet=True)[0]
    model.train()
    assert model.config.hidden_dropout_prob > 0
    assert torch.equal(kn.get_scores(MASKED, "paris"), scores)
    assert torch.equal(
        kn.get_scores_for_layer(MASKED, "paris", 1), kn.get_scores_for_layer(MASKED, "paris", 1)
    )
    assert kn.suppress_knowledge(MASKED, "paris", NEURONS, quiet=True)[0] == results


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        ("the capital of france is", "has 0 places for the answer"),
        ("[MASK] is the capital of [MASK]", "has 2 places for the answer"),
        (["a", "b"], "prompt must be a string"),
    ],
)
def test_a_prompt_without_exactly_one_mask_is_refused(bert, prompt, what: str):
    with pytest.raises(PromptError, match=what):
        bert.get_scores(prompt, "paris")


def test_prompts_must_be_a_list(bert):
    for prompts in (MASKED, 3):
        with pytest.raises(PromptError, match="prompts must be a list of texts"):
            bert.get_refined_neurons(prompts, "paris")
    assert bert.get_refined_neurons([], "paris", quiet=True) == []
    rows = bert.tokenizer([MASKED, MASKED], return_tensors="pt")
    with pytest.raises(PromptError, match="has 2 rows"):
        bert.get_scores_for_layer(MASKED, "paris", 0, encoded_input=rows)
    for p in (1.0, -0.1):
        with pytest.raises(AtlasError, match="p must be at least 0 and below 1"):
            bert.get_refined_neurons([MASKED], "paris", p=p)


def test_neurons_are_pairs_or_library_neurons(bert):
    def suppressed(neurons) -> dict:
        return bert.suppress_knowledge(MASKED, "paris", neurons, quiet=True)[0]

    expected = suppressed(NEURONS)
    assert suppressed([Neuron(*each) for each in NEURONS]) == expected
    assert suppressed(np.array(NEURONS)) == suppressed(torch.tensor(NEURONS)) == expected
    for neurons in ([1, 2], "L1.N2", [[1, 2, 3]], [[1.5, 2]], None):
        with pytest.raises(AtlasError, match="Neurons must be pairs"):
            suppressed(neurons)
    with pytest.raises(AtlasError, match="has no neuron"):
        suppressed([[9, 1]])


def test_negative_numbers_count_from_the_end_as_in_the_original(bert):
    n_layers, n_neurons = bert.n_layers(), bert.intermediate_size()
    from_the_end = [[-1, -3], [0, -1], [-n_layers, 5]]
    same = [[n_layers - 1, n_neurons - 3], [0, n_neurons - 1], [0, 5]]
    for change in (
        bert.suppress_knowledge,
        bert.enhance_knowledge,
        partial(bert.modify_weights, mode="erase"),
    ):
        found, expected = (
            change(MASKED, neurons=each, **{answer_name(change): "paris"}, quiet=True)[0]
            for each in (from_the_end, same)
        )
        assert found == expected
        assert found["before"] != found["after"]
    scores = bert.get_scores(MASKED, "paris", pbar=False)
    assert relative(bert.get_scores_for_layer(MASKED, "paris", -1), scores[-1]) < 1e-6
    encoded = bert.tokenizer(MASKED, return_tensors="pt")
    for layer in (-1, -n_layers):
        by_end, by_start = (
            bert.get_baseline_with_activations(encoded, each, 5)[1] for each in (layer, layer + n_layers)
        )
        assert torch.equal(by_end, by_start)
    for neuron in ([-n_layers - 1, 0], [0, -n_neurons - 1], [n_layers, 0]):
        with pytest.raises(AtlasError, match="has no neuron"):
            bert.suppress_knowledge(MASKED, "paris", [neuron], quiet=True)
    with pytest.raises(AtlasError, match="has no neuron"):
        bert.get_scores_for_layer(MASKED, "paris", -n_layers - 1)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("steps", [2.5, "20", None, 0, -1])
def test_steps_must_be_a_whole_number(steps, strict: bool):
    for name, prompt, answer in (("tiny_bert", MASKED, "paris"), ("tiny_gpt2", CAUSAL, " paris")):
        kn = drop_in(name, strict_replication=strict)
        for asked in (kn.get_scores, partial(kn.get_scores_for_layer, layer_idx=1)):
            with pytest.raises(AtlasError, match="steps must be a whole number of 1 or more, got"):
                asked(prompt, answer, steps=steps)


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda kn: kn.get_refined_neurons([MASKED], "paris", p="x"), "p must be a number, got 'x'."),
        (lambda kn: kn.get_refined_neurons([MASKED], "paris", p=None), "p must be a number, got None."),
        (lambda kn: kn.get_refined_neurons([MASKED], "paris", p=[0.5]), "p must be a number, got [0.5]."),
        (
            lambda kn: kn.get_refined_neurons([MASKED], "paris", coarse_threshold="x"),
            "threshold must be a number, got 'x'.",
        ),
        (
            lambda kn: kn.get_coarse_neurons(MASKED, "paris", adaptive_threshold="0.3"),
            "adaptive_threshold must be a number, got '0.3'.",
        ),
        (
            lambda kn: kn.get_coarse_neurons(MASKED, "paris", percentile=math.nan),
            "percentile must be a number, got nan.",
        ),
        (
            lambda kn: kn.get_scores_for_layer(MASKED, "paris", 1.5),
            "layer_idx must be a whole number, got 1.5.",
        ),
        (
            lambda kn: KnowledgeNeurons(kn.model, kn.tokenizer, tolerance="x"),
            "tolerance must be a number, got 'x'.",
        ),
    ],
)
def test_an_argument_that_is_no_number_is_refused_in_one_sentence(ask, sentence: str, bert):
    with pytest.raises(AtlasError) as refused:
        ask(bert)
    assert str(refused.value) == sentence


def test_numbers_of_numpy_and_torch_are_taken(bert):
    usual = bert.get_coarse_neurons(MASKED, "paris", steps=5, threshold=1e-4)
    for number in (np.float64(1e-4), torch.tensor(1e-4, dtype=torch.float64)):
        assert bert.get_coarse_neurons(MASKED, "paris", steps=np.int64(5), threshold=number) == usual


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ["tiny_bert", "tiny_gpt2"])
def test_every_call_refuses_a_model_that_returns_nan(name: str, strict: bool, value: float):
    kn = drop_in(name, strict_replication=strict)
    prompt, answer, new = (MASKED, "paris", "rome") if name == "tiny_bert" else (CAUSAL, " paris", " rome")
    with torch.no_grad():
        kn.subject.family.down(kn.model, 1).weight[0, 0] = value
    for call in (
        partial(kn.get_scores, prompt, answer),
        partial(kn.get_scores_for_layer, prompt, answer, 0),
        partial(kn.get_refined_neurons, [prompt], answer, quiet=True),
        partial(kn.suppress_knowledge, prompt, answer, NEURONS),
        partial(kn.enhance_knowledge, prompt, answer, NEURONS),
        partial(kn.erase_knowledge, prompt, NEURONS),
        partial(kn.edit_knowledge, prompt, new, NEURONS),
    ):
        with pytest.raises(ModelError, match=r"returned NaN.* Load it in float32 and check the weights\."):
            call()


def test_a_change_after_which_the_model_returns_nan_is_undone():
    kn = drop_in("tiny_bert")
    with torch.no_grad():
        kn.model.get_input_embeddings().weight[kn.tokenizer.unk_token_id] = math.nan
    before = {name: value.clone() for name, value in kn.model.state_dict().items()}
    with pytest.raises(ModelError, match="returned NaN"):
        kn.erase_knowledge(MASKED, NEURONS, "unk", "paris", undo_modification=False, quiet=True)
    now = kn.model.state_dict()
    assert all(torch.equal(now[name].nan_to_num(), value.nan_to_num()) for name, value in before.items())


def test_unpatch_fn_returns_what_the_originals_returns(bert):
    for change in (bert.suppress_knowledge, bert.modify_weights):
        options = {"prompt": MASKED, "neurons": NEURONS, answer_name(change): "rome", "quiet": True}
        _, unpatch_fn = change(**options)
        assert unpatch_fn() == ()
        assert unpatch_fn(1, 2) == (1, 2)
        _, unpatch_fn = change(**options, undo_modification=False)
        assert unpatch_fn() is None


def answer_name(change) -> str:
    """The original's name of the argument for the answer."""
    return "ground_truth" if "ground_truth" in inspect.signature(change).parameters else "target"


def test_the_module_data_is_where_the_original_has_it():
    data = importlib.import_module("atlas.compat.data")
    for name in data.__all__:
        assert getattr(data, name) is getattr(compat, name)


def test_numbers_out_of_range_are_refused(bert):
    with pytest.raises(PromptError, match="negative_examples must be a list"):
        bert.get_refined_neurons([MASKED], "paris", negative_examples=MASKED)
    for percentile in (-1, 100.5):
        with pytest.raises(AtlasError, match="percentile must be between 0 and 100"):
            bert.get_coarse_neurons(MASKED, "paris", percentile=percentile)


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_gpt2"])
def test_empty_and_overlong_prompts_are_refused(name: str):
    strict = drop_in(name, strict_replication=True)
    masked = name == "tiny_bert"
    answer = "paris" if masked else " paris"
    for prompt in ["the " * 80 + MASKED] if masked else ["the " * 80, ""]:
        with pytest.raises(PromptError, match="reads 1 to 64"):
            strict.get_scores(prompt, answer)
    # Token ids suffice, without an attention mask.
    ids = {"input_ids": strict.tokenizer("a b" + " [MASK]" * masked, return_tensors="pt")["input_ids"]}
    found = strict.get_scores_for_layer("", answer, 1, encoded_input=ids)
    ids["attention_mask"] = torch.ones_like(ids["input_ids"])
    assert torch.equal(found, strict.get_scores_for_layer("", answer, 1, encoded_input=ids))


def test_an_unusable_model_is_refused():
    model, tokenizer = tiny_model("tiny_bert")
    with pytest.raises(ModelError, match="BertModel has no language-modelling head"):
        subject_of(model.bert, tokenizer)
    with pytest.raises(ModelError, match="Models of type 'Linear' are not supported"):
        KnowledgeNeurons(torch.nn.Linear(2, 2), tokenizer)
    with pytest.raises(ModelError, match="has no mask token"):
        KnowledgeNeurons(model, tiny_model("tiny_gpt2")[1])
    with pytest.raises(ModelError, match="The original does not support models of type 'llama'"):
        KnowledgeNeurons(*tiny_model("tiny_llama"), strict_replication=True)
    with pytest.raises(AtlasError, match="The original has no rule 'certified'"):
        KnowledgeNeurons(model, tokenizer, strict_replication=True, rule="certified")
    with pytest.raises(AtlasError, match="got 'simpson'"):
        KnowledgeNeurons(model, tokenizer, rule="simpson")


def test_methods_beside_the_originals(bert):
    scores = bert.get_scores(MASKED, "paris", attribution_method="gradient_x_activation")
    assert scores.shape == (3, N_NEURONS)
    with pytest.raises(AtlasError, match="method must be one of integrated_grads, max_activations, "):
        bert.get_scores(MASKED, "paris", attribution_method="attention")
    with pytest.raises(AtlasError, match="mode must be one of suppress, enhance"):
        bert.modify_activations(MASKED, "paris", NEURONS, "amplify")
    with pytest.raises(AtlasError, match="mode must be edit or erase, got 'retrain'"):
        bert.modify_weights(MASKED, NEURONS, "paris", "retrain")
    with pytest.raises(AtlasError, match="value must be 'zero' or 'unk'"):
        bert.erase_knowledge(MASKED, NEURONS, erase_value="noise")


def test_half_precision_is_raised_to_float32():
    model, tokenizer = tiny_model("tiny_gpt2")
    kn = KnowledgeNeurons(model.half(), tokenizer, device="cpu")
    assert all(p.dtype == torch.float32 for p in kn.model.parameters())
    assert torch.isfinite(kn.get_scores(CAUSAL, " paris")).all()
