"""The drop-in takes a model and its tokenizer of every family that the library knows."""

from __future__ import annotations

import pytest
import torch
from transformers import BertLMHeadModel

from atlas.compat import KnowledgeNeurons, subject_of
from atlas.compat.kept import layers_are_shared
from atlas.compat.models import as_studied
from atlas.errors import ModelError
from atlas.neuron import Neuron
from atlas.surgery import Amplify, Erase, Suppress, attribute
from tests.atlas.compat import CAUSAL, MASKED, NEURONS, drop_in
from tests.tiny_models import BUILDERS, tiny_model


@pytest.fixture(scope="module", params=BUILDERS)
def kn(request) -> KnowledgeNeurons:
    return drop_in(request.param)


@pytest.fixture
def fact(kn) -> tuple[str, str]:
    masked = kn.subject.family.kind == "masked"
    return (f"{CAUSAL} {kn.tokenizer.mask_token} .", "paris") if masked else (CAUSAL, " paris")


def logits(kn: KnowledgeNeurons, prompt: str) -> torch.Tensor:
    with torch.no_grad():
        return kn.model(**kn.tokenizer(prompt, return_tensors="pt")).logits


def test_scores_and_neurons_are_the_librarys(kn, fact):
    prompt, answer = fact
    subject = kn.subject
    with as_studied(kn.model):
        expected = attribute(subject, [subject.prompt(prompt, answer)], rule="endpoints")[0].scores
    found = kn.get_scores(prompt, answer)
    assert torch.equal(found, torch.from_numpy(expected))
    for layer in (0, kn.n_layers() - 1):
        of_layer = kn.get_scores_for_layer(prompt, answer, layer)
        assert float((of_layer - found[layer]).abs().max() / found.abs().max()) < 1e-5
    assert kn.get_refined_neurons([prompt, prompt], answer, quiet=True) == (
        torch.nonzero(found > 0.3 * found.max().item()).tolist()
    )
    assert kn.intermediate_size() == found.shape[1]


def test_the_originals_model_class_scores_like_ours():
    """The original loads BERT as BertLMHeadModel, which still attends in both directions."""
    model, tokenizer = tiny_model("tiny_bert")
    other = BertLMHeadModel(model.config)
    other.load_state_dict(model.state_dict())
    scores = [
        KnowledgeNeurons(each, tokenizer, device="cpu").get_scores(MASKED, "paris") for each in (model, other)
    ]
    assert torch.equal(*scores)


def test_a_subject_can_be_made_of_a_model_and_its_tokenizer():
    model, tokenizer = tiny_model("tiny_llama")
    subject = subject_of(model.train(), tokenizer, device="cpu")
    assert subject.model is model
    assert not model.training
    found = attribute(subject, [subject.prompt("the capital of france is", "paris")])[0]
    assert bool(found.converged.all())


def test_changes_equal_the_librarys_and_leave_no_trace(kn, fact):
    prompt, answer = fact
    subject, shared = kn.subject, layers_are_shared(kn.subject)
    before, parameters = logits(kn, prompt), dict(kn.model.named_parameters())
    neurons = [Neuron(*each) for each in NEURONS]
    for change, act in (
        (
            Suppress(neurons),
            lambda **kept: kn.suppress_knowledge(prompt, answer, NEURONS, quiet=True, **kept),
        ),
        (Amplify(neurons), lambda **kept: kn.enhance_knowledge(prompt, answer, NEURONS, quiet=True, **kept)),
        (
            Erase(neurons),
            lambda **kept: kn.erase_knowledge(prompt, NEURONS, target=answer, quiet=True, **kept),
        ),
    ):
        with subject.applied(change) as changed:
            expected = changed.predict([subject.prompt(prompt, answer)])[0].probability
        of_weights = isinstance(change, Erase)
        results, _ = act()
        if not (shared and of_weights):  # ALBERT's weights are one matrix at every depth
            assert results["after"]["gt_prob"] == pytest.approx(expected, rel=1e-4, abs=1e-9)
        assert results["after"]["gt_prob"] != results["before"]["gt_prob"]
        assert torch.equal(logits(kn, prompt), before)
        if shared and not of_weights:
            with pytest.raises(ModelError, match="share one module"):
                act(undo_modification=False)
        else:
            kept, unpatch_fn = act(undo_modification=False)
            assert kept["after"]["gt_prob"] == pytest.approx(results["after"]["gt_prob"], rel=1e-4, abs=1e-9)
            seen = logits(kn, prompt)
            scores = kn.get_scores(prompt, answer)
            unpatch_fn()
            assert not torch.allclose(seen, before, atol=1e-5)
            assert not torch.equal(scores, kn.get_scores(prompt, answer))
        assert torch.equal(logits(kn, prompt), before)
    results, _ = kn.edit_knowledge(prompt, answer.replace("paris", "rome"), NEURONS, quiet=True)
    assert results["after"] != results["before"]
    watched, _ = kn.erase_knowledge(prompt, NEURONS, quiet=True)
    assert watched["before"]["gt_prob"] == watched["before"]["argmax_prob"]
    assert torch.equal(logits(kn, prompt), before)
    assert all(now is parameters[name] for name, now in kn.model.named_parameters())
