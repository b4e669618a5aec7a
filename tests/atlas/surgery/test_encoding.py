"""A filled-in sentence is cut as a whole, and the model is asked for the tokens that the answer has in it."""

import pytest

pytest.importorskip("torch")

from tokenizers import AddedToken

from atlas.compat.prompts import encode as drop_in_encode
from atlas.datasets import load_dataset
from atlas.errors import ModelError, PromptError
from atlas.neuron import Prompt
from atlas.surgery import load_subject
from atlas.surgery.encoding import place_answer, space_after
from atlas.surgery.subject import subject_of
from tests.tiny_models import (
    BUILDERS,
    CAUSAL_TOKENIZERS,
    MASKED_TOKENIZERS,
    SENTENCES,
    python_tokenizer,
    tiny_model,
    trained_tokenizer,
)

# (text before the answer, the answer, text after it)
ENDINGS = [
    ("the capital of france is ", "paris", ""),
    ("the capital of france is ", "paris", " ."),
    ("the largest city of america is ", "new york", ""),
    ("法国的首都是", "巴黎", "。"),
    ("法国的首都是 ", "巴黎", "。"),
    ("paris, d'", "italie", "."),
    ("(", "rome", ""),
    ('the capital is "', "rome", ""),
    ("the capital is « ", "rome", "»"),
    ("the capital of france ?\n", "paris", ""),
    ("the capital of france ?\t", "paris", ""),
    ("the capital of france ?\u00a0", "paris", ""),
    ("the capital of france is  ", "paris", ""),
    ("the capital of france\n\n", "paris", "!"),
    ("en 19", "7", ""),
    ("ø ", "7", ""),
]
PLACES = [
    *ENDINGS,
    ("", "paris", " is the capital of france ."),
    ("", "巴黎", "是法国的首都。"),
    ("(", "paris", ") is the capital of france ."),
    ('"', "paris", '" is the capital of france .'),
    ("people in d'", "italie", ", not rome , speak french ."),
    ("a ", "german", "-born person ."),
    ("", "paris", "'s river is the seine ."),
]


def spelled(tokenizer, tokens) -> str:
    return tokenizer.decode(list(tokens)).replace(" ", "").replace("##", "")


def encoded_or_none(subject, before, answer, after):
    """The prompt in tokens; None where the tokenizer does not know the answer."""
    prompt = Prompt("", "", f"{before}[Y]{after}", answer)
    if subject.can_be_asked(prompt):
        return subject.encode(prompt)
    with pytest.raises(PromptError, match="outside the vocabulary"):
        subject.encode(prompt)
    return None


def with_tokenizer(tokenizer, *, masked: bool):
    model, _ = tiny_model("tiny_bert" if masked else "tiny_gpt2")
    model.resize_token_embeddings(len(tokenizer))
    return subject_of(model, tokenizer, device="cpu")


def check_masked(subject, before, answer, after):
    encoded, sentence = encoded_or_none(subject, before, answer, after), before + answer + after
    if encoded is None:
        return False
    ids = list(encoded.input_ids)
    assert {ids[position] for position in encoded.positions} == {subject.tokenizer.mask_token_id}
    for position, target in zip(encoded.positions, encoded.targets, strict=True):
        ids[position] = target
    assert ids == subject.tokenizer(sentence)["input_ids"]
    assert spelled(subject.tokenizer, encoded.targets) == answer.replace(" ", "")
    return True


def check_causal(subject, before, answer, after):
    encoded, sentence = encoded_or_none(subject, before, answer, after), before + answer
    if encoded is None:
        return False
    stem = encoded.input_ids[: encoded.positions[0] + 1]
    whole = tuple(subject.tokenizer(sentence)["input_ids"])
    read = stem + encoded.targets
    assert encoded.input_ids == read[:-1]
    assert whole[: len(read)] == read
    assert subject.tokenizer.decode(whole[len(read) :]) in ("", "[SEP]", "</s>")  # appended, and not read
    assert encoded.positions == tuple(range(len(stem) - 1, len(read) - 1))
    assert spelled(subject.tokenizer, encoded.targets) == answer.replace(" ", "")
    return True


@pytest.mark.parametrize("name", MASKED_TOKENIZERS)
def test_the_sentence_with_masks_filled_is_what_the_tokenizer_makes_of_it(name):
    subject = with_tokenizer(MASKED_TOKENIZERS[name](), masked=True)
    known = [check_masked(subject, *place) for place in PLACES]
    assert sum(known) >= (12 if name == "BERT" else 18)


@pytest.mark.parametrize("name", CAUSAL_TOKENIZERS)
def test_stem_and_targets_are_what_the_tokenizer_makes_of_the_sentence(name):
    subject = with_tokenizer(CAUSAL_TOKENIZERS[name](), masked=False)
    known = [check_causal(subject, *place) for place in ENDINGS]
    assert sum(known) >= 13


@pytest.mark.parametrize("name", BUILDERS)
def test_the_same_holds_in_every_family(name):
    subject = subject_of(*tiny_model(name), device="cpu")
    check, places = (check_masked, PLACES) if subject.family.kind == "masked" else (check_causal, ENDINGS)
    known = [check(subject, *place) for place in places]
    known += [check(subject, text.removesuffix("paris ."), "paris", " .") for text in SENTENCES[:1]]
    assert sum(known) >= 9


@pytest.mark.parametrize("name", [each for each in CAUSAL_TOKENIZERS if "end" in each or "Llama" in each])
def test_a_model_is_asked_after_the_last_word_whatever_is_appended(name):
    subject = with_tokenizer(CAUSAL_TOKENIZERS[name](), masked=False)
    encoded = subject.encode(Prompt("", "", "the capital of france is [Y] .", "paris"))
    tokens = subject.tokenizer.convert_ids_to_tokens(encoded.input_ids)
    assert tokens[-1].strip("Ġ▁") == "is"
    assert [token.strip("Ġ▁") for token in subject.tokenizer.convert_ids_to_tokens(encoded.targets)] == [
        "paris"
    ]


@pytest.mark.parametrize(
    ("kind", "text", "answer", "tokens"),
    [
        ("XLM-R", "法国的首都是[Y]。", "巴黎", ["巴", "黎"]),
        ("ALBERT", "法国的首都是[Y]。", "巴黎", ["巴", "黎"]),
        ("RoBERTa", "the capital is [Y] .", "7", ["Ġ", "7"]),  # a space of the answer's own
        ("RoBERTa", "the capital is  [Y] .", "7", ["Ġ", "7"]),
        ("Prepend and Replace", "the capital of france is [Y] .", "paris", ["▁paris"]),
        ("RoBERTa whose mask keeps the space", "the capital of france is [Y] .", "paris", ["Ġparis"]),
        ("RoBERTa with add_prefix_space", "the capital of france is [Y] .", "paris", ["Ġparis"]),
        ("BERT", "([Y])", "paris", ["paris"]),
    ],
)
def test_the_answers_tokens_are_those_of_its_sentence(kind, text, answer, tokens):
    subject = with_tokenizer(MASKED_TOKENIZERS[kind](), masked=True)
    encoded = subject.encode(Prompt("", "", text, answer))
    assert subject.tokenizer.convert_ids_to_tokens(encoded.targets) == tokens


@pytest.mark.parametrize(
    ("white", "stem"), [("\n", "Ċ"), ("\t", "ĉ"), ("  ", "Ġ"), ("\n\n", "Ċ"), ("\u00a0", "ł")]
)
def test_white_space_before_the_answer_stays_as_it_is(white, stem):
    subject = with_tokenizer(CAUSAL_TOKENIZERS["GPT-2"](), masked=False)
    encoded = subject.encode(Prompt("", "", f"the capital of france is{white}[Y]", "paris"))
    before = encoded.input_ids[: encoded.positions[0] + 1]
    assert subject.tokenizer.convert_ids_to_tokens(before[-1:])[0].endswith(stem)
    assert subject.tokenizer.decode([*before, *encoded.targets]) == f"the capital of france is{white}paris"


@pytest.mark.parametrize("name", CAUSAL_TOKENIZERS)
def test_the_drop_in_joins_prompt_and_answer_as_they_are(name):
    subject = with_tokenizer(CAUSAL_TOKENIZERS[name](), masked=False)
    for prompt, answer in [
        ("the capital of france ?\n", "paris"),
        ("the capital of france is", " paris"),
        ("the capital of france is ", "paris"),
        ("the capital of france is  ", "paris"),
        ("paris, d'", "italie"),
    ]:
        encoded = drop_in_encode(subject, prompt, answer)
        read = (*encoded.input_ids, encoded.targets[-1])
        whole = tuple(subject.tokenizer(prompt + answer)["input_ids"])
        assert whole[: len(read)] == read
        assert spelled(subject.tokenizer, encoded.targets) == answer.strip()


@pytest.mark.parametrize("name", [*CAUSAL_TOKENIZERS, *MASKED_TOKENIZERS])
def test_the_drop_in_reads_the_tokenizers_own_output_as_the_prompt(name):
    masked = name in MASKED_TOKENIZERS
    tokenizer = (MASKED_TOKENIZERS if masked else CAUSAL_TOKENIZERS)[name]()
    subject = with_tokenizer(tokenizer, masked=masked)
    for before, answer, after in ENDINGS:
        prompt = f"{before}{tokenizer.mask_token}{after}" if masked else before
        if subject.can_be_asked(Prompt("", "", f"{before}[Y]{after if masked else ''}", answer)):
            given = drop_in_encode(subject, prompt, answer, encoded_input=tokenizer(prompt))
            assert given == drop_in_encode(subject, prompt, answer)


def test_other_tokens_are_read_as_they_are_without_what_is_appended():
    tokenizer = CAUSAL_TOKENIZERS["GPT-2 that appends its end of text"]()
    subject = with_tokenizer(tokenizer, masked=False)
    prompt = "the capital of france is"
    wanted = drop_in_encode(subject, prompt, " paris")
    other = tokenizer("in france , the capital is")
    bare = tokenizer("in france , the capital is", add_special_tokens=False)
    for given in (other, bare):
        encoded = drop_in_encode(subject, prompt, " paris", encoded_input=given)
        assert encoded.targets == wanted.targets
        assert list(encoded.input_ids) == bare["input_ids"]


def test_the_probability_is_that_of_the_sentence_as_a_plain_call_gives_it():
    import torch

    tokenizer = CAUSAL_TOKENIZERS["Llama with Prepend and Replace"]()
    subject = with_tokenizer(tokenizer, masked=False)
    ids = tokenizer("the capital of france is paris")["input_ids"]
    with torch.no_grad():
        p = subject.model(torch.tensor([ids])).logits[0].softmax(-1)[-2, ids[-1]]
    prediction = subject.predict([subject.prompt("the capital of france is", "paris")])[0]
    assert prediction.probability == pytest.approx(float(p), rel=1e-5)
    assert prediction.token_probabilities == (prediction.probability,)


@pytest.mark.parametrize("name", [*CAUSAL_TOKENIZERS, *MASKED_TOKENIZERS])
def test_an_edits_answer_has_the_tokens_of_a_sentence(name):
    masked = name in MASKED_TOKENIZERS
    subject = with_tokenizer((MASKED_TOKENIZERS if masked else CAUSAL_TOKENIZERS)[name](), masked=masked)
    prompt = Prompt("", "", "the capital of france is [Y]", "paris")
    assert subject.answer_tokens("paris") == subject.encode(prompt).targets
    if name != "BERT":
        assert spelled(subject.tokenizer, subject.answer_tokens("巴黎")) == "巴黎"


@pytest.mark.parametrize("name", [*CAUSAL_TOKENIZERS, *MASKED_TOKENIZERS])
def test_a_gap_whose_answer_is_not_known_is_read_as_with_an_answer_of_one_token(name):
    masked = name in MASKED_TOKENIZERS
    subject = with_tokenizer((MASKED_TOKENIZERS if masked else CAUSAL_TOKENIZERS)[name](), masked=masked)
    compared = 0
    for before, answer, after in PLACES if masked else ENDINGS:
        encoded = encoded_or_none(subject, before, answer, after)
        if encoded is None or before.endswith("\u00a0"):  # which some tokenizers read as a space
            continue
        if not before and subject.tokenizer.tokenize("a")[0] == "▁":  # the mark of a text's start is a token
            continue
        compared += 1
        first, n = subject.unanswered(encoded), len(encoded.targets) if masked else 1
        start = first.positions[0]
        ids = (*first.input_ids[: start + 1], *first.input_ids[start + n :])
        assert subject.gaps(encoded.prompt.text) == (ids, (start,))
        if n == 1:
            opened = subject.opened(encoded.prompt.text)
            assert subject.predict([opened])[0].top == subject.predict([first])[0].top
    assert compared > 8


@pytest.mark.parametrize("name", MASKED_TOKENIZERS)
def test_each_gap_of_a_text_is_one_mask(name):
    subject = with_tokenizer(MASKED_TOKENIZERS[name](), masked=True)
    ids, places = subject.gaps("[Y] is the capital of [Y] .")
    assert [ids[place] for place in places] == [subject.tokenizer.mask_token_id] * 2
    rest = [token for place, token in enumerate(ids) if place not in places]
    assert "isthecapitalof." in spelled(subject.tokenizer, rest)


def test_a_token_that_also_writes_other_text_is_refused_in_one_sentence():
    tokenizer = trained_tokenizer("pairs", space="normaliser")
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("'italie", "rome)")])
    for before, answer, after, token in [
        ("paris, d'", "italie", ".", "'italie"),
        ("(", "rome", ")", "rome)"),
    ]:
        with pytest.raises(PromptError, match="and text beside it") as caught:
            place_answer(tokenizer, before, answer, after)
        assert f"'{token}'" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_tokenizer_written_in_python_follows_the_same_rule(tmp_path):
    tokenizer = python_tokenizer(tmp_path)
    assert not tokenizer.is_fast
    subject = with_tokenizer(tokenizer, masked=True)
    for before, answer, after in [
        ("the capital of france is ", "paris", " ."),
        ("the largest city of america is ", "new york", " ."),
        ("", "paris", " is the capital of france ."),
    ]:
        assert check_masked(subject, before, answer, after)
    assert subject.answer_tokens("new york") == tuple(tokenizer.convert_tokens_to_ids(["new", "york"]))


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("the capital of france is", "the capital of france is [Y]"),
        ("the capital of france is ", "the capital of france is [Y]"),
        ("the capital of france ?", "the capital of france ? [Y]"),
        ("the capital of france ?\n", "the capital of france ?\n[Y]"),
        ("法国的首都是", "法国的首都是[Y]"),
        ("フランスの首都は「", "フランスの首都は「[Y]"),
        ("เมืองหลวงของฝรั่งเศสคือ", "เมืองหลวงของฝรั่งเศสคือ[Y]"),
        ("프랑스의 수도는", "프랑스의 수도는 [Y]"),
        ("les villes d'", "les villes d'[Y]"),
        ("the players'", "the players' [Y]"),
        ("the capital (", "the capital ([Y]"),
    ],
)
def test_a_space_is_put_before_the_answer_only_where_a_writer_puts_one(text, joined):
    subject = with_tokenizer(CAUSAL_TOKENIZERS["GPT-2"](), masked=False)
    assert subject.prompt(text, "paris").text == joined
    assert f"{text}{space_after(text)}" == joined.removesuffix("[Y]")


@pytest.mark.parametrize("mark", [".", "?", "!", "»", "。", "？", "！", "．", "।", "؟", "۔"])
def test_a_causal_prompt_may_end_in_any_mark_that_ends_a_sentence(mark):
    subject = with_tokenizer(CAUSAL_TOKENIZERS["GPT-2"](), masked=False)
    bare = subject.encode(Prompt("", "", "the capital of france is [Y]", "paris"))
    for text in (f"the capital of france is [Y]{mark}", f"the capital of france is [Y] {mark} "):
        encoded = subject.encode(Prompt("", "", text, "paris"))
        assert (encoded.input_ids, encoded.targets) == (bare.input_ids, bare.targets)


@pytest.mark.parametrize("name", ["pocket-bert", "smollm2-135m"])
def test_the_bundled_models_read_every_fact_as_when_their_atlases_were_made(name):
    """The answer was cut alone, after a space, and each of its tokens had a mask with spaces around it."""
    try:
        subject = load_subject(name, device="cpu")
    except ModelError as error:
        pytest.skip(f"{name} could not be had: {error}")
    dataset = load_dataset("starter")
    cut, masked = subject.tokenizer.encode, subject.family.kind == "masked"
    for template in dataset.templates:
        if not (masked or template.ends_with_object):
            continue
        for fact in dataset.facts_of(template.relation_id):
            prompt = template.prompt(fact)
            encoded = subject.encode(prompt)
            targets = cut(f" {fact.object}", add_special_tokens=False)
            assert list(encoded.targets) == targets
            if masked:
                masks = " ".join(["[MASK]"] * len(targets))
                assert list(encoded.input_ids) == cut(prompt.text.replace("[Y]", masks))
            else:
                assert list(encoded.input_ids) == cut(prompt.before.rstrip()) + targets[:-1]
