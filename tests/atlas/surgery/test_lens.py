"""The logit lens ends with the model's own prediction, in every architecture."""

import pytest

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
