"""The logit lens ends with the model's own prediction, in every architecture."""

import pytest
import torch

from atlas.surgery.lens import lens
from atlas.surgery.subject import load_subject
from tests.tiny_models import BUILDERS

TEXTS = (
    ("the capital of france is [Y]", "paris"),
    ("the capital of italy is [Y]", "rome"),
    ("the largest city of america is [Y]", "new york"),
)


def asked(subject):
    return [subject.prompt(text, answer) for text, answer in TEXTS]


@pytest.mark.parametrize("name", BUILDERS)
def test_the_last_layer_says_what_the_model_predicts(name, tiny):
    subject = load_subject(str(tiny(name)))
    predictions = subject.predict(asked(subject), top_k=3)
    for seen, predicted in zip(lens(subject, asked(subject)), predictions, strict=True):
        assert len(seen.layers) == subject.n_layers
        last = seen.layers[-1]
        assert last.probability == pytest.approx(predicted.token_probabilities[0], rel=1e-4)
        assert [token for token, _ in last.top] == [token for token, _ in predicted.top]
        assert [p for _, p in last.top] == pytest.approx([p for _, p in predicted.top], rel=1e-4)
        if len(predicted.token_probabilities) == 1:
            assert last.rank == predicted.rank


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_gpt2", "tiny_llama"])
def test_a_layer_says_what_the_models_own_end_makes_of_what_a_plain_hook_sees(name, tiny):
    subject = load_subject(str(tiny(name)))
    model, layers = subject.model, subject.family.layer_modules(subject.model)
    end = {
        "tiny_bert": lambda hidden: model.cls(hidden),
        "tiny_gpt2": lambda hidden: model.lm_head(model.transformer.ln_f(hidden)),
        "tiny_llama": lambda hidden: model.lm_head(model.model.norm(hidden)),
    }[name]
    prompts = asked(subject)[:2]
    for prompt, found in zip(prompts, lens(subject, prompts), strict=True):
        encoded, seen = subject.encode(prompt), []

        def keep(module, inputs, output, seen=seen):
            seen.append(output[0] if isinstance(output, tuple) else output)

        handles = [layer.register_forward_hook(keep) for layer in layers]
        with torch.no_grad():
            model(torch.tensor([encoded.input_ids]))
            rows = [end(each.reshape(len(encoded.input_ids), -1)).softmax(-1) for each in seen]
        for handle in handles:
            handle.remove()
        for layer, row in zip(found.layers, rows, strict=True):
            at_answer, target = row[encoded.positions[0]], encoded.targets[0]
            assert layer.probability == pytest.approx(float(at_answer[target]), rel=1e-4)
            assert layer.rank == 1 + int((at_answer > at_answer[target]).sum())


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_llama"])
def test_an_earlier_layer_says_what_the_model_without_the_later_ones_would(name, tiny):
    subject = load_subject(str(tiny(name)))
    seen = lens(subject, asked(subject))
    layers = subject.family.layer_modules(subject.model)
    for last in reversed(range(1, subject.n_layers)):
        del layers[last]
        shorter = subject.predict(asked(subject), top_k=1)
        assert [each.layers[last - 1].probability for each in seen] == pytest.approx(
            [each.token_probabilities[0] for each in shorter], rel=1e-4
        )
