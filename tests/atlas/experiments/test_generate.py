"""Greedy texts: transformers' own without a change; with one, what hooks of the tests' own give."""

from __future__ import annotations

import pytest
import torch

from atlas.errors import AtlasError, PromptError
from atlas.experiments.generate import generate, generate_all
from atlas.interventions import Amplify, Edit, Suppress
from atlas.neuron import Neuron
from atlas.surgery.subject import load_subject
from tests.tiny_models import BUILDERS

CAUSAL = [name for name, tiny in BUILDERS.items() if not tiny.masked]
TEXTS = (
    ("the capital of france is [Y]", "paris"),
    ("the largest city of america is [Y]", "new york"),
    ("the capital of italy is [Y]", "rome"),
)
NEURONS = tuple(Neuron(layer, index) for layer in range(3) for index in range(layer, 72, 2))


def asked(subject):
    return [subject.prompt(text, answer) for text, answer in TEXTS]


def read(subject, prompt) -> list[int]:
    """The tokens of the prompt before its answer."""
    encoded = subject.encode(prompt)
    return list(encoded.input_ids[: encoded.positions[0] + 1])


@pytest.mark.parametrize("name", CAUSAL)
def test_without_a_change_it_is_transformers_greedy_text(name, tiny):
    subject = load_subject(str(tiny(name)), device="cpu")
    for prompt in asked(subject):
        ids = torch.tensor([read(subject, prompt)])
        whole = subject.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20
        )
        said = whole[0, ids.shape[1] :].tolist()
        end = subject.model.generation_config.eos_token_id
        said = said[: said.index(end)] if end in said else said
        assert generate(subject, prompt) == subject.tokenizer.decode(said)


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama", "tiny_opt"])
def test_activations_are_scaled_at_the_answer_and_at_every_generated_token(name, tiny):
    subject = load_subject(str(tiny(name)), device="cpu")
    for prompt in asked(subject):
        for change, factor in ((Suppress(NEURONS), 0.0), (Amplify(NEURONS, factor=3.0), 3.0)):
            ids = read(subject, prompt)
            start, said = len(ids) - 1, []
            for _ in range(8):
                token = int(logits_scaled(subject, [*ids, *said], start, factor)[-1].argmax())
                said.append(token)
            end = subject.tokenizer.eos_token_id
            said = said[: said.index(end)] if end in said else said
            assert generate(subject, prompt, change, n_tokens=8) == subject.tokenizer.decode(said)


def logits_scaled(subject, ids: list[int], start: int, factor: float) -> torch.Tensor:
    """Logits at every token, (n_tokens, n_vocabulary), without a cache; `NEURONS` scaled from `start` on."""

    def scaling(layer):
        own = [each.neuron for each in NEURONS if each.layer == layer]

        def hook(module, inputs):
            values = inputs[0].clone().view(len(ids), -1)
            values[start:, own] *= factor
            return (values.view(inputs[0].shape),)

        return hook

    downs = [subject.family.down(subject.model, layer) for layer in range(subject.n_layers)]
    handles = [down.register_forward_pre_hook(scaling(layer)) for layer, down in enumerate(downs)]
    try:
        with torch.no_grad():
            return subject.model(torch.tensor([ids])).logits[0]
    finally:
        for handle in handles:
            handle.remove()


def test_the_first_token_is_what_predict_says_under_the_same_change(tiny_llama):
    subject = load_subject(str(tiny_llama), device="cpu")
    for change in (Suppress(NEURONS), Edit(NEURONS[:9], old="paris", new="rome")):
        with subject.applied(change) as changed:
            predictions = changed.predict(asked(subject), top_k=1)
        texts = generate_all(subject, asked(subject), [change] * len(TEXTS), n_tokens=1)
        assert texts == [each.top_token for each in predictions]


def test_prompts_with_changes_of_their_own_do_not_see_each_other(tiny_llama):
    subject = load_subject(str(tiny_llama), device="cpu")
    prompts = asked(subject)
    changes = [Suppress(NEURONS[i::3]) for i in range(3)]
    everything = [(prompt, change) for prompt in prompts for change in (*changes, ())]
    together = generate_all(subject, *zip(*everything, strict=True))
    assert together == [generate(subject, prompt, change) for prompt, change in everything]
    assert len(set(together)) > 6


def test_a_text_ends_where_the_model_ends_it(tiny_gpt2):
    subject = load_subject(str(tiny_gpt2), device="cpu")
    prompt = asked(subject)[0]
    whole = generate(subject, prompt, n_tokens=6)
    third = int(logits_scaled(subject, read(subject, prompt), 0, 1.0)[-1].argmax())
    subject.model.generation_config.eos_token_id = [third]
    assert whole
    assert generate(subject, prompt, n_tokens=6) == ""


def test_what_cannot_be_generated_is_one_sentence(tiny_bert, tiny_llama):
    bert, llama = (load_subject(str(folder), device="cpu") for folder in (tiny_bert, tiny_llama))
    with pytest.raises(PromptError, match="fills in masks and cannot continue a text"):
        generate(bert, bert.prompt("the capital of france is [Y]", "paris"))
    with pytest.raises(PromptError, match="reads at most 64: 60 more do not fit"):
        generate(llama, asked(llama)[0], n_tokens=60)
    with pytest.raises(AtlasError, match=r"has no neuron L9\.N0"):
        generate(llama, asked(llama)[0], Suppress((Neuron(9, 0),)))
