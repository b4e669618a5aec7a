"""Texts: transformers' own without a change; with one, what hooks of the tests' own give."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Thread

import pytest
import torch

from atlas.errors import AtlasError, PromptError
from atlas.experiments.experiment import Experiment
from atlas.experiments.generate import generate, generate_all, write_texts
from atlas.experiments.run import run
from atlas.interventions import Amplify, Edit, Patch, SetTo, Suppress
from atlas.neuron import ExperimentPrompt, Neuron
from atlas.surgery.subject import load_subject
from tests.tiny_models import BUILDERS

CAUSAL = [name for name, tiny in BUILDERS.items() if not tiny.masked]
MASKED = [name for name, tiny in BUILDERS.items() if tiny.masked]
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


def transformers_own(subject, prompt) -> str:
    """The model's own greedy text of 20 tokens."""
    ids = torch.tensor([read(subject, prompt)])
    whole = subject.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20
    )
    said = whole[0, ids.shape[1] :].tolist()
    end = subject.model.generation_config.eos_token_id
    return subject.tokenizer.decode(said[: said.index(end)] if end in said else said)


@pytest.mark.parametrize("name", CAUSAL)
def test_without_a_change_it_is_transformers_greedy_text(name, tiny):
    subject = load_subject(str(tiny(name)), device="cpu")
    for prompt in asked(subject):
        assert generate(subject, prompt) == transformers_own(subject, prompt)


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama", "tiny_opt"])
def test_activations_are_scaled_at_the_answer_and_at_every_generated_token(name, tiny):
    subject = load_subject(str(tiny(name)), device="cpu")
    for prompt in asked(subject):
        for change, factor in ((Suppress(NEURONS), 0.0), (Amplify(NEURONS, factor=3.0), 3.0)):
            said = said_scaled(subject, read(subject, prompt), factor, n_tokens=8)
            assert generate(subject, prompt, change, n_tokens=8) == subject.tokenizer.decode(said)


def said_scaled(subject, ids: list[int], factor: float, *, n_tokens: int) -> list[int]:
    """The greedy tokens after `ids`, with `NEURONS` scaled from the last of them on."""
    start, said = len(ids) - 1, []
    for _ in range(n_tokens):
        said.append(int(logits_scaled(subject, [*ids, *said], start, factor)[-1].argmax()))
    end = subject.tokenizer.eos_token_id
    return said[: said.index(end)] if end in said else said


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
    with pytest.raises(AtlasError, match="n_tokens must be at least 1"):
        generate(llama, asked(llama)[0], n_tokens=0)


# --- under three conditions ---


def experiment_on(subject, *interventions, seed: int = 3) -> Experiment:
    prompts = tuple(ExperimentPrompt("asked", prompt) for prompt in asked(subject))
    return Experiment(interventions or (Suppress(NEURONS),), prompts, seed=seed, draws=2)


@pytest.mark.parametrize("name", CAUSAL)
def test_the_three_texts_are_the_models_own_the_changed_one_and_the_random_one(name, tiny):
    subject = load_subject(str(tiny(name)), device="cpu")
    experiment = experiment_on(subject)
    by_chance = run(subject, experiment).random_neurons[0]
    for prompt in asked(subject):
        texts = write_texts(subject, experiment, prompt)
        assert texts.before.text == transformers_own(subject, prompt)
        assert texts.random_neurons == by_chance
        assert texts.random.text == generate(subject, prompt, Suppress(by_chance))
        said = said_scaled(subject, read(subject, prompt), 0.0, n_tokens=20)
        assert texts.after.text == subject.tokenizer.decode(said)
        assert texts.after.tokens == tuple(said)
        # Its text with the gap, and without it, is the same prompt.
        assert write_texts(subject, experiment, prompt.text) == texts
        assert write_texts(subject, experiment, prompt.stem) == texts
        for each in (texts.before, texts.after, texts.random):
            assert "".join(each.pieces) == each.text
            assert len(each.pieces) == len(each.tokens) <= 20


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama", "tiny_bert", "tiny_roberta", "tiny_albert"])
@pytest.mark.parametrize(
    "change",
    [
        Suppress(NEURONS),
        SetTo(NEURONS, 1.5),
        Patch(NEURONS, "the old town of rome lies in [Y]"),
        Edit(NEURONS[:9], old="paris", new="rome"),
    ],
)
def test_the_first_token_of_each_text_is_what_predict_says(name, change, tiny):
    subject = load_subject(str(tiny(name)), device="cpu")
    experiment = experiment_on(subject, change)
    for prompt in asked(subject):
        texts = write_texts(subject, experiment, prompt, n_tokens=10)
        by_chance = replace(change, neurons=texts.random_neurons)
        predictions = subject.predict([prompt] * 3, top_k=1, interventions=[None, change, by_chance])
        written = (texts.before, texts.after, texts.random)
        for each, prediction in zip(written, predictions, strict=True):
            assert subject.token_text(each.tokens[0]) == prediction.top_token


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama", "tiny_bert"])
def test_undo_is_exact_after_texts_were_written(name, tiny):
    subject = load_subject(str(tiny(name)), device="cpu")
    before = subject.predict(asked(subject))
    changes = (Edit(NEURONS[:9], old="paris", new="rome"), SetTo(NEURONS, 1.5))
    first = write_texts(subject, experiment_on(subject, *changes), asked(subject)[0])
    assert subject.predict(asked(subject)) == before
    assert write_texts(subject, experiment_on(subject, *changes), asked(subject)[0]) == first


def test_the_first_different_token_is_found_with_its_place(tiny_llama):
    subject = load_subject(str(tiny_llama), device="cpu")
    prompt = asked(subject)[0]
    texts = write_texts(subject, experiment_on(subject), prompt)
    place = texts.after_differs
    assert place is not None
    assert texts.before.tokens[:place] == texts.after.tokens[:place]
    assert texts.before.tokens[place] != texts.after.tokens[place]
    same = write_texts(subject, experiment_on(subject, Amplify(NEURONS, 1.0)), prompt)
    assert same.before == same.after
    assert same.after_differs is same.random_differs is None
    # A text that ends earlier differs where it ends.
    shorter = replace(texts.before, tokens=texts.before.tokens[:4])
    assert replace(texts, after=shorter).after_differs == 4


def test_a_character_of_several_tokens_is_in_one_piece(tiny_gpt2):
    subject = load_subject(str(tiny_gpt2), device="cpu")
    subject.model.generation_config.eos_token_id = None
    wanted = subject.tokenizer.encode("né 巴黎 🦙!")

    @contextmanager
    def saying(tokens):
        left = iter(tokens)

        def say(module, args, output):
            output = torch.full_like(output, -9.0)
            output[..., next(left, tokens[-1])] = 9.0
            return output

        handle = subject.model.lm_head.register_forward_hook(say)
        try:
            yield
        finally:
            handle.remove()

    with saying(wanted):
        text = write_texts(subject, experiment_on(subject), asked(subject)[0], n_tokens=len(wanted)).after
    assert text.text == "né 巴黎 🦙!"
    assert "".join(text.pieces) == text.text
    assert {"巴", "黎", "🦙"} <= {piece.strip() for piece in text.pieces}


@contextmanager
def neurons_at(subject, places: list[int], factor: float):
    """`NEURONS` × factor at these places of one sentence, by hooks of the test's own."""

    def scaling(layer):
        own = [each.neuron for each in NEURONS if each.layer == layer]

        def hook(module, inputs):
            for place in places:
                inputs[0][:, place, own] *= factor

        return hook

    # ALBERT's layers are one module: every layer's own neurons are scaled at its own call only.
    downs = [subject.family.down(subject.model, layer) for layer in range(subject.n_layers)]
    handles = [down.register_forward_pre_hook(scaling(layer)) for layer, down in enumerate(downs)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", [name for name in MASKED if name != "tiny_albert"])
@pytest.mark.parametrize(
    "text", ["the capital of [Y] is [Y] .", "[Y] , [Y] and [Y] are cities", "the capital of france is [Y]"]
)
def test_gaps_are_filled_one_after_the_other_with_the_change_at_each_of_them(name, text, tiny):
    subject = load_subject(str(tiny(name)), device="cpu")
    texts = write_texts(subject, experiment_on(subject), text)
    ids, places = subject.gaps(text)
    assert [ids[place] for place in places] == [subject.tokenizer.mask_token_id] * text.count("[Y]")
    for written, factor in ((texts.before, 1.0), (texts.after, 0.0)):
        by_hand = list(ids)
        for place in places:
            with neurons_at(subject, list(places), factor), torch.no_grad():
                by_hand[place] = int(subject.model(torch.tensor([by_hand])).logits[0, place].argmax())
        assert written.tokens == tuple(by_hand[place] for place in places)
        assert written.pieces == tuple(map(subject.token_text, written.tokens))
        filled = text
        for token in written.tokens:
            filled = filled.replace("[Y]", subject.tokenizer.decode([token]).strip(), 1)
        assert written.text == filled
    assert write_texts(subject, experiment_on(subject), text.replace("[Y]", "[MASK]")) == texts


def test_a_prompt_has_as_many_gaps_as_its_answer_has_tokens(tiny_bert):
    subject = load_subject(str(tiny_bert), device="cpu")
    prompt = asked(subject)[1]
    written = write_texts(subject, experiment_on(subject), prompt).after
    assert len(written.tokens) == len(subject.encode(prompt).targets) == 2
    assert written.text == f"the largest city of america is {subject.tokenizer.decode(written.tokens)}"


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_bert"])
def test_progress_is_told_and_others_use_the_model_between_two_tokens(name, tiny):
    subject = load_subject(str(tiny(name)), device="cpu")
    told, other = [], Event()
    thread = Thread(target=lambda: (subject.predict(asked(subject)), other.set()))

    def progress(share: float, message: str) -> None:
        told.append((share, message, other.is_set()))
        if len(told) == 2:
            thread.start()
        elif len(told) == 4:
            assert other.wait(10)

    text = "[Y] " * 12 if name == "tiny_bert" else TEXTS[0][0]
    write_texts(subject, experiment_on(subject), text, n_tokens=12, progress=progress)
    thread.join()
    shares = [share for share, _, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert any(message == "Token 7 of 12" for _, message, _ in told)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_bert"])
def test_texts_can_be_stopped_and_leave_the_model_as_it_was(name, tiny):
    subject = load_subject(str(tiny(name)), device="cpu")
    before = subject.predict(asked(subject))

    class Stopped(BaseException):
        pass

    def stop(share: float, message: str) -> None:
        if share > 0:
            raise Stopped

    with pytest.raises(Stopped):
        write_texts(subject, experiment_on(subject), "[Y] [Y] [Y]" if "bert" in name else "in", progress=stop)
    assert subject.predict(asked(subject)) == before
    assert not any(each._forward_pre_hooks or each._forward_hooks for each in subject.model.modules())
    assert not subject.lock.busy


@pytest.mark.parametrize(
    ("name", "text", "n_tokens", "sentence"),
    [
        ("tiny_llama", "in [Y]", 0, "n_tokens must be between 1 and 60, got 0"),
        ("tiny_llama", "in [Y]", 61, "n_tokens must be between 1 and 60, got 61"),
        ("tiny_llama", "the capital of france is [Y]", 60, "60 more do not fit"),
        ("tiny_llama", "[Y] is the capital", 20, "continues after the answer"),
        ("tiny_llama", "[Y] and [Y]", 20, "has 2 places for the answer"),
        ("tiny_bert", "no gap", 20, "has no gap. Write"),
        ("tiny_bert", "[Y] " * 61, 20, "has 61 gaps. Give at most 60"),
        ("tiny_bert", "[Y]" + " the" * 80, 20, "reads at most 64"),
        ("tiny_bert", "half a \ud83d [Y]", 20, "half a character"),
    ],
)
def test_a_text_that_cannot_be_written_is_one_sentence(name, text, n_tokens, sentence, tiny):
    subject = load_subject(str(tiny(name)), device="cpu")
    with pytest.raises(AtlasError, match=sentence):
        write_texts(subject, experiment_on(subject), text, n_tokens=n_tokens)
