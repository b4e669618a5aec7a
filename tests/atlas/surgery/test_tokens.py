"""A neuron's activation at each token of a text is what a plain forward hook sees, in every architecture."""

from __future__ import annotations

import pytest
import torch

from atlas.errors import AtlasError, PromptError
from atlas.neuron import Neuron
from atlas.surgery.readout import nearest_values, readout
from atlas.surgery.subject import load_subject
from atlas.surgery.tokens import read_text
from tests.tiny_models import BUILDERS

NEURON = Neuron(1, 5)
STEM = "the capital of france is"


def by_hook(subject, ids: list[int], layer: int) -> torch.Tensor:
    """A layer's activations at each of these tokens, (n_tokens, n_neurons), by a hook of the test's own."""
    seen = []
    layers = subject.family.layer_modules(subject.model)
    down = layers[layer].get_submodule(subject.family.down_projection)
    handle = down.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        subject.model(torch.tensor([ids]))
    handle.remove()
    # ALBERT's layers are one module, called once a depth.
    return seen[layer if layers[0] is layers[layer] else 0].reshape(len(ids), -1)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_text_reads_as_its_prompt_does(name, tiny):
    subject = load_subject(str(tiny(name)))
    text = f"{STEM} [Y] ." if subject.family.kind == "masked" else STEM
    prompt = subject.unanswered(subject.encode(subject.prompt(text, "paris")))
    expected = by_hook(subject, list(prompt.input_ids), 1)
    neuron = int(expected.abs().sum(0).argmax())
    read = read_text(subject, text, Neuron(1, neuron))
    assert read.tokens == tuple(map(subject.token_text, prompt.input_ids))
    assert read.answer == prompt.positions[0]
    assert read.activations == pytest.approx(expected[:, neuron].tolist(), rel=1e-4, abs=1e-6)
    assert len(set(read.activations)) > 1


def test_a_masked_model_reads_a_text_without_a_gap(tiny_bert):
    subject = load_subject(str(tiny_bert))
    read = read_text(subject, "the river runs through paris", NEURON)
    assert read.answer is None
    assert read.tokens[0] == "[CLS]"
    ids = subject.tokenizer("the river runs through paris")["input_ids"]
    assert read.activations == pytest.approx(by_hook(subject, ids, 1)[:, 5].tolist(), rel=1e-4, abs=1e-6)


def test_a_causal_model_reads_up_to_the_gap(tiny_llama):
    subject = load_subject(str(tiny_llama))
    assert read_text(subject, f"{STEM} [Y] and more", NEURON) == read_text(subject, STEM, NEURON)


def test_a_text_that_cannot_be_read_and_a_neuron_that_is_not_there_are_refused(tiny_gpt2):
    subject = load_subject(str(tiny_gpt2))
    for text, says in (("", "no words"), ("[Y]", "no words"), ("paris " * 2000, "reads at most")):
        with pytest.raises(PromptError, match=says):
            read_text(subject, text, NEURON)
    with pytest.raises(PromptError, match="half a character"):
        read_text(subject, "\ud83d", NEURON)
    for absent in (Neuron(3, 0), Neuron(0, 10_000)):
        with pytest.raises(AtlasError, match="has no neuron"):
            read_text(subject, STEM, absent)
        with pytest.raises(AtlasError, match="has no neuron"):
            nearest_values(subject, absent)


def test_neurons_alike_are_those_of_the_largest_cosine(tiny_folder):
    subject = load_subject(str(tiny_folder))
    vectors = {
        Neuron(layer, index): values[index]
        for layer in range(subject.n_layers)
        for values in [subject.family.value_vectors(subject.model, layer)]
        for index in range(len(values))
    }
    own = vectors.pop(NEURON)
    cosines = {each: float(v @ own / (v.norm() * own.norm())) for each, v in vectors.items()}
    found = nearest_values(subject, NEURON, k=6)
    largest = sorted(map(abs, cosines.values()), reverse=True)[:6]
    assert [abs(cosine) for _, cosine in found] == pytest.approx(largest, abs=1e-5)
    for says, cosine in found:
        assert cosine == pytest.approx(cosines[says.neuron], abs=1e-5)
        alone = readout(subject, [says.neuron])[0]
        assert [token for token, _ in says.promoted] == [token for token, _ in alone.promoted]
