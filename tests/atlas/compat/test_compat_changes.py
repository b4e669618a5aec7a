"""The drop-in's changes act in every call of the model, and are undone bit for bit, in any order."""

from __future__ import annotations

import copy
import gc
import weakref
from contextlib import ExitStack
from itertools import permutations

import pytest
import torch
from transformers import AutoModelForMaskedLM

from atlas.compat import KnowledgeNeurons, subject_of
from atlas.errors import ModelError
from atlas.neuron import Neuron
from atlas.surgery import Amplify, Suppress, attribute
from build.bench.plain_loop import endpoints, plain_scores
from tests.atlas.compat import CAUSAL, MASKED, NEURONS, STAYS, drop_in, relative
from tests.plain_replication import PlainReplication
from tests.tiny_models import tiny_model

ELSEWHERE = "in [MASK] people speak french"
OTHERS = [[1, 7], [2, 5]]  # one of them is among NEURONS


class Bert:
    """A fresh BERT, the drop-in on it, and the plain way on another copy."""

    name, prompt, answer, target = "tiny_bert", MASKED, "paris", "rome"

    def __init__(self) -> None:
        self.kn = drop_in(self.name)
        self.model, self.tokenizer = self.kn.model, self.kn.tokenizer
        self.plain = PlainReplication(*tiny_model(self.name))
        self.parameters = dict(self.model.named_parameters())
        self.bits = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def logits(self, model=None, prompt: str | None = None) -> torch.Tensor:
        with torch.no_grad():
            encoded = self.tokenizer(prompt or self.prompt, return_tensors="pt")
            return (model or self.model)(**encoded).logits

    def is_untouched(self) -> bool:
        now = dict(self.model.named_parameters())
        return (
            all(now[name] is parameter for name, parameter in self.parameters.items())
            and all(torch.equal(tensor, self.bits[name]) for name, tensor in self.model.state_dict().items())
            and not any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())
        )


class Gpt2(Bert):
    name, prompt, answer, target = "tiny_gpt2", CAUSAL, " paris", " rome"


@pytest.fixture(params=[Bert, Gpt2])
def case(request) -> Bert:
    return request.param()


@pytest.fixture
def bert() -> Bert:
    return Bert()


def zeros(vector, layer, neuron) -> torch.Tensor:
    return torch.zeros_like(vector)


def changes(case: Bert, **options):
    """Every kind of change, as (name, the drop-in's function, the same by hand on `case.plain`)."""
    kn, plain, prompt = case.kn, case.plain, case.prompt
    old = plain.embedding(int(plain.probabilities(prompt).argmax()))
    new = plain.embedding(plain.wanted(case.target))
    signs = plain.activations(prompt).sign()  # before GPT-2's nonlinearity, which keeps them

    def edit(vector, layer, neuron):
        strength = 2 if plain.is_bert else 2 * signs[layer, neuron]
        return vector - strength * old + strength * new

    return {
        "suppress": (
            lambda: kn.suppress_knowledge(prompt, case.answer, NEURONS, quiet=True, **options),
            lambda: plain.scaled(prompt, NEURONS, 0.0),
        ),
        "erase": (
            lambda: kn.erase_knowledge(prompt, OTHERS, target=case.answer, quiet=True, **options),
            lambda: plain.overwritten(OTHERS, zeros),
        ),
        "edit": (
            lambda: kn.edit_knowledge(prompt, case.target, NEURONS, quiet=True, **options),
            lambda: plain.overwritten(NEURONS, edit),
        ),
    }


@pytest.mark.parametrize("kind", ["suppress", "erase", "edit"])
def test_a_change_is_undone_after_its_measurement(case: Bert, kind: str):
    before = case.logits()
    results, unpatch_fn = changes(case)[kind][0]()
    assert results["before"] != results["after"]
    assert case.is_untouched()
    assert torch.equal(case.logits(), before)
    unpatch_fn()
    unpatch_fn()
    assert case.is_untouched()


@pytest.mark.parametrize("kind", ["suppress", "erase", "edit"])
def test_a_kept_change_acts_until_it_is_undone(case: Bert, kind: str):
    before = case.logits()
    make, by_hand = changes(case, undo_modification=False)[kind]
    results, unpatch_fn = make()
    with by_hand():
        assert torch.allclose(case.logits(), case.logits(case.plain.model), atol=1e-5)
    assert not torch.allclose(case.logits(), before, atol=1e-3)
    # The next prediction is of the changed model.
    again, _ = case.kn.suppress_knowledge(
        case.prompt, case.answer if kind != "edit" else case.target, [], quiet=True
    )
    assert again["before"] == again["after"] == results["after"]
    unpatch_fn()
    assert case.is_untouched()
    assert torch.equal(case.logits(), before)


@pytest.mark.parametrize("order", permutations(range(3)))
def test_kept_changes_are_undone_in_any_order(bert: Bert, order: tuple[int, ...]):
    before = bert.logits()
    kept = list(changes(bert, undo_modification=False).items())
    # An edit depends on the model's current prediction, so the plain version applies it first.
    kept = [each for name in ("edit", "erase", "suppress") for each in kept if each[0] == name]
    undo = [make()[1] for _, (make, _) in kept]
    left = [by_hand for _, (_, by_hand) in kept]
    for index in order:
        with ExitStack() as stack:
            for by_hand in left:
                if by_hand is not None:
                    stack.enter_context(by_hand())
            assert torch.allclose(bert.logits(), bert.logits(bert.plain.model), atol=1e-5)
        undo[index]()
        undo[index]()  # twice is once
        left[index] = None
    assert bert.is_untouched()
    assert torch.equal(bert.logits(), before)


def test_a_kept_suppression_acts_at_the_mask_of_every_prompt(bert: Bert):
    _, unpatch_fn = bert.kn.suppress_knowledge(MASKED, "paris", NEURONS, **STAYS)
    place = bert.plain.read(ELSEWHERE)[1]
    assert place != bert.plain.read(MASKED)[1]
    with bert.plain.scaled(ELSEWHERE, NEURONS, 0.0):
        expected = bert.logits(bert.plain.model, ELSEWHERE)
    assert torch.allclose(bert.logits(prompt=ELSEWHERE), expected, atol=1e-5)
    several = bert.tokenizer([MASKED, ELSEWHERE], return_tensors="pt", padding=True)
    with torch.no_grad():
        rows = bert.model(**several).logits
    assert torch.allclose(rows[1, : expected.shape[1]], expected[0], atol=1e-4)
    assert torch.allclose(rows[0, : bert.logits().shape[1]], bert.logits()[0], atol=1e-4)
    without = "people speak french"  # there is no mask, so nothing is suppressed
    assert torch.equal(bert.logits(prompt=without), bert.logits(bert.plain.model, without))
    unpatch_fn()
    assert bert.is_untouched()


def test_two_enhancements_multiply(case: Bert):
    kn, ask = case.kn, (case.prompt, case.answer, NEURONS)
    _, first = kn.enhance_knowledge(*ask, **STAYS)
    results, second = kn.enhance_knowledge(*ask, **STAYS)
    temporary, _ = kn.enhance_knowledge(*ask, quiet=True)
    first()
    second()
    prompt = kn.subject.prompt(case.prompt, case.answer)
    neurons = [Neuron(*each) for each in NEURONS]
    four, eight = (
        kn.subject.predict([prompt], interventions=[Amplify(neurons, factor)])[0].probability
        for factor in (4, 8)
    )
    assert results["after"]["gt_prob"] == pytest.approx(four, rel=1e-4)
    assert temporary["after"]["gt_prob"] == pytest.approx(eight, rel=1e-4)
    assert case.is_untouched()


@pytest.mark.parametrize("first", [0, 1])
def test_two_drop_ins_on_one_model_undo_their_own_changes(case: Bert, first: int):
    """On the same neurons; the second, with another rule, sees the first's kept changes."""
    other = KnowledgeNeurons(case.model, case.tokenizer, device="cpu", rule="certified")
    _, undo_erasure = case.kn.erase_knowledge(case.prompt, NEURONS, target=case.answer, **STAYS)
    _, undo_edit = other.edit_knowledge(case.prompt, case.target, NEURONS, **STAYS)
    both = case.logits()
    for undo in (undo_erasure, undo_edit)[:: 1 - 2 * first]:
        assert not case.is_untouched()
        undo()
        assert not torch.allclose(case.logits(), both, atol=1e-3)
    assert case.is_untouched()


def test_the_next_drop_in_on_the_model_sees_a_kept_suppression():
    """In a padded batch, a shorter prompt's answer is not at the last position."""
    case = Gpt2()
    prompts = [case.prompt, "the capital city of france is called", "the river of"]
    everything = [[0, neuron] for neuron in range(case.kn.intermediate_size())]
    case.kn.suppress_knowledge(case.prompt, case.answer, everything, **STAYS)
    expected = [case.kn.get_coarse_neurons(p, case.answer, adaptive_threshold=0.3) for p in prompts]
    case.kn = KnowledgeNeurons(case.model, case.tokenizer, device="cpu")
    gc.collect()
    found = case.kn.get_refined_neurons(prompts, case.answer, p=0.0, quiet=True)
    assert {*map(tuple, found)} == {tuple(neuron) for neurons in expected for neuron in neurons}


def test_an_unreferenced_model_is_freed():
    case = Gpt2()
    _, unpatch_fn = case.kn.suppress_knowledge(case.prompt, case.answer, NEURONS, **STAYS)
    unpatch_fn()
    gone = weakref.ref(case.model)
    gc.disable()  # a large model must be freed without the collector
    try:
        del case, unpatch_fn
        assert gone() is None
    finally:
        gc.enable()


class Interrupted(BaseException):
    """An exception that is not an `Exception`."""


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("kind", ["suppress", "erase", "edit"])
def test_a_change_is_undone_when_its_measurement_fails(case: Bert, kind: str, kept: bool):
    make = changes(case, undo_modification=not kept)[kind][0]
    passes = []

    def breaks_off(module, args, output):
        passes.append(module)
        if len(passes) == 2:
            raise Interrupted

    handle = case.model.register_forward_hook(breaks_off)
    with pytest.raises(Interrupted):
        make()
    handle.remove()
    assert len(passes) == 2
    assert case.is_untouched()
    assert torch.equal(case.logits(), case.logits(case.plain.model))


@pytest.mark.parametrize("kind", ["suppress", "erase", "edit"])
def test_a_copy_of_the_changed_model_keeps_the_change(case: Bert, kind: str):
    """Editing tools copy the changed model, then undo the change in the original."""
    _, unpatch_fn = changes(case, undo_modification=False)[kind][0]()
    other = ELSEWHERE if case.prompt == MASKED else "people in paris speak"
    changed = case.logits(), case.logits(prompt=other)
    edited = copy.deepcopy(case.kn.model)
    unpatch_fn()
    assert case.is_untouched()
    assert torch.equal(case.logits(edited), changed[0])
    assert torch.equal(case.logits(edited, other), changed[1])
    assert not torch.equal(case.logits(), changed[0])


def test_a_kept_edit_is_saved_with_the_model(bert: Bert, tmp_path):
    _, unpatch_fn = bert.kn.edit_knowledge(MASKED, "rome", NEURONS, **STAYS)
    bert.kn.model.save_pretrained(tmp_path)
    changed = bert.logits()
    unpatch_fn()
    assert torch.equal(bert.logits(AutoModelForMaskedLM.from_pretrained(tmp_path).eval()), changed)


def test_weights_trained_meanwhile_stay(bert: Bert):
    _, unpatch_fn = bert.kn.erase_knowledge(MASKED, OTHERS, target="paris", **STAYS)
    down = bert.model.bert.encoder.layer[1].output.dense
    assert down.weight.requires_grad
    with torch.no_grad():
        down.weight[:, 20] += 1.0
    trained = down.weight.detach().clone()
    unpatch_fn()
    expected = bert.bits["bert.encoder.layer.1.output.dense.weight"].clone()
    expected[:, 20] = trained[:, 20]
    assert torch.equal(down.weight, expected)
    assert torch.equal(bert.parameters["bert.encoder.layer.1.output.dense.weight"], expected) is False
    assert (
        bert.model.bert.encoder.layer[2].output.dense.weight
        is (bert.parameters["bert.encoder.layer.2.output.dense.weight"])
    )
    # Changing it again starts from there.
    _, unpatch_fn = bert.kn.erase_knowledge(MASKED, OTHERS, **STAYS)
    unpatch_fn()
    assert torch.equal(down.weight, expected)


def test_scores_see_kept_changes_of_value_vectors(case: Bert):
    _, unpatch_fn = case.kn.erase_knowledge(case.prompt, NEURONS, target=case.answer, **STAYS)
    changed = case.kn.get_scores(case.prompt, case.answer)
    unpatch_fn()
    with case.plain.overwritten(NEURONS, zeros):
        expected = KnowledgeNeurons(case.plain.model, case.tokenizer, device="cpu").get_scores(
            case.prompt, case.answer
        )
    assert torch.allclose(changed, expected, atol=1e-6 * float(expected.abs().max()) + 1e-9)
    assert all(changed[layer, neuron].abs() < 1e-9 for layer, neuron in NEURONS)


def test_scores_see_kept_changes_of_activations(case: Bert):
    _, unpatch_fn = case.kn.suppress_knowledge(case.prompt, case.answer, NEURONS, **STAYS)
    found = case.kn.get_scores(case.prompt, case.answer)
    of_layer = case.kn.get_scores_for_layer(case.prompt, case.answer, 1)
    refined = case.kn.get_refined_neurons([case.prompt], case.answer, quiet=True)
    unpatch_fn()
    encoded, place = case.plain.read(case.prompt)
    target = case.plain.wanted(case.answer)
    with case.plain.scaled(case.prompt, NEURONS, 0.0):
        expected = plain_scores(case.plain.model, encoded["input_ids"][0], place, target, rule=endpoints(20))
    assert relative(found, expected) < 1e-5
    assert torch.allclose(of_layer, found[1])
    assert refined == torch.nonzero(found > 0.3 * found.max()).tolist()
    usual = case.kn.get_scores(case.prompt, case.answer)
    assert relative(found, usual) > 1e-3


def test_a_kept_suppression_of_several_answer_tokens_is_the_librarys():
    case = Gpt2()
    fact = "the largest city of america is", " new york"
    results, unpatch_fn = case.kn.suppress_knowledge(*fact, NEURONS, **STAYS)
    scores = case.kn.get_scores(*fact)
    unpatch_fn()
    temporary, _ = case.kn.suppress_knowledge(*fact, NEURONS, quiet=True)
    assert results["after"]["gt_prob"] == pytest.approx(temporary["after"]["gt_prob"], rel=1e-5)
    subject = case.kn.subject
    prompt = subject.prompt(*fact)
    with subject.applied(Suppress([Neuron(*each) for each in NEURONS])) as changed:
        expected = changed.predict([prompt])[0].probability
    assert results["after"]["gt_prob"] == pytest.approx(expected, rel=1e-5)
    assert len(subject.encode(prompt).targets) > 1
    # A suppressed neuron has a score of zero.
    assert all(abs(scores[layer, neuron]) < 1e-9 for layer, neuron in NEURONS)


def test_the_models_mode_is_restored(case: Bert):
    case.model.train().requires_grad_(True)
    frozen = next(case.model.parameters()).requires_grad_(False)
    case.kn.get_refined_neurons([case.prompt], case.answer, quiet=True)
    case.kn.edit_knowledge(case.prompt, case.target, NEURONS, quiet=True)
    assert all(module.training for module in case.model.modules())
    assert [p for p in case.model.parameters() if not p.requires_grad] == [frozen]
    assert all(p.grad is None for p in case.model.parameters())


def test_the_model_can_be_replaced(bert: Bert):
    other, _ = tiny_model("tiny_bert")
    with torch.no_grad():
        other.bert.encoder.layer[0].output.dense.weight.mul_(2)
    before = bert.kn.get_scores(MASKED, "paris")
    bert.kn.model = other
    assert bert.kn.model is other
    after = bert.kn.get_scores(MASKED, "paris")
    assert torch.equal(
        after, KnowledgeNeurons(other, bert.tokenizer, device="cpu").get_scores(MASKED, "paris")
    )
    assert not torch.allclose(before, after, rtol=1e-3)


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_modernbert", "tiny_gpt2", "tiny_opt"])
def test_the_library_scores_many_prompts_of_a_model_with_a_kept_suppression(name: str):
    """The prompts have several lengths, some equal: hooks cannot tell a batch's rows apart."""
    model, tokenizer = tiny_model(name)
    masked = tokenizer.mask_token is not None
    kn = KnowledgeNeurons(model, tokenizer, device="cpu")
    text, answer = ("the capital of france is [MASK]", "paris") if masked else (CAUSAL, " paris")
    subject = subject_of(model, tokenizer, device="cpu")
    prompts = [
        subject.prompt(f"{stem} [Y]", "rome")
        for stem in (
            "the capital of japan is",
            "the capital of italy is",
            "the old town of paris lies in rome ,",
        )
    ]
    before = attribute(subject, prompts, rule="endpoints")
    _, undo = kn.suppress_knowledge(text, answer, NEURONS, **STAYS)
    found = attribute(subject, prompts, rule="endpoints")
    for prompt, result, was in zip(prompts, found, before, strict=True):
        encoded = subject.encode(prompt)
        ids = torch.tensor(encoded.input_ids)
        plainly = plain_scores(model, ids, encoded.positions[0], encoded.targets[0], rule=endpoints(20))
        assert float(abs(torch.from_numpy(result.scores) - plainly).max()) < 1e-5 * float(plainly.abs().max())
        assert float(abs(result.scores - was.scores).max()) > 1e-3 * float(plainly.abs().max())
    with pytest.raises(ModelError, match="has hooks"):
        attribute(subject, prompts, method="sequential_integrated_gradients")
    undo()
    for result, was in zip(attribute(subject, prompts, rule="endpoints"), before, strict=True):
        assert (result.scores == was.scores).all()
