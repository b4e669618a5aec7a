"""The tiny models have the properties that other tests rely on."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from tests.conftest import TINY_MODELS
from tests.tiny_models import BUILDERS, SENTENCES, SEVERAL_TOKEN_ANSWERS, SINGLE_TOKEN_ANSWERS, tiny_model


def load(folder):
    auto = AutoModelForMaskedLM if BUILDERS[folder.name].masked else AutoModelForCausalLM
    return auto.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_every_fixture_has_a_builder():
    assert tuple(BUILDERS)[: len(TINY_MODELS)] == TINY_MODELS


def test_a_saved_model_predicts_like_the_one_in_memory(tiny_folder):
    model, tokenizer = tiny_model(tiny_folder.name)
    loaded, loaded_tokenizer = load(tiny_folder)
    for sentence in SENTENCES:
        assert loaded_tokenizer(sentence)["input_ids"] == tokenizer(sentence)["input_ids"]
    batch = tokenizer(SENTENCES[0], return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(batch["input_ids"]).logits, loaded(batch["input_ids"]).logits)


@pytest.mark.parametrize(
    ("answers", "count"),
    [(SINGLE_TOKEN_ANSWERS, lambda n: n == 1), (SEVERAL_TOKEN_ANSWERS, lambda n: n > 1)],
    ids=["one token", "several tokens"],
)
def test_answers_have_the_declared_number_of_tokens(tiny_folder, answers, count):
    _, tokenizer = load(tiny_folder)
    for answer in answers:
        text = answer if tokenizer.mask_token else " " + answer
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert count(len(ids)), (answer, tokenizer.convert_ids_to_tokens(ids))
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids).strip() == answer


def test_bert_splits_unknown_words_into_pieces(tiny_bert):
    _, tokenizer = load(tiny_bert)
    assert tokenizer.tokenize("Azerbaijan")[:2] == ["a", "##z"]
